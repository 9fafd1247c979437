// Attention's backward pass for one item of work; included after attention_scores_impl.h.
//
// Everything is formed the other way round, keys down and queries across: weights and the scores' gradients of a few keys are
// then left operands of the products that give the gradients of values and keys, and come out of the registers in that order.
// The query's gradient is summed as its transpose, [head_dim][queries of a block].

// What the tiles of one block of queries and one block of keys share.
template <typename Op>
struct PairBlock {
  using A = typename Op::A;
  using E = typename Op::E;
  A factor;                // of the products, for a score as a power of two
  const A* lse;            // [kQueryBlock], as a power of two; +infinity where a query takes no part
  const A* delta;          // [kQueryBlock]
  const A* bias;           // [keys][kQueryBlock]; null without a mask
  const A* kept;           // [keys][kQueryBlock], 0 or 1 / (1 - dropout_p); null without dropout
  A* probability;          // [kTileRows][kQueryBlock], before dropout
  A* product;              // [kTileRows][kQueryBlock], gradients of the scores; null where nobody asks for them
  E* weights;              // [kTileRows][kQueryBlock], after dropout
  E* rows;                 // [kTileRows][kQueryBlock], gradients of the scores
  E* pairs;                // the same with kStep keys side by side, [keys / kStep][kQueryBlock][kStep]; unused if kStep is 1
};

// Weights of kRows keys (numbers key, key + 1, ...) and kVectors vectors of queries from column `first` on. `diagonal` is the
// number of the first key less that of the block's first query: with the causal order, key r sees columns >= diagonal + r.
template <typename Op, int kRows, int kVectors>
static void probability_tile(
    const typename Op::E* key, int64_t key_stride, const typename Op::E* query, int64_t query_stride, int64_t k,
    const PairBlock<Op>& block, int64_t row, int64_t first, int64_t diagonal) {
  using A = typename Op::A;
  Vector<A> sum[kRows][kVectors];
  tile_product<Op, kRows, kVectors>(key, key_stride, query, query_stride, k, sum);
  const Vector<A> factor = splat(block.factor);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int64_t column = first + v * kLanes<A>;
      Vector<A> score = sum[r][v] * factor;
      if (block.bias != nullptr) score += load(block.bias + (row + r) * kQueryBlock + column);
      Vector<A> weight = power_of_two<Op::kDegree>(score - load(block.lse + column));
      if (diagonal + r > column) {
        weight = load(kLaneNumbers<A>) < splat(static_cast<A>(diagonal + r - column)) ? Vector<A>{} : weight;
      }
      store(block.probability + r * kQueryBlock + column, weight);
      if (block.kept != nullptr) weight *= load(block.kept + (row + r) * kQueryBlock + column);
      Op::store_row(block.weights + r * kQueryBlock + column, weight);
    }
  }
}

// Gradients of the scores of the same tile, before `scale`.
template <typename Op, int kRows, int kVectors>
static void score_gradient_tile(
    const typename Op::E* value, int64_t value_stride, const typename Op::E* grad, int64_t grad_stride, int64_t k,
    const PairBlock<Op>& block, int64_t row, int64_t first, int64_t) {
  using A = typename Op::A;
  Vector<A> sum[kRows][kVectors];
  tile_product<Op, kRows, kVectors>(value, value_stride, grad, grad_stride, k, sum);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int64_t column = first + v * kLanes<A>;
      if (block.kept != nullptr) sum[r][v] *= load(block.kept + (row + r) * kQueryBlock + column);
      sum[r][v] = (sum[r][v] - load(block.delta + column)) * load(block.probability + r * kQueryBlock + column);
      if (block.product != nullptr) store(block.product + r * kQueryBlock + column, sum[r][v]);
      Op::store_row(block.rows + r * kQueryBlock + column, sum[r][v]);
    }
  }
  if (Op::kStep == 1) return;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Op::store_pair(block.pairs + ((row + r) / 2 * kQueryBlock + first + v * kLanes<A>) * 2, sum[r][v],
                     r + 1 < kRows ? sum[r + 1 < kRows ? r + 1 : r][v] : Vector<A>{});
    }
  }
}

template <typename Op>
using PairTile = void (*)(
    const typename Op::E*, int64_t, const typename Op::E*, int64_t, int64_t, const PairBlock<Op>&, int64_t, int64_t, int64_t);
GENLAB_TILE_TABLE(probability_tile, PairTile)
GENLAB_TILE_TABLE(score_gradient_tile, PairTile)

template <typename Op, typename T>
struct Backward {
  using A = typename Op::A;
  using E = typename Op::E;

  const AttentionBackwardParams& params;
  const AttentionProblem& p;
  int64_t key_columns, value_columns;  // in vectors
  int64_t key_k, value_k;              // in kStep
  int64_t group, blocks;               // query heads of a key head; blocks of queries
  int64_t chunk;                       // keys of a chunk, in kStep
  int64_t transposed;                  // row length of key_transposed, no power of two: rows must not share cache sets
  E *key_rows, *value_rows, *key_transposed;                         // of a chunk
  E *query_panels, *grad_panels, *query_packed, *grad_packed;        // of a block of queries
  E *weights, *score_rows, *score_pairs;                             // of a block of both
  A *probability, *product, *bias, *kept, *lse, *delta, *line;
  A *grad_key, *grad_value, *grad_query, *few;
  int64_t bytes;

  Backward(const AttentionBackwardParams& given, const AttentionBackwardPlan& plan, void* scratch)
      : params(given), p(given.problem) {
    key_columns = round_up(p.head_dim, kLanes<A>), value_columns = round_up(p.value_dim, kLanes<A>);
    key_k = round_up(p.head_dim, Op::kStep), value_k = round_up(p.value_dim, Op::kStep);
    group = p.heads / p.kv_heads;
    blocks = ceil_blocks(p.queries, kQueryBlock);
    chunk = round_up(least(p.keys, kKeyChunk), 2);
    transposed = chunk + 32;
    Arena arena{static_cast<char*>(scratch)};
    key_rows = arena.take<E>(chunk * key_k);
    value_rows = arena.take<E>(chunk * value_k);
    key_transposed = arena.take<E>(p.head_dim * transposed);
    query_panels = arena.take<E>(kQueryBlock * key_k);
    grad_panels = arena.take<E>(kQueryBlock * value_k);
    query_packed = arena.take<E>(kQueryBlock * key_columns);
    grad_packed = arena.take<E>(kQueryBlock * value_columns);
    weights = arena.take<E>(kTileRows * kQueryBlock);
    score_rows = arena.take<E>((kKeyBlock + kTileRows) * kQueryBlock);
    score_pairs = arena.take<E>((kKeyBlock + kTileRows) * kQueryBlock);
    probability = arena.take<A>(kTileRows * kQueryBlock);
    product = arena.take<A>(params.grad_mask != nullptr ? kTileRows * kQueryBlock : 0);
    bias = arena.take<A>(p.mask_kind != AttentionMask::kNone ? kKeyBlock * kQueryBlock : 0);
    kept = arena.take<A>(p.dropout_p > 0 ? kKeyBlock * kQueryBlock : 0);
    lse = arena.take<A>(kQueryBlock);
    delta = arena.take<A>(kQueryBlock);
    line = arena.take<A>(kKeyBlock);
    few = arena.take<A>(most(key_columns, value_columns));
    grad_key = arena.take<A>(chunk * key_columns);
    grad_value = arena.take<A>(chunk * value_columns);
    const bool one_block = p.keys <= kKeyChunk;  // a block of the query's gradient is done after its only chunk
    grad_query = arena.take<A>(plan.shares > 1 ? 0 : (one_block ? 1 : group * blocks) * p.head_dim * kQueryBlock);
    bytes = arena.used;
  }

  void run(const AttentionBackwardPlan& plan, int64_t item) {
    const int64_t pair = item / plan.shares, batch = pair / p.kv_heads, kv_head = pair % p.kv_heads;
    const int64_t share = item % plan.shares, begin = share * plan.keys, end = least(begin + plan.keys, p.keys);
    const int64_t block_size = p.head_dim * kQueryBlock;
    const bool one_block = plan.shares == 1 && p.keys <= kKeyChunk;
    const KeyRange range = visible_keys(p, batch);
    if (plan.shares == 1 && !one_block) fill(grad_query, group * blocks * block_size);
    int64_t first = begin;
    do {
      const int64_t count = least(kKeyChunk, end - first);
      const Keys keys = prepare(batch, kv_head, first, count);
      for (int64_t h = 0; h < group; ++h) {
        const int64_t head = kv_head * group + h;
        for (int64_t b = 0; b < blocks; ++b) {
          A* sums = grad_query + (one_block ? 0 : (h * blocks + b) * block_size);
          if (plan.shares > 1) {
            const int64_t place = ((batch * p.heads + head) * plan.shares + share) * blocks + b;
            sums = static_cast<A*>(plan.partial) + place * block_size;
          }
          if (one_block || (plan.shares > 1 && first == begin)) fill(sums, block_size);
          query_block(keys, head, b, range, sums);
          if (plan.shares == 1 && first + count >= end) store_query_gradient(batch, head, b, sums);
        }
      }
      store_key_gradients(keys);
      first += count;
    } while (first < end);
  }

  struct Keys {
    int64_t batch, kv_head, first, count;
    const E* key;
    const E* value;
    int64_t key_stride, value_stride;
  };

  static void fill(A* data, int64_t count) {
    for (int64_t i = 0; i < count; ++i) data[i] = A(0);
  }

  Keys prepare(int64_t batch, int64_t kv_head, int64_t first, int64_t count) {
    Keys keys{batch, kv_head, first, count, nullptr, nullptr, 0, 0};
    const T* const key = rows_of<T>(params.key, batch, kv_head) + first * params.key.row_stride;
    const T* const value = rows_of<T>(params.value, batch, kv_head) + first * params.value.row_stride;
    keys.key = left_rows<Op>(key, params.key.row_stride, count, p.head_dim, key_rows, &keys.key_stride);
    keys.value = left_rows<Op>(value, params.value.row_stride, count, p.value_dim, value_rows, &keys.value_stride);
    transpose_rows<Op>(key, params.key.row_stride, count, p.head_dim, key_transposed, transposed);
    fill(grad_key, chunk * key_columns);
    fill(grad_value, chunk * value_columns);
    return keys;
  }

  // One block of queries beside one chunk of keys.
  void query_block(const Keys& keys, int64_t head, int64_t b, const KeyRange& range, A* sums) {
    const int64_t query = b * kQueryBlock, count = least(kQueryBlock, p.queries - query);
    int64_t begin = most(0, range.begin - keys.first), end = least(keys.count, range.end - keys.first);
    if (p.causal) end = least(end, query + count - keys.first);
    begin = begin / kKeyBlock * kKeyBlock;
    const bool masked = range.masked || range.begin > keys.first || range.end < keys.first + keys.count;
    for (int64_t i = 0; params.grad_mask != nullptr && i < count; ++i) {
      fill(mask_gradient(keys.batch, head, query + i) + keys.first, keys.count);
    }
    if (begin >= end) return;
    pack_queries(keys.batch, head, query, count);
    const int64_t padded = round_up(count, kLanes<A>);
    for (int64_t j = begin; j < end; j += kKeyBlock) {
      const int64_t rows = least(kKeyBlock, end - j);
      key_block(keys, head, query, count, padded, j, rows, masked && p.mask_kind != AttentionMask::kNone, sums);
    }
  }

  A* mask_gradient(int64_t batch, int64_t head, int64_t query) const {
    return static_cast<A*>(params.grad_mask) + ((batch * p.heads + head) * p.queries + query) * p.keys;
  }

  void pack_queries(int64_t batch, int64_t head, int64_t query, int64_t count) {
    const int64_t padded = round_up(count, kLanes<A>);
    const T* const q = rows_of<T>(params.query, batch, head) + query * params.query.row_stride;
    const T* const g = rows_of<T>(params.grad_output, batch, head) + query * params.grad_output.row_stride;
    const T* const o = rows_of<T>(params.output, batch, head) + query * params.output.row_stride;
    pack_columns<Op>(q, params.query.row_stride, count, p.head_dim, padded, query_panels);
    pack_rows<Op>(q, params.query.row_stride, count, p.head_dim, key_columns, query_packed);
    pack_columns<Op>(g, params.grad_output.row_stride, count, p.value_dim, padded, grad_panels);
    pack_rows<Op>(g, params.grad_output.row_stride, count, p.value_dim, value_columns, grad_packed);
    const A* const saved = static_cast<const A*>(params.lse) + (batch * p.heads + head) * p.queries + query;
    const A none = std::numeric_limits<A>::infinity();
    for (int64_t i = 0; i < padded; ++i) {
      lse[i] = i >= count || saved[i] == -none ? none : saved[i] * static_cast<A>(kLog2E);
      delta[i] = A(0);
      if (i < count) delta[i] = dot(g + i * params.grad_output.row_stride, o + i * params.output.row_stride);
    }
  }

  A dot(const T* a, const T* b) const {
    Vector<A> sum = {};
    for (int64_t c = 0; c < p.value_dim; c += kLanes<A>) {
      const int64_t rest = p.value_dim - c < kLanes<A> ? p.value_dim - c : 0;
      sum += load_part(a + c, rest) * load_part(b + c, rest);
    }
    return lane_sum<A>(sum);
  }

  void key_block(
      const Keys& keys, int64_t head, int64_t query, int64_t count, int64_t padded, int64_t first, int64_t rows, bool masked,
      A* sums) {
    PairBlock<Op> block{};
    block.factor = static_cast<A>(p.scale * kLog2E);
    block.lse = lse, block.delta = delta, block.probability = probability, block.weights = weights;
    block.product = params.grad_mask != nullptr ? product : nullptr;
    block.pairs = score_pairs;
    if (masked) block.bias = transposed_mask(keys, head, query, count, padded, first, rows);
    if (p.dropout_p > 0) block.kept = transposed_dropout(keys, head, query, count, padded, first, rows);
    for (int64_t r = 0; r < rows; r += kTileRows) {
      few_keys(block, keys, head, query, count, padded, first, r, least(kTileRows, rows - r));
    }
    if (params.grad_query.data != nullptr) add_query_gradient(keys, query, padded, first, rows, sums);
  }

  // Columns of the block that see key number `key` or later ones, from the panel on in which the first lies.
  int64_t first_column(int64_t key, int64_t query) const {
    return p.causal && key > query ? (key - query) / kPanel<A> * kPanel<A> : 0;
  }

  void few_keys(
      PairBlock<Op>& block, const Keys& keys, int64_t head, int64_t query, int64_t count, int64_t padded, int64_t first,
      int64_t r, int64_t rows) {
    const int64_t key = keys.first + first + r, diagonal = p.causal ? key - query : -kQueryBlock - kTileRows;
    const E* const left = keys.key + (first + r) * keys.key_stride;
    const E* const value = keys.value + (first + r) * keys.value_stride;
    block.rows = score_rows + r * kQueryBlock;
    const int64_t start = first_column(key, query);
    for (int64_t c = start; c < padded; c += kPanel<A>) {
      const int64_t width = panel_columns<A>(padded, c);
      probability_tile_of<Op>(rows, width / kLanes<A>)(
          left, keys.key_stride, query_panels + c * key_k, width * Op::kStep, key_k, block, r, c, diagonal);
      score_gradient_tile_of<Op>(rows, width / kLanes<A>)(
          value, keys.value_stride, grad_panels + c * value_k, width * Op::kStep, value_k, block, r, c, diagonal);
    }
    const int64_t k = round_up(count, Op::kStep);
    if (params.grad_value.data != nullptr) {
      multiply_panels<Op>(rows, value_columns, weights, kQueryBlock, grad_packed, k, start, k - start,
                          grad_value + (first + r) * value_columns, value_columns, true);
    }
    if (params.grad_key.data != nullptr) {
      multiply_panels<Op>(rows, key_columns, block.rows, kQueryBlock, query_packed, k, start, k - start,
                          grad_key + (first + r) * key_columns, key_columns, true);
    }
    if (params.grad_mask == nullptr) return;
    for (int64_t i = start; i < count; ++i) {
      A* const to = mask_gradient(keys.batch, head, query + i) + key;
      for (int64_t j = 0; j < rows; ++j) to[j] = product[j * kQueryBlock + i];
    }
  }

  void add_query_gradient(const Keys& keys, int64_t query, int64_t padded, int64_t first, int64_t rows, A* sums) {
    const E* const right = Op::kStep == 1 ? score_rows : score_pairs;
    for (int64_t c = 0; c < padded; c += kPanel<A>) {
      const int64_t width = panel_columns<A>(padded, c);
      int64_t k = rows;
      if (p.causal) k = least(k, seen_keys(keys.first + first, query, c, width));
      if (k <= 0) continue;
      for (int64_t d = 0; d < p.head_dim; d += kTileRows) {
        multiply_tile_of<Op>(least(kTileRows, p.head_dim - d), width / kLanes<A>)(
            key_transposed + d * transposed + first, transposed, right + c * Op::kStep, kQueryBlock * Op::kStep,
            round_up(k, Op::kStep), sums + d * kQueryBlock + c, kQueryBlock, true);
      }
    }
  }

  // Keys of a block for which some tile of this panel of queries was formed: a tile is a few keys, and formed whole.
  static int64_t seen_keys(int64_t key, int64_t query, int64_t column, int64_t width) {
    const int64_t last = query + column + width - 1;  // the last query of the panel
    return last < key ? 0 : ((last - key) / kTileRows + 1) * kTileRows;
  }

  const A* transposed_mask(
      const Keys& keys, int64_t head, int64_t query, int64_t count, int64_t padded, int64_t first, int64_t rows) {
    const bool one_mask = p.mask_row_stride == 0;
    for (int64_t i = 0; i < padded; ++i) {
      if (i < count && (i == 0 || !one_mask)) {
        read_mask(p, keys.batch, head, query + i, keys.first + first, rows, line);
      }
      for (int64_t j = 0; j < rows; ++j) bias[j * kQueryBlock + i] = i < count ? line[j] : A(0);
    }
    return bias;
  }

  const A* transposed_dropout(
      const Keys& keys, int64_t head, int64_t query, int64_t count, int64_t padded, int64_t first, int64_t rows) {
    const A factor = static_cast<A>(dropout_scale(p.dropout_p));
    const int64_t place = (keys.batch * p.heads + head) * p.queries + query;
    for (int64_t i = 0; i < padded; ++i) {
      if (i < count) read_dropout(p, place + i, keys.first + first, rows, line);
      for (int64_t j = 0; j < rows; ++j) kept[j * kQueryBlock + i] = i < count ? line[j] * factor : A(0);
    }
    return kept;
  }

  void store_rows(const AttentionTensor& tensor, const Keys& keys, const A* sums, int64_t columns, int64_t padded, A factor) {
    if (tensor.data == nullptr) return;
    T* const rows = rows_of<T>(tensor, keys.batch, keys.kv_head) + keys.first * tensor.row_stride;
    for (int64_t j = 0; j < keys.count; ++j) {
      for (int64_t c = 0; c < columns; c += kLanes<A>) {
        const int64_t rest = columns - c < kLanes<A> ? columns - c : 0;
        store_part(rows + j * tensor.row_stride + c, load(sums + j * padded + c) * splat(factor), rest);
      }
    }
  }

  void store_key_gradients(const Keys& keys) {
    store_rows(params.grad_key, keys, grad_key, p.head_dim, key_columns, static_cast<A>(p.scale));
    store_rows(params.grad_value, keys, grad_value, p.value_dim, value_columns, A(1));
  }

  // From [head_dim][kQueryBlock] to rows.
  void store_query_gradient(int64_t batch, int64_t head, int64_t b, const A* sums) {
    if (params.grad_query.data == nullptr) return;
    const int64_t stride = params.grad_query.row_stride, query = b * kQueryBlock;
    T* const rows = rows_of<T>(params.grad_query, batch, head) + query * stride;
    const A scale = static_cast<A>(p.scale);
    for (int64_t i = 0; i < least(kQueryBlock, p.queries - query); ++i) {
      for (int64_t d = 0; d < p.head_dim; ++d) few[d] = sums[d * kQueryBlock + i] * scale;
      for (int64_t d = 0; d < p.head_dim; d += kLanes<A>) {
        const int64_t rest = p.head_dim - d < kLanes<A> ? p.head_dim - d : 0;
        store_part(rows + i * stride + d, load_part(few + d, rest), rest);
      }
    }
  }

  void merge(const AttentionBackwardPlan& plan, int64_t item) {
    const int64_t block_size = p.head_dim * kQueryBlock;
    A* const sums = static_cast<A*>(plan.partial) + item * plan.shares * blocks * block_size;
    for (int64_t b = 0; b < blocks; ++b) {
      A* const block = sums + b * block_size;
      for (int64_t s = 1; s < plan.shares; ++s) {
        const A* const other = block + s * blocks * block_size;
        for (int64_t i = 0; i < block_size; ++i) block[i] += other[i];
      }
      store_query_gradient(item / p.heads, item % p.heads, b, block);
    }
  }
};

template <typename Op, typename T>
static int64_t backward_bytes(const AttentionBackwardParams& params, const AttentionBackwardPlan& plan) {
  return Backward<Op, T>(params, plan, nullptr).bytes;
}

template <typename Op, typename T>
static void backward_item(
    const AttentionBackwardParams& params, const AttentionBackwardPlan& plan, int64_t item, void* scratch) {
  Backward<Op, T>(params, plan, scratch).run(plan, item);
}

template <typename Op, typename T>
static void merge_item(
    const AttentionBackwardParams& params, const AttentionBackwardPlan& plan, int64_t item, void* scratch) {
  Backward<Op, T>(params, plan, scratch).merge(plan, item);
}

template <typename Op, typename T>
static constexpr AttentionTiles attention_tiles() {
  return {forward_bytes<Op, T>, forward_item<Op, T>, backward_bytes<Op, T>, backward_item<Op, T>, merge_item<Op, T>};
}

// Attention's forward pass for one item of work; included after attention_scores_impl.h.
//
// Keys come in chunks whose packed keys and values stay in the second cache. For each few queries the scores of a chunk are
// formed, their largest is subtracted, and their exponentials multiply the values; between chunks a query keeps its largest
// score, its sum and its output so far (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax").

template <typename Op, typename T>
struct Forward {
  using A = typename Op::A;
  using E = typename Op::E;

  static constexpr bool kInPlace = std::is_same<A, E>::value;  // weights take the place of their scores

  const AttentionParams& params;
  const AttentionProblem& p;
  int64_t key_columns, value_columns;  // padded: to kStep, to vectors
  int64_t group;                       // query heads of a key head
  int64_t score_stride;
  bool several;  // chunks of keys
  E *keys, *values, *queries, *weights;
  A *scores, *bias, *kept, *largest, *sums, *outputs;
  int64_t bytes;

  Forward(const AttentionParams& given, const AttentionPlan& plan, void* scratch) : params(given), p(given.problem) {
    key_columns = round_up(p.head_dim, Op::kStep);
    value_columns = round_up(p.value_dim, kLanes<A>);
    group = p.heads / p.kv_heads;
    several = p.keys > kKeyChunk;
    score_stride = round_up(least(p.keys, kKeyChunk), 64);
    const int64_t rows = several ? group * plan.queries : kTileRows;
    Arena arena{static_cast<char*>(scratch)};
    keys = arena.take<E>(key_columns * score_stride);
    values = arena.take<E>(score_stride * value_columns);
    queries = arena.take<E>(kTileRows * key_columns);
    scores = arena.take<A>(kTileRows * score_stride);
    weights = kInPlace ? reinterpret_cast<E*>(scores) : arena.take<E>(kTileRows * score_stride);
    bias = arena.take<A>(p.mask_kind == AttentionMask::kNone ? 0 : kTileRows * score_stride);
    kept = arena.take<A>(p.dropout_p > 0 ? score_stride : 0);
    largest = arena.take<A>(rows);
    sums = arena.take<A>(rows);
    outputs = arena.take<A>(rows * value_columns);
    bytes = arena.used;
  }

  void run(const AttentionPlan& plan, int64_t item) {
    const int64_t pair = item / plan.chunks, batch = pair / p.kv_heads, kv_head = pair % p.kv_heads;
    const int64_t begin = item % plan.chunks * plan.queries, end = least(begin + plan.queries, p.queries);
    KeyRange range = visible_keys(p, batch);
    if (p.causal) range.end = least(range.end, end);
    if (range.begin >= range.end) range.begin = range.end = 0;
    const T* const key = rows_of<T>(params.key, batch, kv_head);
    const T* const value = rows_of<T>(params.value, batch, kv_head);
    int64_t first = range.begin;
    do {
      const int64_t count = least(kKeyChunk, range.end - first);
      const bool is_last = first + count >= range.end;
      pack_columns<Op>(key + first * params.key.row_stride, params.key.row_stride, count, p.head_dim,
                       round_up(count, kLanes<A>), keys);
      pack_rows<Op>(value + first * params.value.row_stride, params.value.row_stride, count, p.value_dim, value_columns,
                    values);
      for (int64_t h = 0; h < group; ++h) {
        const int64_t head = kv_head * group + h;
        const bool one_mask = range.masked && p.mask_row_stride == 0;
        if (one_mask) read_mask(p, batch, head, 0, first, count, bias);
        for (int64_t i = begin; i < end; i += kTileRows) {
          const int64_t rows = least(kTileRows, end - i), slot = several ? h * plan.queries + i - begin : 0;
          const Rows at = {batch, head, i, rows, slot, first, count, first == range.begin, is_last, range.masked, one_mask};
          step(at);
        }
      }
      first += count;
    } while (first < range.end);
  }

  // A few queries beside one chunk of keys.
  struct Rows {
    int64_t batch, head, query, rows, slot, first_key, keys;
    bool is_first, is_last, masked, one_mask;
  };

  void step(const Rows& at) {
    int64_t seen = at.keys;  // keys of the chunk that one of the rows can see
    if (p.causal) seen = least(seen, at.query + at.rows - at.first_key);
    if (seen <= 0 && !at.is_first && !at.is_last) return;
    const int64_t padded = seen <= 0 ? 0 : round_up(seen, kLanes<A>);
    if (padded > 0) form_scores(at, padded);
    const bool scaled = at.masked || p.scale <= 0;
    if (scaled && padded > 0) scale_scores(at, padded);
    const A factor = scaled ? A(1) : static_cast<A>(p.scale * kLog2E);
    bool rescale = false;
    A shrink[kTileRows];
    for (int64_t r = 0; r < at.rows; ++r) {
      shrink[r] = exponentials(at, r, padded, factor);
      rescale |= shrink[r] != A(1);
    }
    A* const output = outputs + at.slot * value_columns;
    if (!at.is_first && rescale) {
      for (int64_t r = 0; r < at.rows; ++r) {
        for (int64_t c = 0; c < value_columns; c += kLanes<A>) {
          store(output + r * value_columns + c, load(output + r * value_columns + c) * shrink[r]);
        }
      }
    }
    multiply_panels<Op>(at.rows, value_columns, weights, score_stride, values, round_up(at.keys, Op::kStep), 0,
                        least(padded, round_up(at.keys, Op::kStep)), output, value_columns, !at.is_first);
    if (at.is_last) finish(at, output);
  }

  void form_scores(const Rows& at, int64_t padded) {
    const T* const rows = rows_of<T>(params.query, at.batch, at.head) + at.query * params.query.row_stride;
    int64_t stride;
    const E* const left = left_rows<Op>(rows, params.query.row_stride, at.rows, p.head_dim, queries, &stride);
    const int64_t packed = round_up(at.keys, kLanes<A>);
    for (int64_t c = 0; c < padded; c += kPanel<A>) {
      const int64_t width = panel_columns<A>(packed, c), used = least(width, padded - c);
      multiply_tile_of<Op>(at.rows, used / kLanes<A>)(
          left, stride, keys + c * key_columns, width * Op::kStep, key_columns, scores + c, score_stride, false);
    }
    for (int64_t r = 0; r < at.rows; ++r) {
      const int64_t valid = p.causal ? least(at.keys, most(0, at.query + r + 1 - at.first_key)) : at.keys;
      for (int64_t j = valid; j < padded; ++j) scores[r * score_stride + j] = -std::numeric_limits<A>::infinity();
    }
  }

  // Scale and mask in place, for scores that are not only to be multiplied by a positive factor.
  void scale_scores(const Rows& at, int64_t padded) {
    const Vector<A> factor = splat(static_cast<A>(p.scale * kLog2E));
    for (int64_t r = 0; r < at.rows; ++r) {
      A* const row = scores + r * score_stride;
      A* const added = bias + (at.one_mask ? 0 : r * score_stride);
      if (at.masked) {
        if (!at.one_mask) {
          read_mask(p, at.batch, at.head, at.query + r, at.first_key, least(at.keys, padded), added);
        }
        for (int64_t j = at.keys; j < padded; ++j) added[j] = A(0);
      }
      // The scores past a row's last key are -infinity, which a factor <= 0 must not touch.
      const int64_t valid = p.causal ? least(at.keys, most(0, at.query + r + 1 - at.first_key)) : at.keys;
      for (int64_t j = 0; j < padded; j += kLanes<A>) {
        Vector<A> value = load(row + j) * factor;
        if (at.masked) value += load(added + j);
        store(row + j, value);
      }
      for (int64_t j = valid; j < padded; ++j) row[j] = -std::numeric_limits<A>::infinity();
    }
  }

  // Turns a row's scores into weights, relative to the largest so far; returns what earlier sums are to be multiplied by.
  A exponentials(const Rows& at, int64_t r, int64_t padded, A factor) {
    A* const row = scores + r * score_stride;
    E* const to = weights + r * score_stride;
    const A top = largest_of(row, padded);
    const A before = at.is_first ? -std::numeric_limits<A>::infinity() : largest[at.slot + r];
    const A now = top * factor > before ? top * factor : before;
    const bool empty = now == -std::numeric_limits<A>::infinity();
    const Vector<A> shift = splat(empty ? A(0) : now), scale = splat(factor);
    const bool drops = p.dropout_p > 0;
    if (drops) {
      const int64_t place = (at.batch * p.heads + at.head) * p.queries + at.query + r;
      read_dropout(p, place, at.first_key, padded, kept);
    }
    const Vector<A> total = drops ? weigh<true>(row, to, padded, scale, shift) : weigh<false>(row, to, padded, scale, shift);
    const A shrink = at.is_first || now == before ? A(1) : power_of_two<Op::kDegree>(splat(before - now))[0];
    largest[at.slot + r] = now;
    sums[at.slot + r] = (at.is_first ? A(0) : sums[at.slot + r] * shrink) + lane_sum<A>(total);
    return shrink;
  }

  // The weights of a row's scores, two vectors at once, and their sum before dropout.
  template <bool kDrops>
  Vector<A> weigh(const A* row, E* to, int64_t count, Vector<A> scale, Vector<A> shift) const {
    constexpr int64_t kTwo = 2 * kLanes<A>;
    Vector<A> first_sum = {}, second_sum = {};
    int64_t j = 0;
#pragma GCC unroll 2
    for (; j + kTwo <= count; j += kTwo) {
      Vector<A> first = power_of_two<Op::kDegree>(load(row + j) * scale - shift);
      Vector<A> second = power_of_two<Op::kDegree>(load(row + j + kLanes<A>) * scale - shift);
      first_sum += first;
      second_sum += second;
      if (kDrops) {
        first *= load(kept + j);
        second *= load(kept + j + kLanes<A>);
      }
      Op::store_two(to + j, first, second);
    }
    if (j < count) {
      Vector<A> last = power_of_two<Op::kDegree>(load(row + j) * scale - shift);
      first_sum += last;
      if (kDrops) last *= load(kept + j);
      Op::store_row(to + j, last);
    }
    return first_sum + second_sum;
  }

  // Of a row of scores, -infinity of none; NaN may be passed over. Four at once: each waits for the one before it.
  static A largest_of(const A* row, int64_t count) {
    const Vector<A> none = splat(-std::numeric_limits<A>::infinity());
    Vector<A> top[4] = {none, none, none, none};
    int64_t j = 0;
    for (; j + 4 * kLanes<A> <= count; j += 4 * kLanes<A>) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) top[v] = larger(load(row + j + v * kLanes<A>), top[v]);
    }
    for (; j < count; j += kLanes<A>) top[0] = larger(load(row + j), top[0]);
    const Vector<A> all = larger(larger(top[0], top[1]), larger(top[2], top[3]));
    return largest_lane<A>(all);
  }

  void finish(const Rows& at, const A* output) {
    const A dropout = static_cast<A>(dropout_scale(p.dropout_p));
    A* const lse = static_cast<A*>(params.lse) + (at.batch * p.heads + at.head) * p.queries;
    T* const rows = rows_of<T>(params.output, at.batch, at.head) + at.query * params.output.row_stride;
    for (int64_t r = 0; r < at.rows; ++r) {
      const A top = largest[at.slot + r], sum = sums[at.slot + r];
      const bool empty = sum == A(0);  // and not NaN, which is to reach the output
      const Vector<A> factor = splat(empty ? A(0) : dropout / sum);
      lse[at.query + r] = empty ? -std::numeric_limits<A>::infinity() : top / static_cast<A>(kLog2E) + std::log(sum);
      for (int64_t c = 0; c < p.value_dim; c += kLanes<A>) {
        const int64_t rest = p.value_dim - c;
        store_part(rows + r * params.output.row_stride + c, load(output + r * value_columns + c) * factor,
                   rest < kLanes<A> ? rest : 0);
      }
    }
  }
};

template <typename Op, typename T>
static int64_t forward_bytes(const AttentionParams& params, const AttentionPlan& plan) {
  return Forward<Op, T>(params, plan, nullptr).bytes;
}

template <typename Op, typename T>
static void forward_item(const AttentionParams& params, const AttentionPlan& plan, int64_t item, void* scratch) {
  Forward<Op, T>(params, plan, scratch).run(plan, item);
}

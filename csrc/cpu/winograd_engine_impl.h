// The Winograd engine: tiles of 4x4 outputs through three stages. Samples are transformed into `points` of [tile][depth],
// where depth runs over phases and channels; each point is a matrix product with the transformed weights; products are
// transformed back while a block of 42 tiles by 32 channels is still in the second-level cache.
// No include guard and no includes: winograd_avx512.cpp includes it inside its namespace, after winograd_tiles_impl.h.

constexpr int64_t kTilesAtOnce = 42;         // tiles of one block: three register blocks
constexpr int64_t kManyTiles = 256;          // from here on every thread gets blocks enough of its own
constexpr int64_t kSharedFloats = 4 << 20;   // up to 16 MiB of transformed samples, and of weights, are held for all threads
constexpr int64_t kGradientTiles = 512;      // tiles summed in registers before the weight gradient is updated
constexpr int64_t kMaxPieces = 4;

// Equal groups of at most kTilesAtOnce tiles; a multiple of 4, so that small numbers of threads get the same share.
inline int64_t tile_groups(int64_t tiles) { return ceil_divide(ceil_divide(tiles, kTilesAtOnce), 4) * 4; }

// One convolution cut into tiles and blocks, with what all threads share.
template <int kTaps>
struct Job {
  static constexpr int64_t kCount = kPoints<kTaps> * kPoints<kTaps>;
  const Convolution& convolution;
  const Target& target;
  Grid grid;
  int64_t depth;  // of the matrix products
  int64_t row;    // floats from tile to tile; not a power of two, or the rows of a register block would share a cache set
  int64_t blocks;
  int64_t weight_floats;  // of a block
  const float* zeros;

  Job(const Convolution& convolution, const Target& target)
      : convolution(convolution),
        target(target),
        grid(target.image.n, target.rows, target.columns),
        depth(static_cast<int64_t>(convolution.phases.size()) * convolution.source.channels),
        row(depth + kLanes),
        blocks(ceil_divide(target.image.channels, kBlock)),
        weight_floats(kCount * depth * kBlock),
        zeros(nullptr) {}

  // Floats between the points of a group of tiles: odd in vectors, for the caches' sake again.
  int64_t point_stride(int64_t group) const { return (group * row / kLanes | 1) * kLanes; }

  void transform_weights(int64_t block, float* to) const {
    transform_weights_of<kTaps>(convolution, target.image.channels, block, to, depth * kBlock);
  }

  // Tiles [begin, end) of the group that starts at tile `first`.
  void transform_samples(int64_t first, int64_t begin, int64_t end, float* to, int64_t point) const {
    transform_samples_of<kTaps>(convolution, grid, first, begin, end, zeros, PointTarget{to, point, kBlock}, row);
  }

  // Results of `count` <= kTilesAtOnce tiles from `first`, whose samples start at `samples`, in the channels of `block`.
  // products: room for kCount * kTilesAtOnce * kBlock floats.
  void multiply_and_store(
      int64_t first, int64_t count, int64_t block, const float* samples, int64_t point, const float* weights,
      float* products) const {
    const int64_t vectors = std::min(kBlock, target.image.channels - block * kBlock) / kLanes;
    const int64_t panels = ceil_divide(count, kMaxRows);
    for (int64_t p = 0; p < kCount; ++p) {
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t start = count * panel / panels, rows = count * (panel + 1) / panels - start;
        const MultiplyRows multiply = vectors == 2 ? multiply_rows_of<2>(rows) : multiply_rows_of<1>(rows);
        multiply(depth, samples + p * point + start * row, row, weights + p * depth * kBlock,
                 products + (p * count + start) * kBlock);
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      const Tile tile(grid, first + t);
      for (int64_t v = 0; v < vectors; ++v) {
        store_tile<kTaps>(products + t * kBlock + v * kLanes, count, target, tile, block * kBlock + v * kLanes);
      }
    }
  }
};

// The items of up to kMaxPieces pieces as one parallel loop: body(piece, item) for item < count(piece).
template <typename Count, typename Body>
void for_items(int64_t pieces, const Count& count, const ParallelFor& parallel_for, const Body& body) {
  int64_t firsts[kMaxPieces + 1] = {};
  for (int64_t i = 0; i < pieces; ++i) firsts[i + 1] = firsts[i] + count(i);
  parallel_for(firsts[pieces], [&](int64_t begin, int64_t end) {
    int64_t piece = 0;
    for (int64_t index = begin; index < end; ++index) {
      while (index >= firsts[piece + 1]) ++piece;
      body(piece, index - firsts[piece]);
    }
  });
}

// Pieces with their jobs and places in the memory that threads share; a null place is one that is not used.
template <int kTaps>
struct Work {
  const Piece* pieces;
  int64_t count;
  float* zeros;
  float* samples[kMaxPieces];
  float* weights[kMaxPieces];

  Job<kTaps> job(int64_t piece) const {
    Job<kTaps> made(pieces[piece].convolution, pieces[piece].target);
    made.zeros = zeros;
    return made;
  }
};

// Many tiles: each thread takes groups of its own through all stages.
template <int kTaps>
void convolve_by_tiles(const Work<kTaps>& work, const ParallelFor& parallel_for) {
  constexpr int64_t kProducts = Job<kTaps>::kCount * kTilesAtOnce * kBlock;
  for_items(
      work.count, [&](int64_t piece) { return tile_groups(work.job(piece).grid.tiles()); }, parallel_for,
      [&](int64_t piece, int64_t group) {
        const Job<kTaps> job = work.job(piece);
        const int64_t tiles = job.grid.tiles(), groups = tile_groups(tiles), point = job.point_stride(kTilesAtOnce);
        float* const products = own_scratch().reserve(kProducts + Job<kTaps>::kCount * point);
        float* const samples = products + kProducts;
        const int64_t first = tiles * group / groups, count = tiles * (group + 1) / groups - first;
        job.transform_samples(first, 0, count, samples, point);
        for (int64_t block = 0; block < job.blocks; ++block) {
          job.multiply_and_store(
              first, count, block, samples, point, work.weights[piece] + block * job.weight_floats, products);
        }
      });
}

// Few tiles: the threads transform all samples together, then each takes blocks of channels. Without a place for all
// weights, they are so large that each block's are better made just before their use.
template <int kTaps>
void convolve_by_channels(const Work<kTaps>& work, const ParallelFor& parallel_for) {
  constexpr int64_t kProducts = Job<kTaps>::kCount * kTilesAtOnce * kBlock;
  const auto parts_of = [&](int64_t piece) {  // of a block: each part needs the block's weights
    return work.weights[piece] != nullptr ? ceil_divide(work.job(piece).grid.tiles(), kTilesAtOnce) : 1;
  };
  for_items(
      work.count, [&](int64_t piece) { return work.job(piece).grid.tiles(); }, parallel_for,
      [&](int64_t piece, int64_t tile) {
        const Job<kTaps> job = work.job(piece);
        job.transform_samples(0, tile, tile + 1, work.samples[piece], job.point_stride(job.grid.tiles()));
      });
  for_items(
      work.count, [&](int64_t piece) { return work.job(piece).blocks * parts_of(piece); }, parallel_for,
      [&](int64_t piece, int64_t item) {
        const Job<kTaps> job = work.job(piece);
        const int64_t tiles = job.grid.tiles(), point = job.point_stride(tiles);
        const int64_t parts = parts_of(piece), block = item / parts, chunks = ceil_divide(tiles, kTilesAtOnce);
        const bool stored = work.weights[piece] != nullptr;
        float* const products = own_scratch().reserve(kProducts + (stored ? 0 : job.weight_floats));
        float* const weights = stored ? work.weights[piece] + block * job.weight_floats : products + kProducts;
        if (!stored) job.transform_weights(block, weights);
        for (int64_t chunk = item % parts; chunk < chunks; chunk += parts) {
          const int64_t first = tiles * chunk / chunks, count = tiles * (chunk + 1) / chunks - first;
          job.multiply_and_store(
              first, count, block, work.samples[piece] + first * job.row, point, weights, products);
        }
      });
}

// Pieces of about the same size: the phases of one result.
template <int kTaps>
void convolve(const Piece* pieces, int64_t count, const ParallelFor& parallel_for) {
  Work<kTaps> work{pieces, count, nullptr, {}, {}};
  int64_t sample_floats = 0, weight_floats = 0;
  bool few_tiles = true;
  for (int64_t i = 0; i < count; ++i) {
    const Job<kTaps> job = work.job(i);
    sample_floats += Job<kTaps>::kCount * job.point_stride(job.grid.tiles());
    weight_floats += job.blocks * job.weight_floats;
    few_tiles = few_tiles && job.grid.tiles() < kManyTiles;
  }
  few_tiles = few_tiles && sample_floats <= kSharedFloats;
  const bool store_weights = !few_tiles || weight_floats <= kSharedFloats;
  if (count > 1 && !few_tiles && weight_floats > kSharedFloats) {  // one after the other holds less at once
    for (int64_t i = 0; i < count; ++i) convolve<kTaps>(pieces + i, 1, parallel_for);
    return;
  }
  const int64_t channels = pieces[0].convolution.source.channels;
  float* next = shared_scratch().reserve(
      channels + (few_tiles ? sample_floats : 0) + (store_weights ? weight_floats : 0));
  const auto take = [&](int64_t floats) {
    float* const taken = next;
    next += floats;
    return taken;
  };
  work.zeros = take(channels);
  std::fill(work.zeros, work.zeros + channels, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const Job<kTaps> job = work.job(i);
    if (few_tiles) work.samples[i] = take(Job<kTaps>::kCount * job.point_stride(job.grid.tiles()));
    if (store_weights) work.weights[i] = take(job.blocks * job.weight_floats);
  }
  if (store_weights) {
    for_items(
        count, [&](int64_t piece) { return work.job(piece).blocks; }, parallel_for, [&](int64_t piece, int64_t block) {
          const Job<kTaps> job = work.job(piece);
          job.transform_weights(block, work.weights[piece] + block * job.weight_floats);
        });
  }
  few_tiles ? convolve_by_channels(work, parallel_for) : convolve_by_tiles(work, parallel_for);
}

// -- weight gradient -----------------------------------------------------------------------------------------------------

constexpr int64_t kSummedTiles = 8;

// total[columns] += the sum of the rows, which it leaves in the first: the error of a long sum stays small.
inline void add_rows(float* rows, int64_t count, int64_t columns, float* total) {
  for (int64_t i = 1; i < count; ++i) {
    for (int64_t c = 0; c < columns; ++c) rows[c] += rows[i * columns + c];
  }
  for (int64_t c = 0; c < columns; ++c) total[c] += rows[c];
}

template <int kTaps>
void correlate(
    const Convolution& convolution, const ConstImage& grad_output, const Derivative& derivative,
    const GradWeight& grad_weight, const ParallelFor& parallel_for) {
  constexpr int64_t kCount = kPoints<kTaps> * kPoints<kTaps>;
  const Grid grid(grad_output.n, grad_output.h, grad_output.w);
  const int64_t tiles = grid.tiles();
  const int64_t channels = convolution.source.channels, out_channels = grad_output.channels;
  const int64_t columns = static_cast<int64_t>(convolution.phases.size()) * channels;
  const int64_t blocks = ceil_divide(columns, kBlock), out_blocks = ceil_divide(out_channels, kBlock);
  const int64_t fitting = kSharedFloats / (kCount * (blocks + out_blocks) * kBlock);
  const int64_t most = std::max<int64_t>(64, std::min(kGradientTiles, fitting));
  const int64_t group = ceil_divide(tiles, ceil_divide(tiles, most));
  const int64_t panel = group * kBlock;
  const int64_t point = blocks * panel + kLanes, out_point = out_blocks * panel + kLanes;
  const int64_t zero_count = std::max(channels, out_channels);
  const int64_t pieces = ceil_divide(group, kSummedTiles);  // each sums the bias's gradient apart, in one order
  const bool sums_bias = grad_weight.bias != nullptr;
  float* const zeros = shared_scratch().reserve(
      zero_count + kCount * (point + out_point) + (sums_bias ? pieces * out_channels : 0));
  float* const samples = zeros + zero_count;
  float* const gradients = samples + kCount * point;
  float* const sums = gradients + kCount * out_point;
  std::fill(zeros, zeros + zero_count, 0.0f);
  if (sums_bias) std::fill(grad_weight.bias, grad_weight.bias + out_channels, 0.0f);
  for (int64_t first = 0; first < tiles; first += group) {
    const int64_t count = std::min(group, tiles - first);
    const int64_t used_pieces = ceil_divide(count, kSummedTiles);
    parallel_for(used_pieces, [&](int64_t first_piece, int64_t last_piece) {
      const int64_t begin = first_piece * kSummedTiles, end = std::min(count, last_piece * kSummedTiles);
      transform_samples_of<kTaps>(convolution, grid, first, begin, end, zeros, PointTarget{samples, point, panel}, kBlock);
      if (sums_bias) std::fill(sums + first_piece * out_channels, sums + last_piece * out_channels, 0.0f);
      const float* outputs[kOutputs * kOutputs];
      for (int64_t index = begin; index < end; ++index) {
        const Tile tile(grid, first + index);
        locate_samples(grad_output, kOutputs, tile.n, tile.row, tile.column, 1, false, zeros, outputs);
        float* const own_sums = sums_bias ? sums + index / kSummedTiles * out_channels : nullptr;
        with_reader(grad_output, derivative, outputs, kOutputs * kOutputs, zeros, [&](const auto& reader) {
          transform_tile_gradients<kTaps>(
              reader, out_channels, PointTarget{gradients + index * kBlock, out_point, panel}, own_sums);
        });
      }
    });
    if (sums_bias) add_rows(sums, used_pieces, out_channels, grad_weight.bias);
    parallel_for(out_blocks * blocks, [&](int64_t begin, int64_t end) {
      float* const products = own_scratch().reserve(kCount * kBlock * kBlock);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t out_block = item / blocks, block = item % blocks;
        const int64_t rows = std::min(kBlock, out_channels - out_block * kBlock);
        for (int64_t p = 0; p < kCount; ++p) {
          const float* left = gradients + p * out_point + out_block * panel;
          const float* right = samples + p * point + block * panel;
          for (int64_t i = 0; i < rows; i += 8) {
            multiply_columns(count, left + i, right, products + (p * kBlock + i) * kBlock);
          }
        }
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t v = 0; v < kBlock; v += kLanes) {
            const int64_t column = block * kBlock + v;
            if (column >= columns) break;
            const Phase& phase = convolution.phases[column / channels];
            float* to = grad_weight.data + (out_block * kBlock + i) * grad_weight.stride_out +
                        phase.tap_row * grad_weight.stride_row + phase.tap_column * grad_weight.stride_column +
                        column % channels;
            store_gradient<kTaps>(products + i * kBlock + v, to, convolution.tap_step * grad_weight.stride_row,
                                  convolution.tap_step * grad_weight.stride_column, first != 0);
          }
        }
      }
    });
  }
}

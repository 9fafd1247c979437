// The bfloat16 products of pixels with weights: groups of pixels pass through blocks of output channels.
// No include guard and no includes: see bf16_tiles_impl.h.

// One product cut into groups of pixels and blocks of channels.
struct PixelJob {
  const PixelProduct& product;
  int64_t taps, tap_pairs;  // the sum: pairs of channels of each tap, or all values as of one tap where they are gathered
  int64_t blocks;           // of output channels
  int64_t groups;           // of pixels
  int64_t chunks;           // of blocks: more than one where there are few groups
  bool gathers;
  const BFloat16* zeros;

  explicit PixelJob(const PixelProduct& product)
      : product(product),
        taps(product.rows.taps * product.columns.taps),
        tap_pairs(product.channels / 2),
        blocks(ceil_divide(product.out_channels, kBlock)),
        groups(ceil_divide(product.pixels(), kRowsAtOnce)),
        chunks(std::min(blocks, ceil_divide(kItems, std::max<int64_t>(1, groups)))),
        gathers(product.channels % 2 != 0 || product.channels < kFewChannels),
        zeros(nullptr) {
    if (gathers) {
      tap_pairs = ceil_divide(taps * product.channels, 2);
      taps = 1;
    }
  }

  int64_t pairs() const { return taps * tap_pairs; }
  int64_t weight_words() const { return blocks * pairs() * kBlock; }
  int64_t items() const { return groups * chunks; }

  void run(int64_t item, const uint32_t* weights) const {
    const int64_t group = item / chunks, chunk = item % chunks;
    const int64_t first = product.pixels() * group / groups, count = product.pixels() * (group + 1) / groups - first;
    const int64_t pitch = 2 * (tap_pairs + 1);
    const int64_t pointer_words = kRowsAtOnce * taps * static_cast<int64_t>(sizeof(void*)) / 4;
    float* const memory = own_scratch().reserve(pointer_words + (gathers ? kRowsAtOnce * pitch / 2 : 0));
    const BFloat16** const rows = reinterpret_cast<const BFloat16**>(memory);
    BFloat16* const gathered = reinterpret_cast<BFloat16*>(memory + pointer_words);
    BFloat16* targets[kRowsAtOnce];
    const int64_t panels = ceil_divide(count, kScatteredRows);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t start = count * panel / panels, height = count * (panel + 1) / panels - start;
      for (int64_t i = start; i < start + height; ++i) {
        const Pixel pixel(product, first + i);
        targets[i] = product.target + pixel.n * product.target_n + pixel.row * product.target_row +
                     pixel.column * product.target_column;
        const BFloat16** const to = rows + start * taps + i - start;
        if (gathers) {
          gather_pixel(product, pixel, gathered + i * pitch);
          *to = gathered + i * pitch;
        } else {
          locate_taps(product, pixel, zeros, to, height);
        }
      }
    }
    for (int64_t block = blocks * chunk / chunks; block < blocks * (chunk + 1) / chunks; ++block) {
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t start = count * panel / panels, height = count * (panel + 1) / panels - start;
        multiply_and_store(block, rows + start * taps, height, weights + block * pairs() * kBlock, targets + start);
      }
    }
  }

  void multiply_and_store(
      int64_t block, const BFloat16* const* rows, int64_t height, const uint32_t* weights,
      BFloat16* const* targets) const {
    alignas(64) float sums[kScatteredRows * kBlock];
    const int64_t first = block * kBlock, used = std::min(kBlock, product.out_channels - first);
    const MultiplyScattered multiply = used > kLanes ? multiply_scattered_of<2>(height) : multiply_scattered_of<1>(height);
    multiply(taps, tap_pairs, rows, weights, sums);
    for (int64_t c = 0; c < used; c += kLanes) {
      const __m512 bias =
          product.bias != nullptr ? load_wide(product.bias + first + c, used - c) : _mm512_setzero_ps();
      for (int64_t i = 0; i < height; ++i) {
        const __m512 value = _mm512_add_ps(_mm512_load_ps(sums + i * kBlock + c), bias);
        store_rounded(targets[i] + first + c, finish(value, product.activation, product.negative_slope), used - c);
      }
    }
  }
};

// Items of several jobs as one parallel loop: body(job, item) for item < count(job).
template <typename Count, typename Body>
void for_items(const std::vector<PixelJob>& jobs, const Count& count, const ParallelFor& parallel_for, const Body& body) {
  std::vector<int64_t> firsts(jobs.size() + 1, 0);
  for (size_t i = 0; i < jobs.size(); ++i) firsts[i + 1] = firsts[i] + count(jobs[i]);
  parallel_for(firsts.back(), [&](int64_t begin, int64_t end) {
    size_t job = 0;
    for (int64_t index = begin; index < end; ++index) {
      while (index >= firsts[job + 1]) ++job;
      body(job, index - firsts[job]);
    }
  });
}

// The bfloat16 gradient of a weight: both operands are packed in pairs of pixels.
// No include guard and no includes: see bf16_tiles_impl.h.

// Pairs are neighbours of one row of grad_output; a row of odd width ends in a pair with a zero.
struct WeightJob {
  const WeightProduct& product;
  int64_t row_pairs;
  int64_t chunk_rows;  // output rows whose products are summed in registers
  int64_t chunks;
  int64_t panels;      // of output channels: register blocks
  int64_t blocks;      // of input channels, of each tap
  int64_t parts;       // of panels: more than one where there are few blocks
  int64_t zero_words;
  const BFloat16* zeros;

  explicit WeightJob(const WeightProduct& product)
      : product(product),
        row_pairs(ceil_divide(product.columns.size, 2)),
        chunk_rows(std::max<int64_t>(1, kPairsAtOnce / row_pairs)),
        chunks(ceil_divide(product.n * product.rows.size, chunk_rows)),
        panels(ceil_divide(product.out_channels, kPairedRows)),
        blocks(ceil_divide(product.channels, kBlock)),
        parts(std::min(panels, ceil_divide(kItems, taps() * blocks))),
        zero_words(ceil_divide(std::max(product.channels, product.out_channels), 2 * kLanes) * kLanes),
        zeros(nullptr) {}

  int64_t taps() const { return product.rows.taps * product.columns.taps; }
  int64_t chunk_words() const { return chunk_rows * row_pairs * product.out_channels; }
  int64_t rows_of(int64_t chunk) const {
    return std::min(chunk_rows, product.n * product.rows.size - chunk * chunk_rows);
  }
  int64_t panel_start(int64_t panel) const { return product.out_channels * panel / panels; }

  // grad_output of a chunk as pairs: to[panel][pair][channel of the panel]. sums[out_channels]: of the chunk; null where the
  // bias's gradient is not wanted.
  void pair_gradient(int64_t chunk, uint32_t* to, float* sums) const {
    if (sums != nullptr) std::fill(sums, sums + product.out_channels, 0.0f);
    const int64_t rows = rows_of(chunk), pairs = rows * row_pairs, width = product.columns.size;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = chunk * chunk_rows + i;
      const int64_t line = row / product.rows.size * product.gradient_n + row % product.rows.size * product.gradient_row;
      for (int64_t j = 0; j < row_pairs; ++j) {
        const int64_t low = line + 2 * j * product.gradient_column;
        const bool whole = 2 * j + 1 < width;  // else the pair ends in a zero
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t start = panel_start(panel), count = panel_start(panel + 1) - start;
          const __mmask16 mask = mask16(count);
          const __m512 a = load_gradient(product.gradient, product.derivative, low + start, count);
          const __m512 b = whole ? load_gradient(product.gradient, product.derivative,
                                                 low + product.gradient_column + start, count)
                                 : _mm512_setzero_ps();
          _mm512_mask_storeu_epi32(to + start * pairs + (i * row_pairs + j) * count, mask, pair_of(a, b));
          if (sums != nullptr) {
            const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, sums + start), _mm512_add_ps(a, b));
            _mm512_mask_storeu_ps(sums + start, mask, sum);
          }
        }
      }
    }
  }

  // What one tap reads for a chunk of the output, as pairs of channels [first, first + kBlock).
  void pair_samples(int64_t chunk, int64_t r, int64_t s, int64_t first, uint32_t* to) const {
    const int64_t rows = rows_of(chunk), width = product.columns.size;
    const __mmask32 mask = mask32(product.channels - first);
    const int64_t* columns = product.columns.offset.data() + s * width;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = chunk * chunk_rows + i;
      const int64_t offset = product.rows.offset[r * product.rows.size + row % product.rows.size];
      if (offset < 0) {
        std::fill(to, to + row_pairs * kBlock, 0u);
        to += row_pairs * kBlock;
        continue;
      }
      const BFloat16* line = product.source + row / product.rows.size * product.source_n + offset + first;
      for (int64_t j = 0; j < width; j += 2, to += kBlock) {
        const int64_t second = j + 1 < width ? columns[j + 1] : -1;
        pair_rows(columns[j] < 0 ? zeros : line + columns[j], second < 0 ? zeros : line + second, mask, to);
      }
    }
  }

  // Adds chunks [begin, end) to the sums of one tap, block and part; the last ones are written out.
  void run(int64_t item, int64_t begin, int64_t end, const uint32_t* gradients, float* sums) const {
    const int64_t part = item % parts, block = item / parts % blocks, tap = item / parts / blocks;
    const int64_t r = tap / product.columns.taps, s = tap % product.columns.taps, first = block * kBlock;
    const int64_t first_panel = panels * part / parts, last_panel = panels * (part + 1) / parts;
    const bool wide = product.channels - first > kLanes;
    float* const own = sums + (tap * blocks + block) * product.out_channels * kBlock;
    uint32_t* const samples = words_of(own_scratch().reserve(chunk_rows * row_pairs * kBlock));
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t pairs = rows_of(chunk) * row_pairs;
      pair_samples(chunk, r, s, first, samples);
      const uint32_t* gradient = gradients + (chunk - begin) * chunk_words();
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const int64_t start = panel_start(panel), count = panel_start(panel + 1) - start;
        const MultiplyPaired multiply = wide ? multiply_paired_of<2>(count) : multiply_paired_of<1>(count);
        multiply(pairs, gradient + start * pairs, samples, own + start * kBlock, chunk > 0);
      }
    }
    if (end < chunks) return;
    for (int64_t k = panel_start(first_panel); k < panel_start(last_panel); ++k) {
      store_gradient(own + k * kBlock, r, s, first, k);
    }
  }

  void store_gradient(const float* sums, int64_t r, int64_t s, int64_t first, int64_t k) const {
    BFloat16* to = product.grad_weight + k * product.stride_out + first * product.stride_channel +
                   r * product.stride_row + s * product.stride_column;
    const int64_t used = std::min(kBlock, product.channels - first);
    for (int64_t c = 0; c < used; c += kLanes) {
      const __m512 value = _mm512_loadu_ps(sums + c);
      if (product.stride_channel == 1) {
        store_rounded(to + c, value, used - c);
      } else {
        BFloat16 lanes[kLanes];
        store_rounded(lanes, value, kLanes);
        for (int64_t l = 0; l < std::min(kLanes, used - c); ++l) to[(c + l) * product.stride_channel] = lanes[l];
      }
    }
  }

  // The sums of all chunks together.
  void store_bias(const float* sums) const {
    for (int64_t first = 0; first < product.out_channels; first += kLanes) {
      const int64_t used = std::min(kLanes, product.out_channels - first);
      __m512 sum = _mm512_setzero_ps();
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask16(used), sums + chunk * product.out_channels + first));
      }
      store_rounded(product.grad_bias + first, sum, used);
    }
  }
};

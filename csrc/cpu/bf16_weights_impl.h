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

  // grad_output of a chunk as pairs: to[panel][pair][channel of the panel].
  void pair_gradient(int64_t chunk, uint32_t* to) const {
    const int64_t rows = rows_of(chunk), pairs = rows * row_pairs, width = product.columns.size;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = chunk * chunk_rows + i;
      const BFloat16* line = product.gradient + row / product.rows.size * product.gradient_n +
                             row % product.rows.size * product.gradient_row;
      for (int64_t j = 0; j < row_pairs; ++j) {
        const BFloat16* low = line + 2 * j * product.gradient_column;
        const BFloat16* high = 2 * j + 1 < width ? low + product.gradient_column : zeros;
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t start = panel_start(panel), count = panel_start(panel + 1) - start;
          const __mmask16 mask = mask16(count);
          const __m512i a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, low + start));
          const __m512i b = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, high + start));
          _mm512_mask_storeu_epi32(to + start * pairs + (i * row_pairs + j) * count, mask,
                                   _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
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

  // Sums of grad_output: rows first, then images, then the batch.
  void sum_bias(int64_t first) const {
    const int64_t used = std::min(kLanes, product.out_channels - first);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t n = 0; n < product.n; ++n) {
      __m512 image = _mm512_setzero_ps();
      for (int64_t i = 0; i < product.rows.size; ++i) {
        const BFloat16* line = product.gradient + n * product.gradient_n + i * product.gradient_row + first;
        __m512 row = _mm512_setzero_ps();
        for (int64_t j = 0; j < product.columns.size; ++j) {
          row = _mm512_add_ps(row, load_wide(line + j * product.gradient_column, used));
        }
        image = _mm512_add_ps(image, row);
      }
      sum = _mm512_add_ps(sum, image);
    }
    store_rounded(product.grad_bias + first, sum, used);
  }
};

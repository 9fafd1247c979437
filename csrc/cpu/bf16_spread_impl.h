// The bfloat16 products that are spread over an image of few channels, one image at a time.
// No include guard and no includes: see bf16_tiles_impl.h.

// One image of a SpreadProduct. Sums stand in rows of fp32 with a margin of a kernel's width on either side.
struct SpreadJob {
  const SpreadProduct& product;
  int64_t columns;  // of the product: the whole kernel
  int64_t blocks;
  int64_t reach;    // values of a kernel's row
  int64_t margin;   // values before a row of sums
  int64_t pitch;    // of rows of sums
  PixelProduct weights;

  explicit SpreadJob(const SpreadProduct& product)
      : product(product),
        columns(product.kh * product.kw * product.channels),
        blocks(ceil_divide(columns, kBlock)),
        reach(product.kw * product.channels),
        margin(product.padding_w * product.channels),
        pitch(margin + std::max(product.w, (product.source_w - 1) * product.stride_w + product.kw) * product.channels +
              kBlock),
        weights{} {
    weights.rows.taps = weights.columns.taps = 1;
    weights.channels = product.source_channels;
    weights.weight = product.weight;
    weights.weight_tap = {0};
    weights.weight_channel = product.weight_channel;
    weights.weight_out = 1;
    weights.out_channels = columns;
  }

  int64_t pairs() const { return product.source_channels / 2; }

  void run(int64_t n, const uint32_t* packed) const {
    const int64_t product_words = product.source_w * blocks * kBlock;
    const int64_t line_words = product.derivative.output == nullptr ? 0 : product.source_w * line_pitch() / 2;
    float* const products = own_scratch().reserve(product_words + kLanes + product.h * pitch + line_words);
    float* const sums = products + product_words + kLanes;
    BFloat16* const line = reinterpret_cast<BFloat16*>(sums + product.h * pitch);
    begin_sums(sums);
    for (int64_t i = 0; i < product.source_h; ++i) {
      const int64_t start = n * product.source_n + i * product.source_row;
      if (product.derivative.output == nullptr) {
        multiply_row(product.source + start, product.source_column, packed, products);
      } else {
        differentiate_row(start, line);
        multiply_row(line, line_pitch(), packed, products);
      }
      // Neighbours overlap: visiting every other pixel lets a sum be stored before it is read again.
      const int64_t turns = ceil_divide(product.kw, product.stride_w);
      for (int64_t turn = 0; turn < turns; ++turn) {
        for (int64_t j = turn; j < product.source_w; j += turns) {
          const float* from = products + j * blocks * kBlock;
          for (int64_t r = 0; r < product.kh; ++r, from += reach) {
            const int64_t row = i * product.stride_h - product.padding_h + r;
            if (row >= 0 && row < product.h) add_row(from, sums + row * pitch + j * product.stride_w * product.channels, reach);
          }
        }
      }
    }
    for (int64_t row = 0; row < product.h; ++row) {
      const float* from = sums + row * pitch + margin;
      BFloat16* to = product.target + n * product.target_n + row * product.target_row;
      for (int64_t c = 0; c < product.w * product.channels; c += kLanes) {
        store_rounded(to + c, finish(_mm512_loadu_ps(from + c), product.activation, product.negative_slope),
                      product.w * product.channels - c);
      }
    }
  }

  void begin_sums(float* sums) const {
    for (int64_t row = 0; row < product.h; ++row) std::fill(sums + row * pitch, sums + (row + 1) * pitch, 0.0f);
    if (product.bias == nullptr) return;
    for (int64_t row = 0; row < product.h; ++row) {
      float* to = sums + row * pitch + margin;
      for (int64_t i = 0; i < product.w * product.channels; ++i) to[i] = widen(product.bias[i % product.channels]);
    }
  }

  int64_t line_pitch() const { return ceil_divide(product.source_channels, kLanes) * kLanes; }

  // One row of the source times the derivative.
  void differentiate_row(int64_t start, BFloat16* line) const {
    for (int64_t j = 0; j < product.source_w; ++j, start += product.source_column, line += line_pitch()) {
      for (int64_t c = 0; c < product.source_channels; c += kLanes) {
        const int64_t count = std::min(kLanes, product.source_channels - c);
        store_rounded(line + c, load_gradient(product.source, product.derivative, start + c, count), count);
      }
    }
  }

  // products[pixel][blocks * kBlock] of one row of the source, whose pixels lie `step` apart.
  void multiply_row(const BFloat16* line, int64_t step, const uint32_t* packed, float* products) const {
    alignas(64) float tile[kScatteredRows * kBlock];
    const BFloat16* rows[kScatteredRows];
    const int64_t panels = ceil_divide(product.source_w, kScatteredRows);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t start = product.source_w * panel / panels;
      const int64_t height = product.source_w * (panel + 1) / panels - start;
      for (int64_t i = 0; i < height; ++i) rows[i] = line + (start + i) * step;
      for (int64_t block = 0; block < blocks; ++block) {
        const bool wide = columns - block * kBlock > kLanes;
        const MultiplyScattered multiply = wide ? multiply_scattered_of<2>(height) : multiply_scattered_of<1>(height);
        multiply(1, pairs(), rows, packed + block * pairs() * kBlock, tile);
        for (int64_t i = 0; i < height; ++i) {
          float* to = products + ((start + i) * blocks + block) * kBlock;
          _mm512_storeu_ps(to, _mm512_load_ps(tile + i * kBlock));
          if (wide) _mm512_storeu_ps(to + kLanes, _mm512_load_ps(tile + i * kBlock + kLanes));
        }
      }
    }
  }
};

// The products of bf16_product.h for AVX512_BF16.
// The target is set for what follows the standard headers only: an inline function of theirs compiled for it could be the
// copy that the linker keeps for machines that lack it.
#include "cpu/bf16_product.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "cpu/scratch.h"

#if defined(__clang__)
#pragma clang attribute push(                                                                            \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")
#endif

namespace genlab::cpu::bf16 {
namespace {

#include "cpu/bf16_tiles_impl.h"

constexpr int64_t kRowsAtOnce = 48;           // pixels that pass through all weights together: four register blocks
constexpr int64_t kFewChannels = 32;          // below, the values of all taps are gathered into one row
constexpr int64_t kPairsAtOnce = 256;         // of a weight's gradient: a block of the image then lies in the first cache
constexpr int64_t kSharedWords = 1 << 17;     // up to 16 MiB of paired gradients are held for all threads
constexpr int64_t kItems = 32;                // least pieces of work to aim at

Scratch& shared_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

Scratch& own_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

uint32_t* words_of(float* data) { return reinterpret_cast<uint32_t*>(data); }

// -- pixels --------------------------------------------------------------------------------------------------------------

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

// -- few channels --------------------------------------------------------------------------------------------------------

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
    float* const products = own_scratch().reserve(product_words + kLanes + product.h * pitch);
    float* const sums = products + product_words + kLanes;
    begin_sums(sums);
    for (int64_t i = 0; i < product.source_h; ++i) {
      multiply_row(product.source + n * product.source_n + i * product.source_row, packed, products);
      // Neighbours overlap: visiting every other pixel lets a sum be stored before it is read again.
      const int64_t turns = ceil_divide(product.kw, product.stride_w);
      for (int64_t turn = 0; turn < turns; ++turn) {
        for (int64_t j = turn; j < product.source_w; j += turns) {
          const float* from = products + j * blocks * kBlock;
          for (int64_t r = 0; r < product.kh; ++r, from += reach) {
            const int64_t row = i * product.stride_h - product.padding_h + r;
            if (row >= 0 && row < product.h) add(from, sums + row * pitch + j * product.stride_w * product.channels);
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

  // products[pixel][blocks * kBlock] of one row of the source.
  void multiply_row(const BFloat16* line, const uint32_t* packed, float* products) const {
    alignas(64) float tile[kScatteredRows * kBlock];
    const BFloat16* rows[kScatteredRows];
    const int64_t panels = ceil_divide(product.source_w, kScatteredRows);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t start = product.source_w * panel / panels;
      const int64_t height = product.source_w * (panel + 1) / panels - start;
      for (int64_t i = 0; i < height; ++i) rows[i] = line + (start + i) * product.source_column;
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

  void add(const float* from, float* to) const {
    for (int64_t c = 0; c < reach; c += kLanes) {
      const __mmask16 mask = mask16(reach - c);
      const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to + c), _mm512_maskz_loadu_ps(mask, from + c));
      _mm512_mask_storeu_ps(to + c, mask, sum);
    }
  }
};

// -- weight gradient -----------------------------------------------------------------------------------------------------

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

}  // namespace

void multiply_pixels(const std::vector<PixelProduct>& products, const ParallelFor& parallel_for) {
  std::vector<PixelJob> jobs;
  std::vector<int64_t> places;
  int64_t words = 0, channels = 0;
  for (const PixelProduct& product : products) {
    jobs.emplace_back(product);
    places.push_back(words);
    words += jobs.back().weight_words();
    channels = std::max(channels, product.channels);
  }
  float* const zeros = shared_scratch().reserve(ceil_divide(channels, 2 * kLanes) * kLanes + words);
  uint32_t* const weights = words_of(zeros + ceil_divide(channels, 2 * kLanes) * kLanes);
  std::fill(zeros, zeros + ceil_divide(channels, 2), 0.0f);
  for (PixelJob& job : jobs) job.zeros = reinterpret_cast<const BFloat16*>(zeros);
  for_items(jobs, [](const PixelJob& job) { return job.blocks; }, parallel_for, [&](size_t job, int64_t block) {
    pack_weight_block(jobs[job].product, block, weights + places[job] + block * jobs[job].pairs() * kBlock);
  });
  for_items(jobs, [](const PixelJob& job) { return job.items(); }, parallel_for, [&](size_t job, int64_t item) {
    jobs[job].run(item, weights + places[job]);
  });
}

void multiply_and_spread(const SpreadProduct& product, const ParallelFor& parallel_for) {
  const SpreadJob job(product);
  uint32_t* const packed = words_of(shared_scratch().reserve(job.blocks * job.pairs() * kBlock));
  for (int64_t block = 0; block < job.blocks; ++block) {
    pack_weight_block(job.weights, block, packed + block * job.pairs() * kBlock);
  }
  parallel_for(product.n, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) job.run(n, packed);
  });
}

void multiply_weights(const WeightProduct& product, const ParallelFor& parallel_for) {
  WeightJob job(product);
  const int64_t items = job.taps() * job.blocks * job.parts;
  const int64_t sum_words = job.taps() * job.blocks * product.out_channels * kBlock;
  const int64_t together = std::min(job.chunks, std::max<int64_t>(1, kSharedWords / job.chunk_words()));
  float* const sums = shared_scratch().reserve(sum_words + job.zero_words + together * job.chunk_words());
  float* const zeros = sums + sum_words;
  uint32_t* const gradients = words_of(zeros + job.zero_words);
  std::fill(zeros, zeros + job.zero_words, 0.0f);
  job.zeros = reinterpret_cast<const BFloat16*>(zeros);
  for (int64_t begin = 0; begin < job.chunks; begin += together) {
    const int64_t end = std::min(job.chunks, begin + together);
    parallel_for(end - begin, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk) {
        job.pair_gradient(begin + chunk, gradients + chunk * job.chunk_words());
      }
    });
    parallel_for(items, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) job.run(item, begin, end, gradients, sums);
    });
  }
  if (product.grad_bias == nullptr) return;
  parallel_for(ceil_divide(product.out_channels, kLanes), [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) job.sum_bias(block * kLanes);
  });
}

}  // namespace genlab::cpu::bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace genlab::cpu::bf16 {

void multiply_pixels(const std::vector<PixelProduct>&, const ParallelFor&) {
  throw std::logic_error("bf16 products: this processor has none");
}

void multiply_and_spread(const SpreadProduct&, const ParallelFor&) {
  throw std::logic_error("bf16 products: this processor has none");
}

void multiply_weights(const WeightProduct&, const ParallelFor&) {
  throw std::logic_error("bf16 products: this processor has none");
}

}  // namespace genlab::cpu::bf16

#endif

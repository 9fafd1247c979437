// The Winograd engine for AVX-512 F.
#include "cpu/isa/target.h"
#include "cpu/winograd_plan.h"

#if GENLAB_X86

#include <immintrin.h>

#include <algorithm>

#include "cpu/scratch.h"
#include "kernels/common/conv_index.h"

GENLAB_TARGET_BEGIN("avx512f,avx2,fma")

namespace genlab::cpu::winograd {
namespace avx512 {

// Inside: their functions must not be merged with other targets' copies.
#include "cpu/avx512_lanes_impl.h"
#include "cpu/scratch_impl.h"
#include "cpu/winograd_transforms_impl.h"
#include "cpu/winograd_tiles_impl.h"
#include "cpu/winograd_samples_impl.h"
#include "cpu/winograd_engine_impl.h"

}  // namespace avx512

const Engine& engine_avx512() {
  static const Engine engine{
      [](int taps, const std::vector<Piece>& pieces, const ParallelFor& parallel_for) {
        const auto count = static_cast<int64_t>(pieces.size());
        taps == 2 ? avx512::convolve<2>(pieces.data(), count, parallel_for)
                  : avx512::convolve<3>(pieces.data(), count, parallel_for);
      },
      [](int taps, const Convolution& convolution, const ConstImage& grad_output, const Derivative& derivative,
         const GradWeight& grad_weight, const ParallelFor& parallel_for) {
        taps == 2 ? avx512::correlate<2>(convolution, grad_output, derivative, grad_weight, parallel_for)
                  : avx512::correlate<3>(convolution, grad_output, derivative, grad_weight, parallel_for);
      },
      avx512::sum_lines, avx512::widen_gradient};
  return engine;
}

}  // namespace genlab::cpu::winograd

GENLAB_TARGET_END

#endif  // x86-64

// Which convolutions of few channels have the kernels of few_channels_avx512.cpp.
#include "cpu/few_channels.h"

#include "cpu/isa/target.h"

namespace genlab::cpu {

namespace few {
void backward_input(const Conv2dBackwardInputParams& params, const ParallelFor& parallel_for);
void backward_weight(const Conv2dBackwardWeightParams& params, const ParallelFor& parallel_for);
}  // namespace few

namespace {

constexpr int64_t kMostChannels = 4, kMostColumns = 1024;
constexpr int64_t kChannelStep = 16;

bool machine_serves() {
#if GENLAB_X86
  static const bool found = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
  return found;
#else
  return false;
#endif
}

bool serves(const Conv2dGeometry& g) {
  return g.dtype == DType::kFloat32 && g.groups == 1 && g.dilation_h == 1 && g.dilation_w == 1 && !g.reflect && g.n > 0 &&
         g.c_in <= kMostChannels && g.c_out % kChannelStep == 0 && g.kh * g.kw * g.c_in <= kMostColumns && machine_serves();
}

// Pixels next to each other, channel by channel.
bool is_dense(const int64_t (&stride)[4], int64_t channels) { return (channels == 1 || stride[1] == 1) && stride[3] == channels; }

}  // namespace

bool few_channels_serves(const Conv2dBackwardInputParams& p) {
  return serves(p.geometry) && p.grad_output_stride[1] == 1 && is_dense(p.grad_input_stride, p.geometry.c_in);
}

bool few_channels_serves(const Conv2dBackwardWeightParams& p) {
  return serves(p.geometry) && p.of_input.output == nullptr && p.grad_output_stride[1] == 1 &&
         is_dense(p.input_stride, p.geometry.c_in);
}

void few_channels_backward_input(const Conv2dBackwardInputParams& params, const ParallelFor& parallel_for) {
  few::backward_input(params, parallel_for);
}

void few_channels_backward_weight(const Conv2dBackwardWeightParams& params, const ParallelFor& parallel_for) {
  few::backward_weight(params, parallel_for);
}

}  // namespace genlab::cpu

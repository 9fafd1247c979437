// Attention on tensor cores in bfloat16 alone, for tests that build many variants of it.
#pragma once

#include <stdexcept>

#include "kernels/attention/launch.h"

namespace genlab {
namespace attention {

#define GENLAB_NOT_BUILT(launcher, Params, T)                     \
  template <>                                                     \
  inline void launcher<T>(const Params&, CUstream_st*) {          \
    throw std::runtime_error("this library is of bfloat16 only"); \
  }
GENLAB_NOT_BUILT(launch_forward, ForwardParams, float)
GENLAB_NOT_BUILT(launch_forward, ForwardParams, Float16)
GENLAB_NOT_BUILT(launch_backward_query, BackwardParams, float)
GENLAB_NOT_BUILT(launch_backward_query, BackwardParams, Float16)
GENLAB_NOT_BUILT(launch_backward_key, BackwardParams, float)
GENLAB_NOT_BUILT(launch_backward_key, BackwardParams, Float16)
#undef GENLAB_NOT_BUILT

}  // namespace attention
}  // namespace genlab

#include "kernels/attention_flash.cu"
#include "kernels/attention_flash_backward_bf16.cu"
#include "kernels/attention_flash_forward_bf16.cu"

// The C interface that the two host libraries of the tensor-core convolutions have in common.
#pragma once

#include "emulation/harness.h"
#include "kernels/conv2d_implicit_gemm.h"

#define GENLAB_EXPORT_CONV2D(op, Params)                                                               \
  GENLAB_EXPORT const char* refusal_of_##op(const genlab::Params* params) {                            \
    return genlab::refusal_of_conv2d_##op##_implicit_gemm(*params);                                    \
  }                                                                                                    \
  GENLAB_EXPORT std::size_t workspace_of_##op(const genlab::Params* params) {                          \
    return genlab::workspace_of_conv2d_##op##_implicit_gemm(*params);                                  \
  }                                                                                                    \
  GENLAB_EXPORT int run_##op(const genlab::Params* params, void* workspace, int32_t tile) {            \
    return genlab::emulation::guarded([&] {                                                            \
      genlab::launch_conv2d_##op##_implicit_gemm(*params, workspace, nullptr, genlab::ConvTile(tile)); \
    });                                                                                                \
  }                                                                                                    \
  GENLAB_EXPORT int64_t size_of_##op##_params() { return sizeof(genlab::Params); }

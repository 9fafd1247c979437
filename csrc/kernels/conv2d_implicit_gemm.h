// Launchers of the tensor-core convolutions (conv2d_implicit_gemm*.cu), over the parameters of conv2d.h. Strides are free;
// channels_last tensors whose channels are a multiple of 8 (of 4 in float32) take 16-byte loads and stores.
//
// Groups of at least 16 channels on either side run one after the other, a launch each.
//
// bfloat16 and float16 multiply as they are, float32 as tf32 (10 mantissa bits); all sums are fp32.
#pragma once

#include <cstddef>

#include "kernels/conv2d.h"

namespace genlab {

// Rows (pixels) x columns (channels) of the result that one block computes. kAuto chooses by shape.
enum class ConvTile : int32_t { kAuto = 0, k128x128 = 1, k64x64 = 2, k128x32 = 3 };

// Why the kernel cannot run these parameters, or null when it can.
const char* refusal_of_conv2d_forward_implicit_gemm(const Conv2dForwardParams& params);
const char* refusal_of_conv2d_backward_input_implicit_gemm(const Conv2dBackwardInputParams& params);
const char* refusal_of_conv2d_backward_weight_implicit_gemm(const Conv2dBackwardWeightParams& params);

// Bytes of scratch memory that the launcher needs, aligned to 16; may be 0.
std::size_t workspace_of_conv2d_forward_implicit_gemm(const Conv2dForwardParams& params);
std::size_t workspace_of_conv2d_backward_input_implicit_gemm(const Conv2dBackwardInputParams& params);
std::size_t workspace_of_conv2d_backward_weight_implicit_gemm(const Conv2dBackwardWeightParams& params);

// Each enqueues on `stream` and returns: no allocation, no synchronisation. Empty outputs launch nothing. The parameters must
// not be refused. Throws std::runtime_error naming the kernel when a launch is refused, or when `tile` is not k64x64
// and a source has no 16-byte loads.
void launch_conv2d_forward_implicit_gemm(
    const Conv2dForwardParams& params, void* workspace, CUstream_st* stream, ConvTile tile = ConvTile::kAuto);
void launch_conv2d_backward_input_implicit_gemm(
    const Conv2dBackwardInputParams& params, void* workspace, CUstream_st* stream, ConvTile tile = ConvTile::kAuto);
// Sums in a fixed order: the same bits in every run. `tile` (kAuto, k128x128, k64x64) is c_out x (taps * c_in).
void launch_conv2d_backward_weight_implicit_gemm(
    const Conv2dBackwardWeightParams& params, void* workspace, CUstream_st* stream, ConvTile tile = ConvTile::kAuto);

}  // namespace genlab

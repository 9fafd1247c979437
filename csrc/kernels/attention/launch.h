// Host side of the tensor-core attention: which tile a head dim takes, and the launches of one element type. Each type is
// instantiated in files of its own, attention_flash_*.cu, which compile beside each other.
#pragma once

#include <type_traits>

#include "kernels/attention/problem.h"
#include "kernels/common/launch.h"

namespace genlab {
namespace attention {

constexpr int64_t kLargestHead = kAttentionLargestDim;

// Shared memory stays below the 99 KiB that every device from sm_80 on gives a block. float32 takes narrower tiles: its rows
// are twice as long and its fragments come in two parts.
template <typename T, int kHead>
using ForwardTile =
    AttentionTile<T, kHead, 4, sizeof(T) == 2 && kHead <= 64 ? 2 : 1, sizeof(T) == 2 ? 64 : kHead <= 64 ? 32 : 16>;

// Masks and dropout take registers of their own.
template <typename T, int kHead, bool kExtras>
using BackwardTile = AttentionTile<
    T, kHead, 4, sizeof(T) == 2 && kHead * (kExtras ? 2 : 1) <= 64 ? 2 : 1,
    (kHead * static_cast<int>(sizeof(T)) * (kExtras ? 2 : 1) > 256) ? 16 : 32>;

// Calls `body` with the narrowest head that both dims fit; float32 has no 96.
template <typename T, typename Body>
void with_head(const Problem& p, Body body) {
  const int32_t wider = p.head_dim > p.value_dim ? p.head_dim : p.value_dim;
  if (wider <= 32) return body(std::integral_constant<int, 32>{});
  if (wider <= 64) return body(std::integral_constant<int, 64>{});
  if constexpr (sizeof(T) == 2) {
    if (wider <= 96) return body(std::integral_constant<int, 96>{});
  }
  return body(std::integral_constant<int, 128>{});
}

// What the kernel without extras does not know: masks, dropout, and a scale under which the greatest product is not the
// greatest score.
inline bool has_extras(const Problem& p) {
  return p.mask_kind != AttentionMask::kNone || p.dropout_seed != nullptr || !(p.scale > 0.0f);
}

template <typename Kernel, typename Params>
void launch_tiles(
    Kernel* kernel, Params params, int64_t rows, int tile_rows, int threads, int bytes, const char* name,
    CUstream_st* stream) {
  if (rows == 0 || params.problem.batch_heads == 0) return;
  params.problem.tiles = static_cast<int32_t>((rows + tile_rows - 1) / tile_rows);
  const int64_t blocks = int64_t(params.problem.tiles) * params.problem.batch_heads;
  allow_shared_memory(kernel, bytes, name);
  GENLAB_LAUNCH(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), bytes, stream, params);
}

template <typename T>
void launch_forward(const ForwardParams& params, CUstream_st* stream);
template <typename T>
void launch_backward_query(const BackwardParams& params, CUstream_st* stream);
template <typename T>
void launch_backward_key(const BackwardParams& params, CUstream_st* stream);

}  // namespace attention
}  // namespace genlab

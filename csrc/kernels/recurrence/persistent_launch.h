// Launches of the persistent kernels: which size is compiled for which cell, and the launcher of both passes. Forward and
// backward are sources of their own, because each takes nvcc a while.
#pragma once

#include <type_traits>

#include "kernels/common/pack.h"
#include "kernels/recurrence/persistent_float.h"
#include "kernels/recurrence/persistent_mma.h"
#include "kernels/recurrence/weights.h"

struct CUstream_st;

namespace genlab {
namespace recurrence {

// Units in sixteens that the kernels in 16-bit types, and those in float32, are compiled for. The largest are what a block's
// registers hold, G * H * H values at 255 registers to a thread and 65536 to a block.
template <Kind kKind>
constexpr int kLargestTiles = kKind == Kind::kRnn ? 16 : 8;
template <Kind kKind>
constexpr int kLargestFours = kKind == Kind::kRnn ? 8 : kKind == Kind::kGru ? 6 : 5;

// Calls `body` with the smallest compiled size that holds `hidden` units.
template <Kind kKind, typename Body>
void with_tiles(int64_t hidden, Body body) {
  if (hidden <= 64) return body(std::integral_constant<int, 4>{});
  if constexpr (kLargestTiles<kKind> > 8) {
    if (hidden > 128) return body(std::integral_constant<int, kLargestTiles<kKind>>{});
  }
  return body(std::integral_constant<int, 8>{});
}

template <Kind kKind, typename Body>
void with_fours(int64_t hidden, Body body) {
  if (hidden <= 64) return body(std::integral_constant<int, 4>{});
  return body(std::integral_constant<int, kLargestFours<kKind>>{});
}

template <typename Params>
dim3 sequence_blocks(const Params& p, int64_t sequences) {
  return dim3(unsigned(round_up(p.batch, sequences) / sequences), unsigned(p.directions));
}

// Threads of `per` to a unit, for whole groups of `units` of them.
inline dim3 unit_threads(int64_t hidden, int64_t units, int64_t per) { return dim3(unsigned(round_up(hidden, units) * per)); }

template <Kind kKind, typename T, typename Params>
void launch_pack_weights(const Params& p, CUstream_st* stream) {
  const dim3 blocks = blocks_for(p.directions * packed_size(kGatesOf<kKind>, p.hidden));
  GENLAB_LAUNCH((pack_weights_kernel<kKind, T, Params>), blocks, dim3(kThreads), 0, stream, p);
}

// Calls `body` with a value of the 16-bit type.
template <typename Body>
void with_half(DType dtype, Body body) {
  if (dtype == DType::kBFloat16) return body(BFloat16{});
  return body(Float16{});
}

// One pass through all steps. Pass has its Params, its name for errors, is_aligned(params) of the rows that come in 16-byte
// chunks, the kernels float_kernel<kKind, kFours>() and mma_kernel<T, kKind, kTiles>(), and the latter's Shape.
template <typename Pass, typename Params = typename Pass::Params>
void launch_persistent(const Params& p, CUstream_st* stream) {
  if (p.directions * p.batch * p.hidden == 0) return;
  with_kind(p.cell, [&](auto tag) {
    constexpr Kind kKind = decltype(tag)::kKind;
    if (p.dtype == DType::kFloat32) {
      with_fours<kKind>(p.hidden, [&](auto fours) {
        const auto kernel = Pass::template float_kernel<kKind, decltype(fours)::value>();
        launch_pack_weights<kKind, float>(p, stream);
        GENLAB_LAUNCH(kernel, sequence_blocks(p, kFloatSequences), unit_threads(p.hidden, 8, 4), 0, stream, p);
      });
      return;
    }
    with_tiles<kKind>(p.hidden, [&](auto tiles) {
      constexpr int kTiles = decltype(tiles)::value;
      with_half(p.dtype, [&](auto element) {
        using T = decltype(element);
        const auto kernel = Pass::template mma_kernel<T, kKind, kTiles>();
        const int bytes = Pass::template Shape<T, kKind, kTiles>::shared_bytes(p.hidden);
        PersistentParams<Params> params;
        static_cast<Params&>(params) = p;
        params.vectors = p.hidden % 8 == 0 && Pass::is_aligned(p);
        launch_pack_weights<kKind, T>(p, stream);
        allow_shared_memory(kernel, bytes, Pass::kName);
        GENLAB_LAUNCH(
            kernel, sequence_blocks(p, kSequences), unit_threads(p.hidden, 16, 2), bytes, stream, params);
      });
    });
  });
  check_launch(Pass::kName);
}

}  // namespace recurrence
}  // namespace genlab

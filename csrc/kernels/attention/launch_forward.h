// Definition of launch_forward, for the files that instantiate it.
#pragma once

#include "kernels/attention/forward_kernel.h"
#include "kernels/attention/launch.h"

namespace genlab {
namespace attention {

template <typename T>
void launch_forward(const ForwardParams& params, CUstream_st* stream) {
  with_head<T>(params.problem, [&](auto head) {
    using Tile = ForwardTile<T, decltype(head)::value>;
    const auto kernel =
        has_extras(params.problem) ? attention_forward_kernel<Tile, true> : attention_forward_kernel<Tile, false>;
    launch_tiles(
        kernel, params, params.problem.queries, Tile::kRows, Tile::kThreads, kForwardSharedBytes<Tile>, "attention_forward",
        stream);
  });
}

}  // namespace attention
}  // namespace genlab

// Definitions of launch_backward_query and launch_backward_key, for the files that instantiate them.
#pragma once

#include "kernels/attention/backward_kernels.h"
#include "kernels/attention/launch.h"

namespace genlab {
namespace attention {

template <typename T>
void launch_backward_query(const BackwardParams& params, CUstream_st* stream) {
  with_head<T>(params.problem, [&](auto head) {
    using Tile = BackwardTile<T, decltype(head)::value>;
    const auto kernel = has_extras(params.problem) ? attention_backward_query_kernel<Tile, true>
                                                   : attention_backward_query_kernel<Tile, false>;
    launch_tiles(
        kernel, params, params.problem.queries, Tile::kRows, Tile::kThreads, kBackwardQuerySharedBytes<Tile>,
        "attention_backward_query", stream);
  });
}

// `batch_heads` of the problem are the key heads here.
template <typename T>
void launch_backward_key(const BackwardParams& params, CUstream_st* stream) {
  with_head<T>(params.problem, [&](auto head) {
    using Tile = BackwardTile<T, decltype(head)::value>;
    const auto kernel =
        has_extras(params.problem) ? attention_backward_key_kernel<Tile, true> : attention_backward_key_kernel<Tile, false>;
    launch_tiles(
        kernel, params, params.problem.keys, Tile::kRows, Tile::kThreads, kBackwardKeySharedBytes<Tile>,
        "attention_backward_key", stream);
  });
}

}  // namespace attention
}  // namespace genlab

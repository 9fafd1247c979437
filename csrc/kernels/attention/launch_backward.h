// Definitions of launch_backward_query and launch_backward_key, for the files that instantiate them.
#pragma once

#include "kernels/attention/backward_kernels.h"
#include "kernels/attention/launch.h"

namespace genlab {
namespace attention {

template <typename T, bool kExtras>
void launch_backward_query_tiles(const BackwardParams& params, CUstream_st* stream) {
  with_head<T>(params.problem, [&](auto head) {
    using Tile = BackwardTile<T, decltype(head)::value, kExtras>;
    launch_tiles(
        attention_backward_query_kernel<Tile, kExtras>, params, params.problem.queries, Tile::kRows, Tile::kThreads,
        kBackwardQuerySharedBytes<Tile>, "attention_backward_query", stream);
  });
}

template <typename T, bool kExtras>
void launch_backward_key_tiles(const BackwardParams& params, CUstream_st* stream) {
  with_head<T>(params.problem, [&](auto head) {
    using Tile = BackwardTile<T, decltype(head)::value, kExtras>;
    launch_tiles(
        attention_backward_key_kernel<Tile, kExtras>, params, params.problem.keys, Tile::kRows, Tile::kThreads,
        kBackwardKeySharedBytes<Tile>, "attention_backward_key", stream);
  });
}

template <typename T>
void launch_backward_query(const BackwardParams& params, CUstream_st* stream) {
  if (has_extras(params.problem)) return launch_backward_query_tiles<T, true>(params, stream);
  launch_backward_query_tiles<T, false>(params, stream);
}

// `batch_heads` of the problem are the key heads here.
template <typename T>
void launch_backward_key(const BackwardParams& params, CUstream_st* stream) {
  if (has_extras(params.problem)) return launch_backward_key_tiles<T, true>(params, stream);
  launch_backward_key_tiles<T, false>(params, stream);
}

}  // namespace attention
}  // namespace genlab

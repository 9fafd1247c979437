// Backward attention on tensor cores in float32.
#include "kernels/attention/launch_backward.h"

namespace genlab {
namespace attention {

template void launch_backward_query<float>(const BackwardParams& params, CUstream_st* stream);
template void launch_backward_key<float>(const BackwardParams& params, CUstream_st* stream);

}  // namespace attention
}  // namespace genlab

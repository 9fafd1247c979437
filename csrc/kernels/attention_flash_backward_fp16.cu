// Backward attention on tensor cores in float16.
#include "kernels/attention/launch_backward.h"

namespace genlab {
namespace attention {

template void launch_backward_query<Float16>(const BackwardParams& params, CUstream_st* stream);
template void launch_backward_key<Float16>(const BackwardParams& params, CUstream_st* stream);

}  // namespace attention
}  // namespace genlab

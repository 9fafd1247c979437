// Backward attention on tensor cores in bfloat16.
#include "kernels/attention/launch_backward.h"

namespace genlab {
namespace attention {

template void launch_backward_query<BFloat16>(const BackwardParams& params, CUstream_st* stream);
template void launch_backward_key<BFloat16>(const BackwardParams& params, CUstream_st* stream);

}  // namespace attention
}  // namespace genlab

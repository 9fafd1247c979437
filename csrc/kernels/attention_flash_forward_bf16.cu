// Forward attention on tensor cores in bfloat16.
#include "kernels/attention/launch_forward.h"

namespace genlab {
namespace attention {

template void launch_forward<BFloat16>(const ForwardParams& params, CUstream_st* stream);

}  // namespace attention
}  // namespace genlab

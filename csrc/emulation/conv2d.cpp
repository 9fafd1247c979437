// The convolution kernels as a host library with a C interface, for tests (tests/ops/test_cuda_source_on_host.py).
#define GENLAB_EMULATION
#include "kernels/conv2d_direct.cu"

#include <cstdio>
#include <exception>

namespace {

thread_local char message[512];

template <typename Launch>
int guarded(Launch launch) {
  try {
    launch();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof(message), "%s", error.what());
    return 1;
  }
}

}  // namespace

extern "C" {

// Sizes of the three parameter structs, so that a caller can check its own declaration of them.
void genlab_conv2d_params_sizes(int64_t sizes[3]) {
  sizes[0] = sizeof(genlab::Conv2dForwardParams);
  sizes[1] = sizeof(genlab::Conv2dBackwardInputParams);
  sizes[2] = sizeof(genlab::Conv2dBackwardWeightParams);
}

const char* genlab_last_message() { return message; }

int genlab_conv2d_forward(const genlab::Conv2dForwardParams* params) {
  return guarded([&] { genlab::launch_conv2d_forward_direct(*params, nullptr); });
}

int genlab_conv2d_backward_input(const genlab::Conv2dBackwardInputParams* params) {
  return guarded([&] { genlab::launch_conv2d_backward_input_direct(*params, nullptr); });
}

int genlab_conv2d_backward_weight(const genlab::Conv2dBackwardWeightParams* params) {
  return guarded([&] { genlab::launch_conv2d_backward_weight_direct(*params, nullptr); });
}

}  // extern "C"

// The convolutions under AddressSanitizer and UndefinedBehaviorSanitizer: buffers of exactly their size, tensor-core kernels
// against the direct ones. Prints the worst difference; with an argument, one buffer is too short and the run must die.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "kernels/conv2d.h"
#include "kernels/conv2d_implicit_gemm.h"
#include "kernels/conv2d_norm.h"

namespace {

using genlab::BFloat16;

struct Buffer {
  explicit Buffer(int64_t count, bool random = false) : data(static_cast<BFloat16*>(std::malloc(count * sizeof(BFloat16)))) {
    static std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) data.get()[i] = genlab::narrow<BFloat16>(random ? normal(generator) : NAN);
  }
  struct Free {
    void operator()(BFloat16* p) const { std::free(p); }
  };
  std::unique_ptr<BFloat16, Free> data;
};

void channels_last(int64_t (&stride)[4], int64_t c, int64_t h, int64_t w) {
  stride[0] = h * w * c;
  stride[1] = 1;
  stride[2] = w * c;
  stride[3] = c;
}

double difference(const Buffer& a, const Buffer& b, int64_t count) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double x = genlab::widen(a.data.get()[i]), y = genlab::widen(b.data.get()[i]);
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return std::isnan(error) ? INFINITY : std::sqrt(error / norm);
}

// The fused kernels with a normalisation that changes nothing and statistics without a gradient, against the direct ones.
double compare_fused(
    genlab::Conv2dForwardParams f, genlab::Conv2dBackwardInputParams b, genlab::Conv2dBackwardWeightParams w,
    const Buffer& output, const Buffer& grad_input, const Buffer& grad_weight) {
  const genlab::Conv2dGeometry& g = f.geometry;
  const std::vector<float> ones(g.c_in, 1.0f), zeros(std::max(g.c_in, g.c_out), 0.0f);
  genlab::ConvNorm norm{};
  norm.mean = zeros.data(), norm.var = ones.data();
  const int64_t inputs = g.n * g.c_in * g.h * g.w, outputs = g.n * g.c_out * g.h_out * g.w_out;
  const int64_t weights = g.c_out * g.c_in * g.kh * g.kw;
  Buffer found_output(outputs), found_input(inputs), found_weight(weights);
  std::vector<float> mean(g.c_out), var(g.c_out), sums(4 * g.c_in);

  f.bias = nullptr, f.output = found_output.data.get();
  std::vector<char> scratch(genlab::workspace_of_conv_norm(f));
  genlab::launch_conv_norm_forward(f, {norm, mean.data(), var.data()}, scratch.data(), nullptr);
  double worst = difference(found_output, output, outputs);
  for (float value : var) worst = value > 0 ? worst : INFINITY;

  const genlab::ConvStatisticsGradient statistics{output.data.get(), zeros.data(), zeros.data(), zeros.data()};
  w.grad_weight = found_weight.data.get(), w.grad_bias = nullptr;
  scratch = std::vector<char>(genlab::workspace_of_conv_norm(w));
  genlab::launch_conv_norm_weight_gradient(w, {genlab::ConvNorm{}, norm, statistics, {}}, scratch.data(), nullptr);
  worst = std::max(worst, difference(found_weight, grad_weight, weights));
  if (g.reflect) return worst;

  b.grad_input = found_input.data.get();
  scratch = std::vector<char>(genlab::workspace_of_conv_norm(b));
  float* const s = sums.data();
  const genlab::ConvNormGradient gradient{
      statistics, norm, f.input, s, s + g.c_in, s + 2 * g.c_in, s + 3 * g.c_in};
  genlab::launch_conv_norm_gradient(b, gradient, scratch.data(), nullptr);
  return std::max(worst, difference(found_input, grad_input, inputs));
}

// The gradients again, of an output that went through leaky_relu, whose slope costs no rounding: relative differences of the
// two kernels, the worst of all.
double compare_through_activation(
    genlab::Conv2dBackwardInputParams b, genlab::Conv2dBackwardWeightParams w, const Buffer& output, Buffer& grad_input,
    Buffer& grad_input_direct, Buffer& grad_weight, Buffer& grad_weight_direct) {
  const genlab::Conv2dGeometry& g = b.geometry;
  b.of_grad_output = w.of_grad_output = {output.data.get(), 0.25, genlab::Activation::kLeakyRelu};
  std::vector<char> scratch(genlab::workspace_of_conv2d_backward_input_implicit_gemm(b));
  b.grad_input = grad_input.data.get();
  genlab::launch_conv2d_backward_input_implicit_gemm(b, scratch.data(), nullptr);
  b.grad_input = grad_input_direct.data.get();
  genlab::launch_conv2d_backward_input_direct(b, nullptr);
  Buffer sums(g.c_out), sums_direct(g.c_out), input_sums(g.c_in), input_sums_direct(g.c_in);
  scratch = std::vector<char>(genlab::workspace_of_conv2d_backward_weight_implicit_gemm(w));
  w.grad_weight = grad_weight.data.get(), w.grad_bias = sums.data.get(), w.input_sum = input_sums.data.get();
  genlab::launch_conv2d_backward_weight_implicit_gemm(w, scratch.data(), nullptr);
  w.grad_weight = grad_weight_direct.data.get(), w.grad_bias = sums_direct.data.get();
  w.input_sum = input_sums_direct.data.get();
  genlab::launch_conv2d_backward_weight_direct(w, nullptr);
  return std::max({difference(grad_input, grad_input_direct, g.n * g.c_in * g.h * g.w),
                   difference(grad_weight, grad_weight_direct, g.c_out * g.c_in * g.kh * g.kw),
                   difference(sums, sums_direct, g.c_out), difference(input_sums, input_sums_direct, g.c_in)});
}

double compare(int64_t c_in, int64_t c_out, int64_t kernel, int64_t stride, bool reflect, bool short_input) {
  genlab::Conv2dGeometry g{};
  g.n = 2, g.c_in = c_in, g.h = 9, g.w = 7, g.c_out = c_out, g.kh = g.kw = kernel, g.stride_h = g.stride_w = stride;
  g.padding_h = g.padding_w = 1, g.dilation_h = g.dilation_w = 1, g.groups = 1, g.reflect = reflect;
  g.dtype = genlab::DType::kBFloat16;
  g.h_out = (g.h + 2 - kernel) / stride + 1, g.w_out = (g.w + 2 - kernel) / stride + 1;
  const int64_t inputs = g.n * c_in * g.h * g.w, outputs = g.n * c_out * g.h_out * g.w_out;
  const int64_t weights = c_out * c_in * kernel * kernel;
  Buffer input(short_input ? inputs - 1 : inputs, true), weight(weights, true), bias(c_out, true);
  Buffer output(outputs), output_direct(outputs), grad_input(inputs), grad_input_direct(inputs);

  genlab::Conv2dForwardParams f{};
  f.geometry = g, f.input = input.data.get(), f.weight = weight.data.get(), f.bias = bias.data.get();
  channels_last(f.input_stride, c_in, g.h, g.w);
  channels_last(f.weight_stride, c_in, kernel, kernel);
  channels_last(f.output_stride, c_out, g.h_out, g.w_out);
  std::vector<char> scratch(genlab::workspace_of_conv2d_forward_implicit_gemm(f));
  f.output = output.data.get();
  genlab::launch_conv2d_forward_implicit_gemm(f, scratch.data(), nullptr);
  f.output = output_direct.data.get();
  genlab::launch_conv2d_forward_direct(f, nullptr);
  double worst = difference(output, output_direct, outputs);

  genlab::Conv2dBackwardWeightParams w{};
  Buffer grad_weight(weights), grad_weight_direct(weights), grad_bias(c_out), grad_bias_direct(c_out);
  w.geometry = g, w.grad_output = output_direct.data.get(), w.input = input.data.get();
  channels_last(w.grad_output_stride, c_out, g.h_out, g.w_out);
  channels_last(w.input_stride, c_in, g.h, g.w);
  channels_last(w.grad_weight_stride, c_in, kernel, kernel);
  scratch = std::vector<char>(genlab::workspace_of_conv2d_backward_weight_implicit_gemm(w));
  w.grad_weight = grad_weight.data.get(), w.grad_bias = grad_bias.data.get();
  genlab::launch_conv2d_backward_weight_implicit_gemm(w, scratch.data(), nullptr);
  w.grad_weight = grad_weight_direct.data.get(), w.grad_bias = grad_bias_direct.data.get();
  genlab::launch_conv2d_backward_weight_direct(w, nullptr);
  worst = std::max(worst, difference(grad_weight, grad_weight_direct, weights));
  worst = std::max(worst, difference(grad_bias, grad_bias_direct, c_out));

  genlab::Conv2dBackwardInputParams b{};
  b.geometry = g, b.grad_output = output_direct.data.get(), b.weight = weight.data.get();
  channels_last(b.grad_output_stride, c_out, g.h_out, g.w_out);
  channels_last(b.weight_stride, c_in, kernel, kernel);
  channels_last(b.grad_input_stride, c_in, g.h, g.w);
  scratch = std::vector<char>(genlab::workspace_of_conv2d_backward_input_implicit_gemm(b));
  b.grad_input = grad_input.data.get();
  genlab::launch_conv2d_backward_input_implicit_gemm(b, scratch.data(), nullptr);
  b.grad_input = grad_input_direct.data.get();
  genlab::launch_conv2d_backward_input_direct(b, nullptr);
  worst = std::max(worst, difference(grad_input, grad_input_direct, inputs));
  worst = std::max(
      worst, compare_through_activation(
                 b, w, output_direct, grad_input, grad_input_direct, grad_weight, grad_weight_direct));
  b.grad_input = grad_input_direct.data.get();
  genlab::launch_conv2d_backward_input_direct(b, nullptr);
  w.grad_weight = grad_weight_direct.data.get();
  genlab::launch_conv2d_backward_weight_direct(w, nullptr);
  Buffer without_bias(outputs);
  f.bias = nullptr, f.output = without_bias.data.get();
  genlab::launch_conv2d_forward_direct(f, nullptr);
  return std::max(worst, compare_fused(f, b, w, without_bias, grad_input_direct, grad_weight_direct));
}

}  // namespace

int main(int argc, char**) {
  double worst = compare(8, 8, 3, 1, false, argc > 1);
  worst = std::max(worst, compare(24, 40, 4, 2, false, false));
  worst = std::max(worst, compare(3, 5, 3, 2, false, false));
  worst = std::max(worst, compare(8, 8, 3, 1, true, false));
  std::printf("%g\n", worst);
  return worst < 3e-3 ? 0 : 1;
}

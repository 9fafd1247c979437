// What the Winograd engine is told: one convolution with 2x2 or 3x3 taps over up to four phases of an image.
//
//   out(n, i, j)[k] = sum over phase, tap (a, b), c of
//       source(n, step * (i + a) + phase.row, step * (j + b) + phase.column)[c] * weight[k, c, tap_row(a), tap_column(b)]
//
// A stride of 2 splits the image in four phases that are summed; the transposed direction is four such convolutions, one for
// each phase of its output.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/parallel.h"
#include "kernels/common/activation.h"
#include "kernels/common/dtype.h"

namespace genlab::cpu::winograd {

// An image with its channels next to each other; strides in elements.
template <typename T>
struct ImageOf {
  T* data;
  int64_t stride_n, stride_h, stride_w;
  int64_t n, h, w, channels;
};

using Image = ImageOf<float>;
using ConstImage = ImageOf<const float>;

// What an image is multiplied with as it is read: the derivative of an activation, from its output.
struct Derivative {
  const float* output;  // with the image's strides; null: the image as it is
  Activation activation;
  float negative_slope;
};

struct Phase {
  int64_t row, column;          // of the first sample
  int64_t tap_row, tap_column;  // position in the kernel of tap (0, 0)
};

struct Weight {
  const float* data;
  int64_t stride_out, stride_in, stride_row, stride_column;
};

struct Convolution {
  ConstImage source;
  int64_t step;      // between samples
  bool reflect;      // how samples outside the source are read; zeros otherwise
  int kernel;        // taps of the whole kernel each way
  int64_t tap_step;  // between taps in the kernel
  std::vector<Phase> phases;
  Weight weight;
  Derivative derivative;  // of the source
};

// Where the results go: position (i, j) of the convolution is pixel (first + step * i, ...) of `image`.
struct Target {
  Image image;
  int64_t first_row, first_column, step;
  int64_t rows, columns;
  const float* bias;  // null for none
  Activation activation;
  float negative_slope;
};

// One convolution with its target. A transposed convolution is up to four pieces that write disjoint pixels.
struct Piece {
  Convolution convolution;
  Target target;
};

struct GradWeight {
  float* data;  // input channels next to each other
  int64_t stride_out, stride_row, stride_column;
  float* bias;  // the sums of grad_output; null where not wanted
};

// The engine's two products for one instruction set.
struct Engine {
  void (*convolve)(int taps, const std::vector<Piece>&, const ParallelFor&);
  // The gradient of the weight; convolution.weight is not read. grad_output: where `Target` would be, with step 1.
  void (*correlate)(
      int taps, const Convolution&, const ConstImage& grad_output, const Derivative&, const GradWeight&, const ParallelFor&);
  // sums[channels] = those of lines [begin, end), counted through all images, times the derivative.
  void (*sum_lines)(const ConstImage&, const Derivative&, int64_t begin, int64_t end, float* sums);
  // to[i] = gradient[i] in float32 times the derivative; `output` may be null.
  void (*widen_gradient)(
      const BFloat16* gradient, const BFloat16* output, Activation, float negative_slope, int64_t count, float* to);
};

const Engine& engine_avx512();

}  // namespace genlab::cpu::winograd

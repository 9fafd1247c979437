// One layer of a recurrent network as torch ops: checks, the products over all steps, outputs, parameters, kernel calls.
#include "kernels/recurrence.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "cpu/float_product.h"
#include "cpu/recurrence.h"
#include "ops/arguments.h"
#include "ops/run.h"

#if defined(GENLAB_WITH_CUDA)
#include "ops/recurrence_cuda.h"
#endif

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Cell cell_of(const char* op, std::string_view name) {
  if (name == "lstm") return Cell::kLstm;
  if (name == "gru") return Cell::kGru;
  if (name == "rnn_tanh") return Cell::kRnnTanh;
  if (name == "rnn_relu") return Cell::kRnnRelu;
  TORCH_CHECK_VALUE(
      false, op, ": expected cell to be one of lstm, gru, rnn_tanh, rnn_relu, got '", std::string(name), "'");
}

constexpr double kLeastProducts = 1 << 18;  // below, packing is not paid back

// out = a b
void multiply(Tensor& out, const Tensor& a, const Tensor& b) {
  const auto in_lines = [](const Tensor& t) { return t.stride(0) == 1 || t.stride(1) == 1; };
  if (!a.is_cpu() || a.scalar_type() != at::kFloat || !cpu::has_float_product() || !in_lines(a) || !in_lines(b) ||
      out.stride(1) != 1 || double(a.size(0)) * a.size(1) * b.size(1) < kLeastProducts) {
    at::mm_out(out, a, b);
    return;
  }
  const cpu::FloatProduct product{
      a.size(0), b.size(1), a.size(1), a.const_data_ptr<float>(), a.stride(0), a.stride(1),
      b.const_data_ptr<float>(), b.stride(0), b.stride(1), out.mutable_data_ptr<float>(), out.stride(0)};
  cpu::multiply(product, parallel_for);
}

Tensor multiply(const Tensor& a, const Tensor& b) {
  Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  multiply(out, a, b);
  return out;
}

struct Direction {
  Tensor weight_ih, weight_hh, bias_ih, bias_hh;
};

// The tensors of a call, checked and contiguous, held while their pointers are in use; D directions, G gates of H units.
struct Layer {
  const char* op;
  Cell cell;
  Tensor input;  // (rows, I)
  Tensor h0, c0, mask, offsets;
  std::vector<Direction> directions;
  at::DimVector leading;  // sizes of the output before its last
  int64_t steps, batch, hidden, gates, rows;

  Layer(
      const char* op_, std::string_view cell_, const Tensor& input_, const OptionalTensor& h0_, const OptionalTensor& c0_,
      const std::array<OptionalTensor, 8>& parameters, const OptionalTensor& batch_sizes, const OptionalTensor& mask_)
      : op(op_), cell(cell_of(op_, cell_)), input(input_) {
    const bool packed = batch_sizes.has_value() && batch_sizes->defined();
    TORCH_CHECK_VALUE(
        input.dim() == (packed ? 2 : 3), op, ": expected input of shape ", packed ? "(rows, I)" : "(T, B, I)", ", got ",
        shape_text(input));
    TORCH_CHECK_VALUE(parameters[0].has_value() && parameters[1].has_value(), op, ": expected weight_ih and weight_hh");
    gates = recurrence_gates(cell);
    hidden = parameters[1]->size(-1);
    TORCH_CHECK_VALUE(hidden > 0, op, ": expected at least one hidden unit");
    for (size_t i = 0; i < parameters.size() && parameters[i].has_value(); i += 4) add_direction(&parameters[i]);
    if (packed) {
      read_batch_sizes(*batch_sizes);
    } else {
      steps = input.size(0), batch = input.size(1);
      leading.assign({steps, batch});
    }
    TORCH_CHECK_VALUE(steps > 0, op, ": expected at least one step");
    rows = packed ? input.size(0) : steps * batch;
    if (packed) leading.assign({rows});
    input = input.reshape({rows, input.size(-1)}).contiguous();
    h0 = state("h0", h0_), c0 = state("c0", c0_), mask = state("mask", mask_);
  }

  int64_t count() const { return static_cast<int64_t>(directions.size()); }

  void add_direction(const OptionalTensor* given) {
    const int64_t height = gates * hidden;
    const auto take = [&](const char* name, const OptionalTensor& tensor, at::IntArrayRef sizes) {
      if (!tensor.has_value() || !tensor->defined()) return Tensor();
      TORCH_CHECK_VALUE(tensor->sizes() == sizes, op, ": expected ", name, " of shape ", sizes, ", got ", shape_text(*tensor));
      check_like_input(name, *tensor);
      return tensor->contiguous();
    };
    directions.push_back(
        {take("weight_ih", given[0], {height, input.size(-1)}), take("weight_hh", given[1], {height, hidden}),
         take("bias_ih", given[2], {height}), take("bias_hh", given[3], {height})});
  }

  void check_like_input(const char* name, const Tensor& tensor) const {
    check_device(op, name, tensor, input);
    TORCH_CHECK(
        tensor.scalar_type() == input.scalar_type(), op, ": expected ", name, " of the input's dtype ",
        input.scalar_type(), ", got ", tensor.scalar_type());
  }

  // Rows of each step, as a PackedSequence has them, to the first row of each.
  void read_batch_sizes(const Tensor& batch_sizes) {
    TORCH_CHECK(
        batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.device().is_cpu() &&
            batch_sizes.numel() > 0,
        op, ": expected batch_sizes to be one row of int64 on the CPU");
    const Tensor sizes = batch_sizes.contiguous();
    const int64_t* const size = sizes.const_data_ptr<int64_t>();
    steps = sizes.numel(), batch = size[0];
    offsets = at::empty({steps + 1}, sizes.options());
    int64_t* const offset = offsets.mutable_data_ptr<int64_t>();
    offset[0] = 0;
    for (int64_t t = 0; t < steps; ++t) {
      TORCH_CHECK(
          size[t] > 0 && (t == 0 || size[t] <= size[t - 1]), op,
          ": expected batch_sizes above zero that never increase, got ", size[t], " at step ", t);
      offset[t + 1] = offset[t] + size[t];
    }
    TORCH_CHECK(
        offset[steps] == input.size(0), op, ": expected ", offset[steps], " rows as batch_sizes add up to, got ",
        input.size(0));
  }

  Tensor state(const char* name, const OptionalTensor& tensor) const {
    if (!tensor.has_value() || !tensor->defined()) return Tensor();
    const std::array<int64_t, 3> sizes{count(), batch, hidden};
    TORCH_CHECK(
        tensor->sizes() == at::IntArrayRef(sizes), op, ": expected ", name, " of shape ", at::IntArrayRef(sizes), ", got ",
        shape_text(*tensor));
    check_like_input(name, *tensor);
    return tensor->contiguous();
  }

  Tensor per_row(int64_t width) const { return at::empty({rows, count() * width}, input.options()); }
  Tensor per_sequence() const { return at::empty({count(), batch, hidden}, input.options()); }
  Tensor none() const { return at::empty({0}, input.options()); }

  // (D * G * H, I): the input weights of all directions.
  Tensor input_weights() const {
    return count() == 1 ? directions[0].weight_ih : at::cat({directions[0].weight_ih, directions[1].weight_ih});
  }

  // What forward and backward parameters share. `device_offsets` keeps a copy of the offsets where the kernel runs.
  template <typename Params>
  void fill(Params& p, Tensor& device_offsets) const {
    p.cell = cell, p.dtype = dtype_of(op, input);
    p.steps = steps, p.batch = batch, p.hidden = hidden, p.directions = count(), p.rows = rows;
    if (offsets.defined()) {
      device_offsets = offsets;
#if defined(GENLAB_WITH_CUDA)
      if (input.is_cuda()) device_offsets = offsets_on_cuda(offsets, input);
#endif
      p.offsets = device_offsets.const_data_ptr<int64_t>();
    }
    for (int64_t d = 0; d < count(); ++d) p.weight[d] = directions[d].weight_hh.const_data_ptr();
    p.mask = data_or_null(mask);
    p.h0 = data_or_null(h0);
    p.c0 = data_or_null(c0);
  }
};

// (output, h_n, c_n, gates, kept): the last two for the gradient, kept is the cells of an LSTM and q of a GRU. What a cell
// does not have, and what is not kept, has shape (0,).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence(
    const Tensor& input, const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& weight_ih,
    const Tensor& weight_hh, const OptionalTensor& bias_ih, const OptionalTensor& bias_hh,
    const OptionalTensor& weight_ih_reverse, const OptionalTensor& weight_hh_reverse,
    const OptionalTensor& bias_ih_reverse, const OptionalTensor& bias_hh_reverse, const OptionalTensor& batch_sizes,
    const OptionalTensor& mask, std::string_view cell, bool keep) {
  const Layer layer(
      "recurrence", cell, input, h0, c0,
      {weight_ih, weight_hh, bias_ih, bias_hh, weight_ih_reverse, weight_hh_reverse, bias_ih_reverse, bias_hh_reverse},
      batch_sizes, mask);
  const bool lstm = layer.cell == Cell::kLstm, gru = layer.cell == Cell::kGru;
  const Tensor products = multiply(layer.input, layer.input_weights().t());
  at::DimVector sizes = layer.leading;
  sizes.push_back(layer.count() * layer.hidden);
  Tensor output = at::empty(sizes, layer.input.options()), h_n = layer.per_sequence();
  Tensor c_n = lstm ? layer.per_sequence() : layer.none();
  const bool gated = lstm || gru;
  const Tensor kept = keep && gated ? layer.per_row(layer.hidden) : layer.none();
  RecurrenceParams p{};
  Tensor offsets;
  layer.fill(p, offsets);
  p.input = products.const_data_ptr();
  for (int64_t d = 0; d < layer.count(); ++d) {
    p.bias_ih[d] = data_or_null(layer.directions[d].bias_ih);
    p.bias_hh[d] = data_or_null(layer.directions[d].bias_hh);
  }
  p.output = output.mutable_data_ptr();
  p.h_n = h_n.mutable_data_ptr();
  p.c_n = lstm ? c_n.mutable_data_ptr() : nullptr;
  p.gates = keep && gated ? products.mutable_data_ptr() : nullptr;  // each value is read before its place is written
  p.cells = keep && lstm ? kept.mutable_data_ptr() : nullptr;
  p.candidate = keep && gru ? kept.mutable_data_ptr() : nullptr;
  GENLAB_RUN(
      layer.input, cpu::recurrence(p, at::get_num_threads(), parallel_for), run_recurrence_cuda(p, layer.input, stream))
  return {output, h_n, c_n, keep && gated ? products : layer.none(), kept};
}

// The gradients of weights and biases from those of the gates, and that of the input.
struct ParameterGradients {
  const Layer& layer;
  const Tensor& grad_input;      // (rows, D * G * H)
  const Tensor& grad_candidate;  // (rows, D * H), gru
  const Tensor& previous;        // (rows, D * H)

  Tensor gates_of(int64_t d) const { return grad_input.narrow(1, d * width(), width()); }
  int64_t width() const { return layer.gates * layer.hidden; }
  bool apart() const { return layer.cell == Cell::kGru; }  // n's part of the product has a gradient of its own

  Tensor weight_hh(int64_t d) const {
    const int64_t h = layer.hidden, own = apart() ? 2 * h : width();
    const Tensor before = previous.narrow(1, d * h, h);
    Tensor grad = at::empty({width(), h}, layer.input.options());
    Tensor first = grad.narrow(0, 0, own);
    multiply(first, gates_of(d).narrow(1, 0, own).t(), before);
    if (apart()) {
      Tensor last = grad.narrow(0, own, h);
      multiply(last, grad_candidate.narrow(1, d * h, h).t(), before);
    }
    return grad;
  }

  Tensor bias_hh(int64_t d, const Tensor& bias_ih) const {
    if (!apart()) return bias_ih.clone();
    const Tensor candidate = grad_candidate.narrow(1, d * layer.hidden, layer.hidden).sum(0);
    return at::cat({bias_ih.narrow(0, 0, 2 * layer.hidden), candidate});
  }
};

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of (input, h0, c0, then weight_ih, weight_hh, bias_ih, bias_hh of each direction); those that `wanted` leaves
// out have shape (0,).
Gradients recurrence_backward(
    const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n, const Tensor& input,
    const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& weight_ih, const Tensor& weight_hh,
    const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const OptionalTensor& weight_ih_reverse,
    const OptionalTensor& weight_hh_reverse, const OptionalTensor& bias_ih_reverse, const OptionalTensor& bias_hh_reverse,
    const OptionalTensor& batch_sizes, const OptionalTensor& mask, const Tensor& output, const Tensor& gates,
    const Tensor& kept, std::string_view cell, std::array<bool, 11> wanted) {
  const Layer layer(
      "recurrence_backward", cell, input, h0, c0,
      {weight_ih, weight_hh, bias_ih, bias_hh, weight_ih_reverse, weight_hh_reverse, bias_ih_reverse, bias_hh_reverse},
      batch_sizes, mask);
  const int64_t h = layer.hidden, d_count = layer.count();
  const bool lstm = layer.cell == Cell::kLstm, gru = layer.cell == Cell::kGru;
  TORCH_CHECK_VALUE(
      output.numel() == layer.rows * d_count * h &&
          (!(lstm || gru) || (gates.numel() == output.numel() * layer.gates && kept.numel() == output.numel())),
      layer.op, ": expected output, gates and kept as recurrence returned them with keep=True");
  const auto grad = [&](const char* name, const OptionalTensor& tensor, int64_t count) {
    if (!tensor.has_value() || !tensor->defined()) return Tensor();
    TORCH_CHECK_VALUE(tensor->numel() == count, layer.op, ": expected ", name, " of its result's shape");
    layer.check_like_input(name, *tensor);
    return tensor->contiguous();
  };
  const Tensor from_output = grad("grad_output", grad_output, output.numel());
  const Tensor from_h = grad("grad_h_n", grad_h_n, d_count * layer.batch * h);
  const Tensor from_c = lstm ? grad("grad_c_n", grad_c_n, d_count * layer.batch * h) : Tensor();
  const Tensor states = output.contiguous(), kept_gates = gates.contiguous(), kept_rest = kept.contiguous();

  Tensor grad_gates = layer.per_row(layer.gates * h), grad_candidate = gru ? layer.per_row(h) : layer.none();
  const bool recurrent_weights = wanted[4] || wanted[8];
  Tensor previous = recurrent_weights ? layer.per_row(h) : layer.none();
  std::array<Tensor, 11> grads;
  grads.fill(layer.none());
  for (int i : {1, 2}) {
    if (wanted[i]) grads[i] = layer.per_sequence();
  }
  RecurrenceBackwardParams p{};
  Tensor offsets;
  layer.fill(p, offsets);
  p.grad_output = data_or_null(from_output);
  p.grad_h_n = data_or_null(from_h);
  p.grad_c_n = data_or_null(from_c);
  p.output = states.const_data_ptr();
  p.gates = lstm || gru ? kept_gates.const_data_ptr() : nullptr;
  p.cells = lstm ? kept_rest.const_data_ptr() : nullptr;
  p.candidate = gru ? kept_rest.const_data_ptr() : nullptr;
  p.grad_input = grad_gates.mutable_data_ptr();
  p.grad_candidate = gru ? grad_candidate.mutable_data_ptr() : nullptr;
  p.previous = recurrent_weights ? previous.mutable_data_ptr() : nullptr;
  p.grad_h0 = wanted[1] ? grads[1].mutable_data_ptr() : nullptr;
  p.grad_c0 = wanted[2] && lstm ? grads[2].mutable_data_ptr() : nullptr;
  GENLAB_RUN(
      layer.input, cpu::recurrence_backward(p, at::get_num_threads(), parallel_for),
      run_recurrence_backward_cuda(p, layer.input, stream))

  const ParameterGradients parameters{layer, grad_gates, grad_candidate, previous};
  if (wanted[0]) grads[0] = multiply(grad_gates, layer.input_weights()).view(input.sizes());
  for (int64_t d = 0; d < d_count; ++d) {
    const int64_t at = 3 + 4 * d;
    const Tensor of_gates = parameters.gates_of(d);
    if (wanted[at]) grads[at] = multiply(of_gates.t(), layer.input);
    if (wanted[at + 1]) grads[at + 1] = parameters.weight_hh(d);
    if (!wanted[at + 2] && !wanted[at + 3]) continue;
    const Tensor sums = of_gates.sum(0);
    if (wanted[at + 2]) grads[at + 2] = sums;
    if (wanted[at + 3]) grads[at + 3] = parameters.bias_hh(d, sums);
  }
  return std::tuple_cat(grads);
}

}  // namespace

void register_recurrence(torch::Library& m) {
  m.impl("recurrence", TORCH_FN(recurrence));
  m.impl("recurrence_backward", TORCH_FN(recurrence_backward));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_recurrence)

// Every schema of the library, and the Python module that loads it. Tensors go through the dispatcher only; the module
// itself states build facts.
#include <pybind11/pybind11.h>
#include <torch/library.h>

TORCH_LIBRARY(genlab, m) {
  m.def(
      "cross_entropy(Tensor input, Tensor target, Tensor? weight, int reduction, int ignore_index, float label_smoothing, "
      "bool gradient) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "cross_entropy_backward(Tensor grad_loss, Tensor input, Tensor target, Tensor? weight, Tensor moments, Tensor divisor, "
      "int reduction, int ignore_index, float label_smoothing) -> Tensor");
  m.def(
      "gan_loss(Tensor fake_logits, Tensor? real_logits, str loss, float label_smoothing, bool gradient) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("reparametrize_kl(Tensor mean, Tensor log_variance, Tensor noise) -> (Tensor, Tensor)");
  m.def(
      "reparametrize_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mean, Tensor log_variance, Tensor noise, "
      "bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, int groups, "
      "str padding_mode, str? activation, float negative_slope) -> Tensor");
  m.def(
      "conv2d_act_backward(Tensor grad_output, Tensor output, Tensor input, Tensor weight, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, str padding_mode, bool transposed, str activation, float negative_slope, "
      "bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "conv2d_backward_input(Tensor grad_output, Tensor weight, SymInt[2] input_size, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, str padding_mode) -> Tensor");
  m.def(
      "conv2d_backward_weight(Tensor grad_output, Tensor input, SymInt[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, str padding_mode, bool with_bias, bool? channels_last=None) -> (Tensor, Tensor)");
  m.def(
      "conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] output_padding, "
      "int groups, int[2] dilation, str? activation, float negative_slope) -> Tensor");
  m.def(
      "norm_conv2d(Tensor input, Tensor? mean, Tensor? var, Tensor? norm_weight, Tensor? norm_bias, float eps, "
      "str? norm_activation, float norm_slope, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, "
      "int[2] output_padding, int[2] dilation, int groups, str padding_mode, bool transposed, bool native_convolution, "
      "bool statistics) -> (Tensor, Tensor, Tensor)");
  m.def(
      "norm_conv2d_backward(Tensor grad_output, Tensor? grad_mean, Tensor? grad_var, Tensor? output, Tensor? output_mean, "
      "Tensor input, Tensor? mean, Tensor? var, Tensor? norm_weight, Tensor? norm_bias, float eps, str? norm_activation, "
      "float norm_slope, Tensor weight, int[2] stride, int[2] padding, int[2] output_padding, int[2] dilation, int groups, "
      "str padding_mode, bool transposed, bool native_convolution, bool[7] wanted) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "norm_statistics(Tensor input, bool per_sample, Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum) "
      "-> (Tensor, Tensor)");
  m.def(
      "norm_act(Tensor input, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, float eps, "
      "str? activation, float negative_slope, bool statistics_of_input, int reflect_pad=0) -> Tensor");
  m.def(
      "norm_act_backward(Tensor grad_output, Tensor input, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
      "Tensor? residual, float eps, str? activation, float negative_slope, bool statistics_of_input, bool[4] wanted, "
      "int reflect_pad=0) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "norm_act_backward_sums(Tensor grad_output, Tensor input, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
      "Tensor? residual, float eps, str? activation, float negative_slope, int reflect_pad=0) -> (Tensor, Tensor)");
  m.def(
      "norm_act_backward_input(Tensor grad_output, Tensor input, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
      "Tensor? residual, Tensor sum_grad, Tensor sum_grad_normalised, float inverse_count, float eps, str? activation, "
      "float negative_slope, bool want_residual, int reflect_pad=0) -> (Tensor, Tensor)");
  m.def(
      "layer_norm_act(Tensor input, int normalized_dims, Tensor? weight, Tensor? bias, Tensor? residual, float eps, "
      "str? activation, float negative_slope) -> (Tensor, Tensor, Tensor)");
  m.def(
      "layer_norm_act_backward(Tensor grad_output, Tensor input, int normalized_dims, Tensor mean, Tensor rstd, "
      "Tensor? weight, Tensor? bias, Tensor? residual, float eps, str? activation, float negative_slope, bool[4] wanted) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "optimizer_step_adam(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] max_exp_avg_sqs, Tensor(e!)[] steps, float lr, float beta1, float beta2, float eps, float weight_decay, "
      "bool decoupled, bool maximize, Tensor? lr_tensor, Tensor? grad_scale, Tensor? found_inf, Tensor? grad_norm, "
      "float max_norm, Tensor(f!)[] averages, float average_share, Tensor? average_share_tensor, Tensor(g!)[] shadows, "
      "float bound) -> ()");
  m.def(
      "optimizer_step_rmsprop(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, Tensor(c!)[] grad_avgs, "
      "Tensor(d!)[] momentum_buffers, Tensor(e!)[] steps, float lr, float alpha, float eps, float weight_decay, "
      "float momentum, bool maximize, Tensor? lr_tensor, Tensor? grad_scale, Tensor? found_inf, Tensor? grad_norm, "
      "float max_norm, Tensor(f!)[] averages, float average_share, Tensor? average_share_tensor, Tensor(g!)[] shadows, "
      "float bound) -> ()");
  m.def(
      "optimizer_step_sgd(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffers, bool[] is_first, float lr, "
      "float weight_decay, float momentum, float dampening, bool nesterov, bool maximize, Tensor? lr_tensor, "
      "Tensor? grad_scale, Tensor? found_inf, Tensor? grad_norm, float max_norm, Tensor(f!)[] averages, float average_share, "
      "Tensor? average_share_tensor, Tensor(g!)[] shadows, float bound) -> ()");
  m.def(
      "optimizer_step_follow(Tensor(a!)[] params, Tensor(f!)[] averages, float average_share, Tensor? average_share_tensor, "
      "Tensor(g!)[] shadows, float bound) -> ()");
  m.def("optimizer_step_norm(Tensor[] grads) -> Tensor");
  m.def(
      "scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, Tensor? dropout_seed, "
      "float dropout_p, bool is_causal, float scale, bool deterministic) -> (Tensor, Tensor)");
  m.def(
      "scaled_dot_product_attention_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, Tensor output, "
      "Tensor logsumexp, Tensor? attn_mask, Tensor? dropout_seed, float dropout_p, bool is_causal, float scale, "
      "bool deterministic, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "recurrence(Tensor input, Tensor? h0, Tensor? c0, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
      "Tensor? weight_ih_reverse, Tensor? weight_hh_reverse, Tensor? bias_ih_reverse, Tensor? bias_hh_reverse, "
      "Tensor? batch_sizes, Tensor? mask, str cell, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "recurrence_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor input, Tensor? h0, Tensor? c0, "
      "Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_ih_reverse, "
      "Tensor? weight_hh_reverse, Tensor? bias_ih_reverse, Tensor? bias_hh_reverse, Tensor? batch_sizes, Tensor? mask, "
      "Tensor output, Tensor gates, Tensor kept, str cell, bool[11] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "word2vec_step(Tensor(a!) inputs, Tensor(b!) outputs, Tensor words, Tensor starts, Tensor? keep, Tensor? noise, "
      "Tensor? path_starts, Tensor? path_nodes, Tensor? path_codes, int longest_path, str architecture, bool mean_gradient, "
      "int window, int negatives, float lr, int key, int position, int threads) -> Tensor");
}

PYBIND11_MODULE(_C, m) {
#if defined(GENLAB_WITH_CUDA)
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
#if defined(__VERSION__)
  m.attr("compiler") = __VERSION__;
#else
  m.attr("compiler") = "unknown";
#endif
}

// A tensor's factors from the settings and what lies on the device; on the host too, where everything does.
#pragma once

#include <cmath>

#include "kernels/optimizer.h"

namespace genlab {

GENLAB_HOST_DEVICE bool optimizer_skips(const OptimizerParams& p) { return p.found_inf != nullptr && *p.found_inf != 0.0f; }

// base^count by squaring: the device's own pow is a function call with a stack, for exponents that are no integers.
GENLAB_HOST_DEVICE double integer_power(double base, int64_t count) {
  double result = 1.0;
  for (; count > 0; count /= 2) {
    if (count % 2 == 1) result *= base;
    base *= base;
  }
  return result;
}

// step: of this update, counted from 1.
GENLAB_HOST_DEVICE OptimizerFactors optimizer_factors(const OptimizerParams& p, double step) {
  OptimizerFactors f;
  const double lr = p.lr_tensor != nullptr ? *p.lr_tensor : p.lr;
  f.gradient = p.grad_scale != nullptr ? 1.0 / static_cast<double>(*p.grad_scale) : 1.0;
  if (p.grad_norm != nullptr) {
    const double clip = p.max_norm / (*p.grad_norm * f.gradient + 1e-6);
    f.gradient *= clip > 1.0 ? 1.0 : clip;  // a NaN stays one
  }
  if (p.maximize) f.gradient = -f.gradient;
  const bool adam = p.rule == OptimizerRule::kAdam;
  const int64_t count = static_cast<int64_t>(step);
  f.step_size = adam ? lr / (1.0 - integer_power(p.beta1, count)) : lr;
  f.root_scale = adam ? 1.0 / sqrt(1.0 - integer_power(p.beta2, count)) : 1.0;
  f.keep = p.decoupled ? 1.0 - lr * p.weight_decay : 1.0;
  f.average_share = p.average_share_tensor != nullptr ? *p.average_share_tensor : p.average_share;
  f.skip = optimizer_skips(p) ? 1 : 0;
  return f;
}

}  // namespace genlab

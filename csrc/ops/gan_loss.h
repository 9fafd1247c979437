// The adversarial losses by name, as the terms of kernels/gan_loss.h.
#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <string_view>

#include "kernels/gan_loss.h"

namespace genlab {

struct GanGame {
  GanTerm term;
  double target[2];  // of generated and real logits
  double weight[2];
};

// With real samples the discriminator's loss, else the generator's. `smoothing` is taken from the target of real samples.
inline GanGame gan_game(std::string_view name, bool with_real, double smoothing) {
  if (name == "non_saturating" || name == "minimax") {
    if (with_real) return {GanTerm::kCrossEntropy, {0.0, 1.0 - smoothing}, {1.0, 1.0}};
    if (name == "minimax") return {GanTerm::kCrossEntropy, {0.0, 0.0}, {-1.0, 0.0}};
    return {GanTerm::kCrossEntropy, {1.0, 0.0}, {1.0, 0.0}};
  }
  if (name == "lsgan") {
    return with_real ? GanGame{GanTerm::kSquare, {0.0, 1.0}, {1.0, 1.0}} : GanGame{GanTerm::kSquare, {1.0, 0.0}, {1.0, 0.0}};
  }
  TORCH_CHECK_VALUE(
      name == "hinge" || name == "wasserstein",
      "gan_loss: expected loss to be one of non_saturating, minimax, lsgan, hinge, wasserstein, got '", std::string(name), "'");
  if (!with_real) return {GanTerm::kLinear, {-1.0, 0.0}, {1.0, 0.0}};
  return {name == "hinge" ? GanTerm::kHinge : GanTerm::kLinear, {1.0, -1.0}, {1.0, 1.0}};
}

}  // namespace genlab

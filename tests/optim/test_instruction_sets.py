"""The step's inner loops for every instruction set of this machine: what is picked here is only the widest of them."""

from __future__ import annotations

import ctypes
import math
import platform
from pathlib import Path

import pytest
import torch
from emulation_harness import CSRC, build

CPU = CSRC / "cpu"
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
SOURCE = """
#include "cpu/isa/target.h"
#include "cpu/optimizer_tiles.h"

using namespace genlab;

extern "C" __attribute__((visibility("default"))) double run(
    int set, int dtype, int rule, int64_t count, void* param, const void* grad, void* s0, void* s1, void* s2,
    void* average, void* shadow, int shadow_dtype) {
  if ((set == 1 && !cpu::runs_avx2()) || (set == 2 && !cpu::runs_avx512())) return -1;
  const cpu::OptimizerLoops& loops = set == 0 ? cpu::baseline::optimizer_loops()
                                     : set == 1 ? cpu::avx2::optimizer_loops() : cpu::avx512::optimizer_loops();
  const cpu::OptimizerTiles& tiles = dtype == 0 ? loops.float32 : dtype == 1 ? loops.float64 : loops.bfloat16;
  OptimizerParams p{};
  p.rule = static_cast<OptimizerRule>(rule), p.dtype = static_cast<DType>(dtype);
  p.shadow_dtype = static_cast<DType>(shadow_dtype);
  p.beta1 = 0.9, p.beta2 = 0.7, p.eps = 1e-3, p.weight_decay = 0.1, p.momentum = 0.8, p.dampening = 0.3, p.bound = 1.5;
  OptimizerTensor t{};
  t.count = count, t.param = param, t.grad = grad, t.average = average, t.shadow = shadow;
  t.state[0] = s0, t.state[1] = s1, t.state[2] = s2;
  const OptimizerFactors f{0.5, 0.2, 1.25, 1.0, 0.3, 0};
  const double squares = tiles.sum_of_squares(grad, 0, count);
  const int64_t half = count / 2;  // neither whole vectors nor aligned ones
  tiles.step[rule](p, t, f, 0, half);
  tiles.step[rule](p, t, f, half, count);
  return squares;
}
"""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("one instruction set only")
    names = ("baseline", "avx2", "avx512")
    loaded = ctypes.CDLL(str(build(SOURCE, beside=[Path(CPU / f"optimizer_{name}.cpp") for name in names])))
    loaded.run.restype = ctypes.c_double
    return loaded


@pytest.mark.parametrize("instructions", [1, 2], ids=["avx2", "avx512"])
@pytest.mark.parametrize("rule", [0, 1, 2, 3], ids=["follow", "adam", "rmsprop", "sgd"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_loops_do_what_the_baseline_does(library, dtype, rule, instructions):
    def run(chosen: int, count: int, shadow: torch.dtype) -> tuple[float, list[torch.Tensor]]:
        generator = torch.Generator().manual_seed(count)
        values = [torch.rand(count, generator=generator, dtype=torch.float64) - 0.2 for _ in range(6)]
        values[3] = values[3].abs() + 2  # second moments, above the square of the first
        values[2] = values[2].abs() + 2
        values[4] = values[4].abs() + 2
        tensors = [value.to(dtype) for value in values]
        tensors.append(torch.zeros(count, dtype=shadow))
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        if rule == 2:
            tensors[3].mul_(0.01)  # the mean of gradients
        kind = 3 if shadow == torch.float16 else 2
        squares = library.run(chosen, DTYPES.index(dtype), rule, ctypes.c_int64(count), *pointers, kind)
        return squares, tensors

    step = torch.finfo(dtype).eps
    for count in (1, 7, 67, 1031):
        for shadow in (torch.bfloat16, torch.float16):
            squares, found = run(instructions, count, shadow)
            if squares < 0:
                pytest.skip("this machine lacks them")
            exact, expected = run(0, count, shadow)
            assert math.isclose(squares, exact, rel_tol=1e-13)
            assert math.isclose(exact, expected[1].double().square().sum().item(), rel_tol=1e-12)
            for a, b in zip(found[:6], expected[:6], strict=True):
                torch.testing.assert_close(a, b, rtol=4 * step, atol=4 * step)
            assert torch.equal(found[6], found[0].to(shadow))

"""check_op: one call that proves an op against its float64 reference in every way the lab asks of an op.

forward and gradients per dtype, gradcheck and gradgradcheck, torch.compile, and the CUDA result against the CPU one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# (rtol, atol) for values of order one; `tolerance` widens atol with the length of the sum.
TOLERANCES = {torch.float64: (1e-10, 1e-11), torch.float32: (1e-5, 2e-6)}

# Low precision is judged by PyTorch's own error in that dtype, both against float64.
LOW_PRECISION_FACTOR = 2.0


@dataclass(frozen=True)
class Sample:
    """One call of an op: `make(dtype, device)` gives its tensors, `arguments` the rest.

    `terms` is how many products a result sums; `small` samples are cheap enough for gradcheck.
    """

    name: str
    make: Callable[[torch.dtype, str], tuple[Tensor | None, ...]]
    arguments: dict[str, Any] = field(default_factory=dict)
    terms: int = 1
    small: bool = False

    def __str__(self) -> str:
        return self.name


def tolerance(dtype: torch.dtype, terms: int) -> dict[str, float]:
    """rtol and atol for a sum of `terms` products of standard normal values."""
    rtol, atol = TOLERANCES[dtype]
    return {"rtol": rtol, "atol": atol * max(1, terms) ** 0.5}


def run_with_gradients(
    op: Callable[..., Tensor], tensors: Sequence[Tensor | None], arguments: dict[str, Any], impl: str
) -> list[Tensor]:
    """[output, gradient of each tensor] of one call; the output's gradient is the same for every implementation."""
    leaves = [None if t is None else t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
    leaves = [None if t is None else _with_strides_of(t, original) for t, original in zip(leaves, tensors, strict=True)]
    wanted = [t.requires_grad_() for t in leaves if t is not None]
    output = op(*leaves, **arguments, impl=impl)
    generator = torch.Generator().manual_seed(7)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return [output.detach(), *torch.autograd.grad(output, wanted, grad_output)]


def _with_strides_of(copy: Tensor, original: Tensor) -> Tensor:
    """The values of `copy` in the very strides of `original` (clone makes a sliced tensor dense)."""
    if copy.stride() == original.stride():
        return copy
    span = 1 + sum((size - 1) * stride for size, stride in zip(original.shape, original.stride(), strict=True))
    strided = copy.new_empty(max(span, 0)).as_strided(original.shape, original.stride())
    return strided.copy_(copy)


def check_values(op: Callable[..., Tensor], sample: Sample, dtype: torch.dtype, impl: str, device: str = "cpu") -> None:
    """(a) and (b): output and gradients against the float64 reference, computed from the very same values."""
    tensors = sample.make(dtype, device)
    exact = [None if t is None else t.detach().cpu().double() for t in tensors]
    expected = run_with_gradients(op, exact, sample.arguments, "reference")
    found = run_with_gradients(op, tensors, sample.arguments, impl)
    if dtype in TOLERANCES:
        for i, (a, e) in enumerate(zip(found, expected, strict=True)):
            # A gradient of a weight sums over every output; the largest count is close enough for all of them.
            terms = max(sample.terms, found[0].numel() // max(1, found[0].shape[1]))
            torch.testing.assert_close(
                a.cpu().double(), e, **tolerance(dtype, terms), msg=lambda text, i=i: f"result {i} of {sample}: {text}"
            )
        return
    peer = run_with_gradients(op, tensors, sample.arguments, "torch")
    for i, (a, p, e) in enumerate(zip(found, peer, expected, strict=True)):
        assert a.dtype == dtype
        error, peer_error = _error(a, e), _error(p, e)
        assert error <= LOW_PRECISION_FACTOR * peer_error + 1e-6, f"result {i} of {sample}: {error} > 2 x {peer_error}"


def _error(found: Tensor, expected: Tensor) -> float:
    return (found.cpu().double() - expected).abs().max().item() if expected.numel() else 0.0


def check_derivatives(op: Callable[..., Tensor], sample: Sample, impl: str, *, second: bool = True) -> None:
    """(c): gradcheck and, for an op that differentiates twice, gradgradcheck in float64."""
    tensors = [None if t is None else t.requires_grad_() for t in sample.make(torch.float64, "cpu")]

    def call(*given: Tensor | None) -> Tensor:
        return op(*given, **sample.arguments, impl=impl)

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
    if second:
        assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


def check_compiles(op: Callable[..., Tensor], sample: Sample, impl: str, backend: str = "aot_eager") -> None:
    """(e): torch.compile without a graph break gives what eager gives, gradients included."""
    tensors = sample.make(torch.float32, "cpu")
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, backend=backend, dynamic=False)
    expected = run_with_gradients(op, tensors, sample.arguments, impl)
    found = run_with_gradients(compiled, tensors, sample.arguments, impl)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, **tolerance(torch.float32, sample.terms))


def check_cuda(op: Callable[..., Tensor], sample: Sample, dtype: torch.dtype, impl: str) -> None:
    """(g): the GPU's output and gradients against the float64 reference on the CPU; float32 without tf32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        check_values(op, sample, dtype, impl, device="cuda")


def check_op(
    op: Callable[..., Tensor], sample: Sample, *, impl: str, dtypes: Sequence[torch.dtype], second: bool = True
) -> None:
    """Values and gradients in every dtype, and the derivatives where the sample is small."""
    for dtype in dtypes:
        check_values(op, sample, dtype, impl)
    if sample.small:
        check_derivatives(op, sample, impl, second=second)

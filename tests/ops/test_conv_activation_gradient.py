"""Gradients of convolutions that end in an activation: read from the gradient and the output together, in any order."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genlab import _extension, ops
from genlab.ops import activation as act

ACTIVATIONS = ["relu", "leaky_relu", "tanh", "sigmoid"]
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# n, c_in, c_out, kernel, stride, padding, h, w: Winograd of stride 1 and 2 with tiles that overhang, 64 channels that
# bfloat16 takes widened, images of few channels, channels and sizes without a pattern, a kernel of one tap.
SHAPES = [
    (2, 16, 32, 3, 1, 1, 13, 10),
    (3, 32, 16, 4, 2, 1, 18, 17),
    (2, 64, 64, 3, 1, 1, 32, 30),
    (4, 3, 64, 4, 2, 1, 16, 14),
    (2, 5, 7, 3, 2, 1, 9, 11),
    (1, 33, 31, 1, 1, 0, 4, 5),
]
PLAIN = ((1, 1), (1, 1), (1, 1), 1, "zeros")


@pytest.fixture(autouse=True)
def native_ops():
    """torch.ops.genlab exists once the library is loaded."""
    _extension.require()


class Calls(TorchDispatchMode):
    """Counts the calls that reach a kernel, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func._schema.name] += 1
        return func(*args, **(kwargs or {}))

    def of(self, *names: str) -> list[int]:
        return [self.calls[name] for name in names]


def draw(*shape: int, seed: int, layout: torch.memory_format = torch.channels_last) -> Tensor:
    """Values that bfloat16 holds exactly, in float64."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().double()
    return values.contiguous(memory_format=layout) if len(shape) == 4 else values


def gradients(shape: tuple, transposed: bool, activation: str, layout: torch.memory_format, dtype, impl: str) -> list:
    n, c_in, c_out, kernel, stride, padding, h, w = shape
    sizes = (c_in, c_out) if transposed else (c_out, c_in)
    made = [draw(n, c_in, h, w, seed=1, layout=layout), draw(*sizes, kernel, kernel, seed=2, layout=layout) / 8]
    leaves = [t.to(dtype).requires_grad_() for t in (*made, draw(c_out, seed=3))]
    op = ops.conv_transpose2d if transposed else ops.conv2d
    output = op(*leaves, stride, padding, activation=activation, impl=impl)
    return list(torch.autograd.grad(output, leaves, draw(*output.shape, seed=4, layout=layout).to(dtype)))


def error(found: Tensor, expected: Tensor) -> float:
    """Relative in the Frobenius norm; NaN counts as infinite."""
    value = ((found.double() - expected).norm() / expected.norm()).item()
    return float("inf") if value != value else value


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_gradients_match_float64(shape: tuple, transposed: bool, layout: str) -> None:
    activation = ACTIVATIONS[SHAPES.index(shape) % 4]
    expected = gradients(shape, transposed, activation, LAYOUTS[layout], torch.float64, "reference")
    for dtype, limit in ((torch.float64, 1e-13), (torch.float32, 5e-6), (torch.bfloat16, 8e-3)):
        found = gradients(shape, transposed, activation, LAYOUTS[layout], dtype, "native")
        # The output decides which side of zero counts: in bfloat16 a rounded one near it may fall on the other.
        peers = gradients(shape, transposed, activation, LAYOUTS[layout], dtype, "torch")
        for name, a, b, e in zip(("input", "weight", "bias"), found, peers, expected, strict=True):
            assert error(a, e) < max(limit, 1.5 * error(b, e)), f"{name} in {dtype}"
            assert a.dim() == 1 or a.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[4]], ids=["3x3", "4x4", "any"])
def test_every_activation(shape: tuple, activation: str) -> None:
    for transposed in (False, True):
        arguments = (shape, transposed, activation, torch.channels_last)
        expected = gradients(*arguments, torch.float64, "reference")
        for a, e in zip(gradients(*arguments, torch.float32, "native"), expected, strict=True):
            assert error(a, e) < 5e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_backward_is_one_op_and_no_pass_over_the_gradient(transposed: bool, activation: str) -> None:
    weight = torch.randn(5, 3, 3, 3).requires_grad_() if not transposed else torch.randn(3, 5, 3, 3).requires_grad_()
    op = ops.conv_transpose2d if transposed else ops.conv2d
    output = op(torch.randn(2, 3, 6, 6, requires_grad=True), weight, torch.randn(5).requires_grad_(), 1, 1,
                activation=activation, impl="native")  # fmt: skip
    with Calls() as counter:
        output.backward(torch.ones_like(output))
    passes = [f"aten::{name}_backward" for name in ("threshold", "leaky_relu", "tanh", "sigmoid")]
    assert counter.of("genlab::conv2d_act_backward", *passes, "aten::sum") == [1, 0, 0, 0, 0, 0]


def test_no_tensor_of_the_gradients_size_is_made_for_the_weight() -> None:
    x, weight = torch.randn(4, 16, 32, 32).to(memory_format=torch.channels_last), torch.randn(64, 16, 3, 3)
    y = ops.conv2d(x, weight, None, 1, 1, activation="leaky_relu", impl="native")
    grad = torch.randn_like(y)
    with torch.profiler.profile(profile_memory=True) as profiler:
        torch.ops.genlab.conv2d_act_backward(grad, y, x, weight, *PLAIN, False, "leaky_relu", 0.2, [False, True, True])
    made = [event.self_cpu_memory_usage for event in profiler.events() if event.self_cpu_memory_usage > 0]
    assert made
    assert sum(made) < grad.numel() * 4 // 4


def calls_to_check() -> dict[str, tuple]:
    last = {"memory_format": torch.channels_last}

    def leaf(*shape: int, **layout) -> Tensor:
        return torch.randn(*shape).to(**layout).requires_grad_() if layout else torch.randn(*shape).requires_grad_()

    uneven = ((2, 1), (1, 0), (1, 2), 2, "zeros")
    wide, narrow = (leaf(2, 6, 3, 3), leaf(2, 4, 6, 7)), (leaf(2, 6, 3, 3), leaf(2, 6, 3, 3))
    return {
        "conv": (*narrow, leaf(2, 4, 3, 3), leaf(6, 4, 3, 3), *PLAIN, False, "tanh", 0.2, [True] * 3),
        "uneven_groups": (
            wide[0], leaf(2, 6, 3, 3), wide[1], leaf(6, 2, 3, 3), *uneven, False, "sigmoid", 0.2, [True] * 3,
        ),
        "channels_last_reflect": (
            leaf(2, 6, 5, 4, **last), leaf(2, 6, 5, 4, **last), leaf(2, 4, 5, 4, **last), leaf(6, 4, 3, 3, **last),
            *PLAIN[:4], "reflect", False, "leaky_relu", 0.2, [True] * 3,
        ),
        "transposed": (
            leaf(2, 3, 7, 8), leaf(2, 3, 7, 8), leaf(2, 4, 3, 4), leaf(4, 3, 3, 3), (2, 2), (0, 1), (1, 1), 1, "zeros",
            True, "relu", 0.2, [True] * 3,
        ),
        "input_alone": (*narrow, leaf(2, 4, 3, 3), leaf(6, 4, 3, 3), *PLAIN, False, "relu", 0.2, [True, False, False]),
        "bias_alone": (*narrow, leaf(2, 4, 3, 3), leaf(6, 4, 3, 3), *PLAIN, False, "tanh", 0.2, [False, False, True]),
        "empty_batch": (
            leaf(0, 6, 3, 3), leaf(0, 6, 3, 3), leaf(0, 4, 3, 3), leaf(6, 4, 3, 3), *PLAIN, False, "tanh", 0.2,
            [True] * 3,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", calls_to_check())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(torch.ops.genlab.conv2d_act_backward, calls_to_check()[name])


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_first_and_second_gradients_match_differences(transposed: bool, activation: str) -> None:
    torch.manual_seed(3)
    sizes = (2, 3) if transposed else (3, 2)
    leaves = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((1, 2, 4, 3), (*sizes, 3, 2), (3,))]
    op = ops.conv_transpose2d if transposed else ops.conv2d

    def run(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return op(input, weight, bias, (1, 2), (1, 0), activation=activation, impl="native")

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_the_output_is_differentiated_where_it_is_an_operand_itself(activation: str) -> None:
    """The op on its own, of tensors that are not connected: gradients of all four, from all three results."""
    torch.manual_seed(4)
    shapes = ((1, 3, 3, 2), (1, 3, 3, 2), (1, 2, 3, 2), (3, 2, 3, 3))
    leaves = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.genlab.conv2d_act_backward(*tensors, *PLAIN, False, activation, 0.2, [True] * 3)

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def penalty(x: Tensor, weight: Tensor, bias: Tensor, impl: str) -> tuple[Tensor, ...]:
    """The gradient of a gradient's norm, as of WGAN-GP, through a first layer that `auto` mixes in bfloat16."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    y = ops.conv2d(*leaves, stride=2, padding=1, activation="tanh", impl=impl)
    (slope,) = torch.autograd.grad((y * y).sum(), leaves[0], create_graph=True)
    return torch.autograd.grad((slope * slope).sum().sqrt(), leaves)


def test_mixed_bfloat16_differentiates_twice_through_the_activation() -> None:
    x, bias = draw(8, 3, 16, 16, seed=1), draw(64, seed=3)
    weight = draw(64, 3, 4, 4, seed=2) / 16
    expected = penalty(x, weight, bias, "reference")
    low = [t.bfloat16() for t in (x, weight, bias)]
    for a, b, e in zip(penalty(*low, "auto"), penalty(*low, "torch"), expected, strict=True):
        assert error(a, e) < max(2e-2, 2 * error(b, e))


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
@pytest.mark.parametrize("wants_weight", [False, True])
def test_mixed_bfloat16_first_layer(activation: str, wants_weight: bool) -> None:
    x, weight, bias = draw(8, 3, 32, 32, seed=1), draw(64, 3, 4, 4, seed=2) / 8, draw(64, seed=3)

    def run(dtype: torch.dtype, impl: str) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_()]
        rest = [t.to(dtype).requires_grad_(wants_weight) for t in (weight, bias)]
        y = ops.conv2d(leaves[0], *rest, 2, 1, activation=activation, impl=impl)
        return list(torch.autograd.grad(y, leaves + (rest if wants_weight else []), draw(*y.shape, seed=5).to(dtype)))

    found, peers, expected = (
        run(torch.bfloat16, "auto"), run(torch.bfloat16, "torch"), run(torch.float64, "reference"),
    )  # fmt: skip
    for a, b, e in zip(found, peers, expected, strict=True):
        assert error(a, e) < max(6e-3, 1.5 * error(b, e))


@pytest.mark.parametrize("shape", SHAPES[:4], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_any_number_of_threads_gives_the_same_bits(shape: tuple, transposed: bool) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(
                gradients(shape, transposed, "leaky_relu", torch.channels_last, torch.float32, "native")
                + gradients(shape, transposed, "tanh", torch.channels_last, torch.bfloat16, "native")
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity_go_where_torchs_go(activation: str, dtype: torch.dtype) -> None:
    values = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -2.0]
    grad = torch.tensor(values, dtype=dtype).repeat(7).reshape(1, 1, 7, 7)
    y = torch.tensor(values, dtype=dtype).repeat_interleave(7).reshape(1, 1, 7, 7)
    x, one = torch.zeros(1, 1, 7, 7, dtype=dtype), torch.ones(1, 1, 1, 1, dtype=dtype)
    found, _, _ = torch.ops.genlab.conv2d_act_backward(
        grad, y, x, one, (1, 1), (0, 0), (1, 1), 1, "zeros", False, activation, 0.25, [True, False, False]
    )
    torch.testing.assert_close(found, act.gradient(grad, y, activation, 0.25), equal_nan=True)


def test_a_gradient_without_memory_of_its_own_or_in_another_order() -> None:
    x, weight = draw(2, 16, 8, 8, seed=1), draw(32, 16, 3, 3, seed=2)
    expected = gradients_of(x, weight, torch.float64, "reference", lambda y: torch.ones_like(y))
    for make in (lambda y: torch.ones(1, dtype=y.dtype).expand_as(y), lambda y: torch.ones(y.shape, dtype=y.dtype)):
        for a, e in zip(gradients_of(x, weight, torch.float32, "native", make), expected, strict=True):
            assert error(a, e) < 5e-6


def gradients_of(x: Tensor, weight: Tensor, dtype: torch.dtype, impl: str, make) -> tuple[Tensor, ...]:
    leaves = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    y = ops.conv2d(*leaves, padding=1, activation="tanh", impl=impl)
    return torch.autograd.grad(y, leaves, make(y))


@pytest.mark.parametrize("impl", ["native", "auto"])
def test_an_output_written_over_before_backward_is_refused(impl: str) -> None:
    dtype = torch.float32 if impl == "native" else torch.bfloat16
    x, weight = torch.randn(4, 3, 8, 8, dtype=dtype, requires_grad=True), torch.randn(64, 3, 4, 4, dtype=dtype)
    x, weight = (t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in (x, weight))
    y = ops.conv2d(x, weight, None, 2, 1, activation="relu", impl=impl)
    y.detach().mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_autocast_gives_gradients_in_the_parameters_dtype() -> None:
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    weight, bias = torch.randn(32, 16, 3, 3, requires_grad=True), torch.randn(32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.conv2d(x, weight, bias, padding=1, activation="leaky_relu", impl="native")
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert [t.grad.dtype for t in (x, weight, bias)] == [torch.float32] * 3


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"activation": "gelu"}, ValueError, "expected relu, leaky_relu, tanh or sigmoid, got 'gelu'"),
        ({"activation": "softplus"}, ValueError, "expected activation None or one of"),
        ({"grad_output": torch.randn(2, 6, 3, 4)}, ValueError, "expected grad_output of the output's shape"),
        ({"grad_output": torch.randn(2, 6, 3, 3).double()}, TypeError, "expected output of the dtype of grad_output"),
        ({"output": torch.randn(6, 3, 3)}, ValueError, "expected a 4-dimensional output"),
        ({"input": torch.randn(2, 5, 3, 3)}, ValueError, "expected input with 4 channels"),
        ({"weight": torch.randn(5, 4, 3, 3)}, ValueError, "expected grad_output with 5 channels"),
        ({"transposed": True}, ValueError, "channels"),
    ],
)
def test_bad_calls_are_refused(change: dict, kind: type, message: str) -> None:
    call = {
        "grad_output": torch.randn(2, 6, 3, 3), "output": torch.randn(2, 6, 3, 3), "input": torch.randn(2, 4, 3, 3),
        "weight": torch.randn(6, 4, 3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1,
        "padding_mode": "zeros", "transposed": False, "activation": "tanh", "negative_slope": 0.2,
        "wanted": [True, True, True],
    } | change  # fmt: skip
    with pytest.raises(kind, match=message):
        torch.ops.genlab.conv2d_act_backward(**call)

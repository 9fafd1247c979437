"""The registered ops themselves: opcheck, what backward computes and leaves out, higher orders, autocast."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genlab import _extension, ops


@pytest.fixture(autouse=True)
def native_ops():
    """torch.ops.genlab exists once the library is loaded."""
    _extension.require()


def leaf(*shape: int, dtype: torch.dtype = torch.float32, requires_grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=requires_grad)


# stride, padding, dilation, groups, padding_mode, activation, negative_slope of a plain convolution
PLAIN = ((1, 1), (0, 0), (1, 1), 1, "zeros", None, 0.2)


class CountCalls(TorchDispatchMode):
    """Counts the ops of this library that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "genlab":
            self.calls[func._schema.name.removeprefix("genlab::")] += 1
        return func(*args, **(kwargs or {}))


def opcheck_calls():
    """(op, arguments) with mixed requires_grad, both layouts, every schema."""
    last = torch.channels_last
    pair = (1, 1)
    bias = leaf(6)
    return {
        "conv2d": ("conv2d", (leaf(2, 4, 6, 5), leaf(6, 2, 3, 3), bias, (2, 1), pair, pair, 2, "zeros", "tanh", 0.2)),
        "conv2d_frozen_weight": (
            "conv2d",
            (leaf(2, 4, 6, 5), leaf(6, 4, 3, 3, requires_grad=False), None, pair, pair, pair, 1, "reflect", None, 0.2),
        ),
        "conv2d_gelu": ("conv2d", (leaf(1, 1, 4, 4), leaf(2, 1, 1, 1), None, *PLAIN[:4], "zeros", "gelu", 0.2)),
        "conv2d_channels_last": (
            "conv2d",
            (
                leaf(2, 4, 6, 5).detach().to(memory_format=last).requires_grad_(),
                leaf(6, 4, 3, 3).detach().to(memory_format=last),
                bias, pair, pair, pair, 1, "zeros", "leaky_relu", 0.2,
            ),
        ),
        "conv2d_empty_batch": ("conv2d", (leaf(0, 4, 6, 5), leaf(6, 4, 3, 3), bias, *PLAIN)),
        "backward_input": (
            "conv2d_backward_input", (leaf(2, 6, 3, 5), leaf(6, 2, 3, 3), (6, 5), (2, 1), pair, pair, 2, "reflect"),
        ),
        "backward_weight": (
            "conv2d_backward_weight",
            (leaf(2, 6, 3, 5), leaf(2, 4, 6, 5), (3, 3), (2, 1), pair, pair, 2, "zeros", True),
        ),
        "backward_weight_without_bias": (
            "conv2d_backward_weight", (leaf(2, 6, 6, 5), leaf(2, 4, 6, 5), (3, 3), pair, pair, pair, 1, "zeros", False),
        ),
        "conv_transpose2d": (
            "conv_transpose2d", (leaf(2, 4, 3, 5), leaf(4, 3, 4, 4), bias, (2, 2), pair, pair, 2, pair, "sigmoid", 0.2),
        ),
        "conv_transpose2d_silu": (
            "conv_transpose2d", (leaf(1, 2, 1, 1), leaf(2, 3, 4, 4), None, pair, (0, 0), (0, 0), 1, pair, "silu", 0.2),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", opcheck_calls())
def test_opcheck(name):
    op, arguments = opcheck_calls()[name]
    torch.library.opcheck(getattr(torch.ops.genlab, op), arguments)


@pytest.mark.parametrize("impl", ["native", "torch"])
def test_frozen_weights_get_no_gradient_computed(impl):
    """The generator's step goes through the discriminator without paying for its weight gradients."""
    input, weight = leaf(2, 3, 8, 8), leaf(4, 3, 4, 4, requires_grad=False)
    counter = _CountConvolutionGradients()
    with counter:
        ops.conv2d(input, weight, stride=2, padding=1, activation="leaky_relu", impl=impl).sum().backward()
    assert counter.weight_gradients == 0
    assert counter.input_gradients == 1


@pytest.mark.parametrize("impl", ["native", "torch"])
def test_images_get_no_gradient_computed(impl):
    input, weight = leaf(2, 3, 8, 8, requires_grad=False), leaf(4, 3, 4, 4)
    counter = _CountConvolutionGradients()
    with counter:
        ops.conv2d(input, weight, impl=impl).sum().backward()
    assert counter.input_gradients == 0
    assert counter.weight_gradients == 1


class _CountConvolutionGradients(TorchDispatchMode):
    """Gradients computed by this library's ops or by torch's convolution_backward."""

    def __init__(self) -> None:
        super().__init__()
        self.input_gradients = self.weight_gradients = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.input_gradients += name == "genlab::conv2d_backward_input"
        self.weight_gradients += name == "genlab::conv2d_backward_weight"
        if name == "genlab::conv2d_act_backward":
            self.input_gradients += args[-1][0]
            self.weight_gradients += args[-1][1]
        if name == "aten::convolution_backward":
            self.input_gradients += args[-1][0]
            self.weight_gradients += args[-1][1]
        return func(*args, **(kwargs or {}))


def test_transposed_convolution_with_frozen_weights_computes_the_input_gradient_alone():
    input, weight = leaf(2, 3, 4, 4), leaf(3, 2, 4, 4, requires_grad=False)
    with CountCalls() as counter:
        ops.conv_transpose2d(input, weight, stride=2, activation="relu", impl="native").sum().backward()
    assert counter.calls == {"conv_transpose2d": 1, "conv2d_act_backward": 1}


def test_a_bias_alone_is_trained_without_a_convolution():
    input, weight, bias = leaf(2, 3, 4, 4, requires_grad=False), leaf(5, 3, 3, 3, requires_grad=False), leaf(5)
    with CountCalls() as counter:
        ops.conv2d(input, weight, bias, impl="native").sum().backward()
    assert counter.calls == {"conv2d": 1}
    torch.testing.assert_close(bias.grad, torch.full((5,), 8.0))


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_training_through_gelu_and_silu_convolves_once_forward(activation):
    input, weight = leaf(2, 3, 4, 4), leaf(5, 3, 3, 3)
    with CountCalls() as counter:
        ops.conv2d(input, weight, activation=activation, impl="native").sum().backward()
    assert counter.calls == {"conv2d": 1, "conv2d_backward_input": 1, "conv2d_backward_weight": 1}


@pytest.mark.parametrize("name", ["conv2d_gelu", "conv_transpose2d_silu"])
def test_the_fused_gelu_and_silu_ops_differentiate_on_their_own(name):
    op, arguments = opcheck_calls()[name]
    tensors = [t.detach().double().requires_grad_() for t in arguments[:2]]
    function = getattr(torch.ops.genlab, op)
    assert torch.autograd.gradcheck(lambda *t: function(*t, *arguments[2:]), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: function(*t, *arguments[2:]), tensors)


@pytest.mark.parametrize("activation", [None, "leaky_relu", "tanh", "sigmoid", "gelu", "silu"])
@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_third_order_gradients_agree_with_the_reference(op, activation):
    input, weight = leaf(2, 2, 4, 4, dtype=torch.float64), leaf(2, 2, 3, 3, dtype=torch.float64)
    results = []
    for impl in ("native", "reference"):
        value = getattr(ops, op)(input, weight, stride=2, padding=1, activation=activation, impl=impl).pow(3).sum()
        for _ in range(2):
            first, second = torch.autograd.grad(value, (input, weight), create_graph=True)
            value = first.pow(2).sum() + (second * first.sum()).sum()
        results.append(torch.autograd.grad(value, (input, weight)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_gradient_penalty_agrees_with_torch():
    """WGAN-GP: the norm of the critic's input gradient, differentiated by its weights through two layers."""
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    first, last = leaf(4, 2, 4, 4, dtype=torch.float64), leaf(1, 4, 4, 4, dtype=torch.float64)
    results = []
    for impl in ("native", "torch"):
        hidden = ops.conv2d(images, first, stride=2, padding=1, activation="leaky_relu", impl=impl)
        logits = ops.conv2d(hidden, last, impl=impl)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).pow(2).mean()
        results.append(torch.autograd.grad(penalty, (first, last)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_autocast_casts_input_weight_and_bias_as_torch_does(op):
    input, weight, bias = leaf(2, 3, 6, 6), leaf(3, 3, 3, 3), leaf(3)
    found, expected = [], []
    for impl, results in (("native", found), ("torch", expected)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = getattr(ops, op)(input, weight, bias, activation="relu", impl=impl)
        results += [output, *torch.autograd.grad(output.float().sum(), (input, weight, bias))]
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=0.02, atol=0.05)
    assert found[0].dtype == torch.bfloat16
    assert found[1].dtype == torch.float32


def test_autocast_takes_a_bfloat16_input_with_float32_weights():
    input, weight = leaf(2, 3, 6, 6).detach().bfloat16(), leaf(3, 3, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.conv2d(input, weight, impl="native").dtype == torch.bfloat16
    with pytest.raises(TypeError, match="under torch.autocast"):
        ops.conv2d(input, weight, impl="native")


def test_a_penalty_inside_autocast_differentiates_twice():
    input, weight = leaf(2, 3, 6, 6), leaf(4, 3, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ops.conv2d(input, weight, activation="tanh", impl="native")
        (gradient,) = torch.autograd.grad(output.float().sum(), input, create_graph=True)
        gradient.pow(2).sum().backward()
    assert weight.grad.dtype == torch.float32
    assert weight.grad.isfinite().all()


RAW_REFUSALS = {
    "channels": ("conv2d", (leaf(1, 3, 4, 4), leaf(2, 2, 3, 3), None, *PLAIN),
                 ValueError, "conv2d: expected 2 input channels"),
    "half": ("conv2d", (leaf(1, 3, 4, 4).half(), leaf(2, 3, 3, 3).half(), None, *PLAIN),
             NotImplementedError, "got float16"),
    "dtype": ("conv2d", (leaf(1, 3, 4, 4), leaf(2, 3, 3, 3).double(), None, *PLAIN),
              TypeError, "of the dtype of input"),
    "activation": ("conv2d", (leaf(1, 3, 4, 4), leaf(2, 3, 3, 3), None, *PLAIN[:5], "elu", 0.2),
                   ValueError, "got 'elu'"),
    "grad_size": ("conv2d_backward_input", (leaf(1, 2, 9, 9), leaf(2, 3, 3, 3), (4, 4), (1, 1), (0, 0), (1, 1), 1,
                                            "zeros"), ValueError, "at most 2 x 2"),
    "grad_batch": ("conv2d_backward_weight", (leaf(2, 2, 2, 2), leaf(1, 3, 4, 4), (3, 3), (1, 1), (0, 0), (1, 1), 1,
                                              "zeros", False), ValueError, "grad_output of 1 images"),
    "reflect": ("conv2d", (leaf(1, 3, 4, 4), leaf(2, 3, 3, 3), None, (1, 1), (4, 4), (1, 1), 1, "reflect", None, 0.2),
                ValueError, "reflect padding must be smaller"),
    "output_padding": ("conv_transpose2d", (leaf(1, 3, 4, 4), leaf(3, 2, 3, 3), None, (2, 2), (0, 0), (2, 2), 1, (1, 1),
                                            None, 0.2), ValueError, "output_padding smaller than stride"),
    "integer": ("conv2d", (torch.ones(1, 3, 4, 4).int(), torch.ones(2, 3, 3, 3).int(), None, *PLAIN),
                TypeError, "expected a floating point tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW_REFUSALS)
def test_the_kernels_own_checks_stop_direct_callers(name):
    op, arguments, error, message = RAW_REFUSALS[name]
    with pytest.raises(error, match=message):
        getattr(torch.ops.genlab, op)(*arguments)


@pytest.mark.cuda
def test_launches_on_the_current_stream_and_in_a_graph():
    input, weight = leaf(2, 3, 8, 8).detach().cuda(), leaf(4, 3, 3, 3).detach().cuda()
    ops.conv2d(input, weight, impl="native")
    graph = torch.cuda.CUDAGraph()
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)
    with exact, torch.cuda.graph(graph):
        output = ops.conv2d(input, weight, impl="native")
    input.copy_(torch.randn_like(input))
    graph.replay()
    torch.testing.assert_close(output, ops.conv2d(input, weight, impl="reference"), rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
def test_cuda_results_repeat_bit_for_bit():
    input, weight = (
        leaf(4, 5, 17, 17).detach().cuda().requires_grad_(),
        leaf(7, 5, 3, 3).detach().cuda().requires_grad_(),
    )
    results = []
    for _ in range(50):
        output = ops.conv2d(input, weight, padding=1, impl="native")
        results.append([output.detach(), *torch.autograd.grad(output.sin().sum(), (input, weight))])
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))


@pytest.mark.parametrize("channels", [4, 32], ids=["direct", "winograd"])
@pytest.mark.parametrize("of_input", [torch.contiguous_format, torch.channels_last], ids=["input_nchw", "input_nhwc"])
@pytest.mark.parametrize("of_weight", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_weights_gradient_lies_in_memory_as_the_weight_does(channels, of_input, of_weight):
    """Else each step of an optimiser would begin with a copy of it."""
    x = torch.randn(2, channels, 8, 8).contiguous(memory_format=of_input)
    for op in (ops.conv2d, ops.conv_transpose2d):
        weight = torch.randn(channels, channels, 3, 3).contiguous(memory_format=of_weight).requires_grad_()
        (found,) = torch.autograd.grad(op(x, weight, padding=1, impl="native").sum(), weight)
        assert found.stride() == weight.stride()

"""The native batch and instance normalisation: registration, layouts, precision, PyTorch's own samples."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from helpers import Sample, check_compiles, check_op

from genlab import _extension, ops

pytestmark = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db


def batch_norm(input, weight, bias, residual, *, impl, **keywords):
    return ops.batch_norm_act(input, None, None, weight, bias, True, residual=residual, impl=impl, **keywords)


def instance_norm(input, weight, bias, residual, *, impl, **keywords):
    return ops.instance_norm_act(input, None, None, weight, bias, residual=residual, impl=impl, **keywords)


NORMS = {"batch": batch_norm, "instance": instance_norm}


def layout_of(tensor, layout):
    """The values of `tensor` in the strides that `layout` names."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.cat((tensor, tensor), dim=1)[:, : tensor.shape[1]]
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    return tensor


def sample(shape, layout="contiguous", *, with_residual=True, affine=True, small=False, **arguments):
    def make(dtype, device):
        generator = torch.Generator().manual_seed(sum(shape))
        draw = lambda *sizes: torch.randn(sizes, generator=generator, dtype=torch.float64).to(device, dtype)  # noqa: E731
        input = layout_of(draw(*shape) * 2 + 1, layout)
        weight, bias = (draw(shape[1]), draw(shape[1])) if affine else (None, None)
        return input, weight, bias, layout_of(draw(*shape), layout) if with_residual else None

    name = "x".join(map(str, shape)) + f"-{layout}-" + "-".join(map(str, arguments.values()))
    return Sample(name, make, arguments, terms=shape[0] * shape[2] * shape[3], small=small)


SAMPLES = [
    sample((2, 3, 4, 5), small=True, activation="silu"),
    sample((2, 3, 4, 5), "channels_last", small=True, activation="gelu"),
    sample((2, 2, 3, 3), with_residual=False, small=True, activation="sigmoid"),
    sample((2, 2, 3, 3), affine=False, small=True),
    sample((1, 1, 2, 2), activation="relu"),
    sample((2, 17, 9, 9), "channels_last", activation="relu"),
    sample((3, 64, 16, 17), "channels_last", activation="leaky_relu"),
    sample((3, 65, 16, 17), "channels_last", activation="leaky_relu", negative_slope=0.0),
    sample((3, 15, 33, 31), activation="tanh"),
    sample((2, 16, 16, 16), "sliced", activation="relu"),
    sample((2, 5, 7, 8), "transposed", activation="relu"),
    sample((1, 4, 97, 90), activation="leaky_relu"),
    sample((2, 3, 4, 5), small=True, activation="silu", reflect_pad=2),
    sample((2, 3, 4, 5), "channels_last", small=True, activation="tanh", reflect_pad=3),
    sample((2, 16, 3, 3), "channels_last", activation="relu", reflect_pad=1),
    sample((2, 3, 4, 4), activation="relu", reflect_pad=3),  # every row and column has two mirror images
    sample((2, 16, 4, 4), "channels_last", activation="leaky_relu", reflect_pad=3),
    sample((3, 17, 33, 31), activation="leaky_relu", reflect_pad=3),
    sample((2, 64, 40, 32), "channels_last", activation="relu", reflect_pad=1),
    sample((2, 5, 7, 8), "transposed", with_residual=False, reflect_pad=1),
]


@pytest.mark.parametrize("given", SAMPLES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_float64_reference_and_differentiates_twice(norm, given):
    check_op(NORMS[norm], given, impl="native", dtypes=(torch.float32, torch.float64, torch.bfloat16))


@pytest.mark.parametrize("channels", [16383, 16384, 16385])
def test_very_many_channels(channels):
    for given in (sample((3, channels, 1, 2), "channels_last"), sample((2, channels, 2, 1))):
        check_op(batch_norm, given, impl="native", dtypes=(torch.float32,))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("norm", NORMS)
def test_compiles_without_a_break(norm, layout):
    check_compiles(NORMS[norm], sample((2, 4, 3, 5), layout, activation="relu"), "native")
    check_compiles(NORMS[norm], sample((2, 4, 3, 5), layout, activation="relu", reflect_pad=2), "native")


def test_running_statistics_are_updated_inside_a_compiled_graph():
    x = torch.randn(4, 3, 5, 5)
    eager, compiled = ((torch.zeros(3), torch.ones(3)) for _ in range(2))
    torch._dynamo.reset()
    call = torch.compile(
        lambda x, mean, var: ops.batch_norm_act(x, mean, var, training=True, impl="native"),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(call(x, *compiled), ops.batch_norm_act(x, *eager, training=True, impl="native"))
    torch.testing.assert_close(compiled, eager)
    assert not torch.equal(eager[0], torch.zeros(3))


@pytest.mark.parametrize("per_sample, channels_last", list(itertools.product((False, True), (False, True))))
def test_the_registered_ops_pass_opcheck(per_sample, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, 4, 4).to(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(3, requires_grad=True), torch.randn(3)
    sizes = (2, 3) if per_sample else (3,)
    mean, var = torch.randn(sizes), torch.rand(sizes) + 0.5
    namespace = torch.ops.genlab
    running = (None, None) if per_sample else (torch.zeros(3), torch.ones(3))
    torch.library.opcheck(namespace.norm_statistics, (x.detach(), per_sample, *running, 0.1))
    rest = (1e-5, "leaky_relu", 0.2)
    for residual in (None, torch.randn_like(x)):
        affine = (mean, var, weight, bias, residual)
        torch.library.opcheck(namespace.norm_act, (x, *affine, *rest, True))
        torch.library.opcheck(namespace.norm_act, (x, *affine, *rest, True, 2))
        padded = torch.randn(2, 3, 8, 8)
        torch.library.opcheck(
            namespace.norm_act_backward, (padded, x, *affine, *rest, True, [True, True, True, residual is not None], 2)
        )
        grad = torch.randn_like(x)
        wanted = [True, True, True, residual is not None]
        torch.library.opcheck(namespace.norm_act_backward, (grad, x, *affine, *rest, True, wanted))
        plain = [None if t is None else t.detach() for t in (grad, x, *affine)]
        torch.library.opcheck(namespace.norm_act_backward_sums, (*plain, *rest))
        sums = (torch.randn(sizes), torch.randn(sizes))
        torch.library.opcheck(namespace.norm_act_backward_input, (*plain, *sums, 0.1, *rest, True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_variance_small_beside_the_mean_keeps_its_digits(layout):
    x = layout_of(torch.randn(8, 20, 16, 16) * 0.01 + 1000, layout)
    exact = F.batch_norm(x.double(), None, None, training=True)
    peer = (F.batch_norm(x, None, None, training=True) - exact).abs().max()
    found = (ops.batch_norm_act(x, None, None, training=True, impl="native") - exact).abs().max()
    assert found <= 2 * peer  # 0.7 to 1.8 by the draw: both round mean and scale to float32
    _, var = torch.ops.genlab.norm_statistics(x, False, None, None, 0.0)
    torch.testing.assert_close(var.double(), x.double().var((0, 2, 3), unbiased=False), rtol=1e-4, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_border_value_far_from_all_others_costs_the_variance_few_digits(layout):
    x = layout_of(torch.randn(1, 16, 64, 128) * 0.002, layout)
    x[:, :, 0, 0] = -300.0
    _, var = torch.ops.genlab.norm_statistics(x, True, None, None, 0.0)
    torch.testing.assert_close(var.double(), x.double().var((2, 3), unbiased=False), rtol=2e-5, atol=0)


def test_running_statistics_tell_autograd_that_they_changed():
    mean, var = torch.zeros(3), torch.ones(3)
    before = mean._version, var._version
    scale = torch.ones(3, requires_grad=True)
    product = (scale * var).sum()  # keeps var for its gradient
    ops.batch_norm_act(torch.randn(2, 3, 4, 4), mean, var, training=True, impl="native")
    assert mean._version > before[0] and var._version > before[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_mirrored_borders_are_those_of_reflection_pad_and_keep_the_memory_order(norm, layout):
    x, weight, bias, residual = sample((2, 16, 6, 5), layout).make(torch.float32, "cpu")
    plain = NORMS[norm](x, weight, bias, residual, impl="native", activation="relu")
    padded = NORMS[norm](x, weight, bias, residual, impl="native", activation="relu", reflect_pad=3)
    assert torch.equal(padded, torch.nn.ReflectionPad2d(3)(plain))
    assert padded.is_contiguous(memory_format=getattr(torch, f"{layout}_format", torch.channels_last))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_not_a_number_and_infinity_propagate_as_in_torch(value, layout):
    x = layout_of(torch.randn(2, 18, 4, 5), layout)
    x[1, 1, 2, 2] = value
    # Not gelu: torch's own gelu(inf) is inf or NaN, depending on the layout.
    for activation in (None, "relu", "leaky_relu", "tanh", "sigmoid", "silu"):
        for training in (False, True):
            calls = []
            for impl in ("native", "torch"):
                mean, var = torch.zeros(18), torch.ones(18)
                leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
                y = ops.batch_norm_act(leaf, mean, var, training=training, activation=activation, impl=impl)
                calls.append((y.detach(), *torch.autograd.grad(y, leaf, torch.ones_like(y))))
            for found, expected in zip(*calls, strict=True):
                assert torch.equal(found.isnan(), expected.isnan())
                assert torch.equal(found.isinf(), expected.isinf())


def test_only_the_gradients_that_are_asked_for():
    x, weight, bias = torch.randn(2, 3, 4, 4), torch.randn(3), torch.randn(3, requires_grad=True)
    y = ops.batch_norm_act(x, None, None, weight, bias, True, activation="relu", impl="native")
    y.sum().backward()
    assert x.grad is None and weight.grad is None
    torch.testing.assert_close(bias.grad, (y > 0).float().sum((0, 2, 3)))


def test_constant_statistics_get_no_gradient_through_the_mean():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    mean, var = torch.randn(3), torch.rand(3) + 0.5
    weight = torch.randn(3, requires_grad=True)
    y = ops.batch_norm_act(x, mean, var, weight, None, False, impl="native")
    (found, _) = torch.autograd.grad(y.sum(), (x, weight))
    expected = (weight / (var + 1e-5).sqrt()).reshape(1, 3, 1, 1).expand_as(x)
    torch.testing.assert_close(found, expected)


def test_nothing_but_the_input_and_its_statistics_is_kept_for_the_backward():
    kept = []
    x, weight = torch.randn(4, 8, 16, 16, requires_grad=True), torch.randn(8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.batch_norm_act(x, None, None, weight, None, True, activation="gelu", impl="native")
    assert sum(t.numel() for t in kept) == x.numel() + 3 * 8


CASES = {
    "nn.functional.batch_norm": (F.batch_norm, ops.batch_norm_act),
    "nn.functional.instance_norm": (F.instance_norm, ops.instance_norm_act),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_torch_samples(name, dtype):
    theirs, ours = CASES[name]
    info = next(op for op in op_db if op.name == name)
    count = 0
    for given in info.sample_inputs("cpu", dtype, requires_grad=True):
        if given.input.dim() < 2:
            continue  # an empty tensor without a channel dimension, which torch lets through
        results = []
        for function, extra in ((theirs, {}), (ours, {"impl": "native"})):
            given_again = given.transform(lambda t: t.detach().clone().requires_grad_(t.requires_grad))
            tensors = [given_again.input, *given_again.args, *given_again.kwargs.values()]
            leaves = [t for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad]
            output = function(given_again.input, *given_again.args, **given_again.kwargs, **extra)
            gradients = torch.autograd.grad(output.sum(), leaves, allow_unused=True)
            results.append((output.detach(), *[g for g in gradients if g is not None], *tensors[1:3]))
        for found, expected in zip(*results, strict=True):
            if isinstance(found, torch.Tensor):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        count += 1
    assert count >= 5

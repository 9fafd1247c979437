"""layer_norm_act: values, derivatives, registration, PyTorch's own samples and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import Sample, check_compiles, check_op

from genlab import _extension, ops
from genlab.ops import implementation, norm_tuning

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
native = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db


def layer_norm(input, weight, bias, residual, *, sizes, impl, **keywords):
    return ops.layer_norm_act(input, sizes, weight, bias, residual=residual, impl=impl, **keywords)


def sample(shape, dims=1, *, with_residual=True, affine=True, transposed=False, small=False, **arguments):
    def make(dtype, device):
        generator = torch.Generator().manual_seed(sum(shape))
        draw = lambda *sizes: torch.randn(sizes, generator=generator, dtype=torch.float64).to(device, dtype)  # noqa: E731
        input = draw(*shape) * 2 + 1
        if transposed:
            input = input.transpose(0, 1).contiguous().transpose(0, 1)
        sizes = shape[len(shape) - dims :]
        weight, bias = (draw(*sizes), draw(*sizes)) if affine else (None, None)
        return input, weight, bias, draw(*shape) if with_residual else None

    arguments["sizes"] = tuple(shape[len(shape) - dims :])
    name = "x".join(map(str, shape)) + "-" + "-".join(map(str, arguments.values())) + f"-{affine}-{transposed}"
    return Sample(name, make, arguments, terms=max(sum(shape), 64), small=small)


SAMPLES = [
    sample((3, 5), small=True, activation="tanh"),
    sample((2, 3, 4), dims=2, small=True, activation="gelu"),
    sample((2, 6), affine=False, with_residual=False, small=True),
    sample((2, 6), transposed=True, small=True, activation="silu"),
    sample((70, 16), activation="relu"),
    sample((200, 129), activation="leaky_relu"),
    sample((1, 16385), activation="sigmoid"),
]


@pytest.mark.parametrize("given", SAMPLES, ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_the_float64_reference_and_differentiates_twice(impl, given):
    check_op(layer_norm, given, impl=impl, dtypes=(torch.float32, torch.float64, torch.bfloat16))


@native
def test_one_column_is_all_bias():
    check_op(layer_norm, sample((5, 1), activation="relu"), impl="native", dtypes=(torch.float32,))


@native
def test_compiles_without_a_break():
    check_compiles(layer_norm, sample((4, 6), activation="gelu"), "native")


@native
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_registered_ops_pass_opcheck(with_residual):
    x, weight, bias = torch.randn(3, 4, 5, requires_grad=True), torch.randn(5, requires_grad=True), torch.randn(5)
    residual = torch.randn(3, 4, 5) if with_residual else None
    namespace, rest = torch.ops.genlab, (1e-5, "leaky_relu", 0.2)
    torch.library.opcheck(namespace.layer_norm_act, (x, 1, weight, bias, residual, *rest))
    _, mean, rstd = namespace.layer_norm_act(x.detach(), 1, weight.detach(), bias, residual, *rest)
    wanted = [True, True, True, with_residual]
    grad = torch.randn_like(x)
    torch.library.opcheck(
        namespace.layer_norm_act_backward, (grad, x, 1, mean, rstd, weight, bias, residual, *rest, wanted)
    )


@native
def test_a_variance_small_beside_the_mean_keeps_its_digits():
    x = torch.randn(8, 300) * 0.01 + 1000
    exact = F.layer_norm(x.double(), (300,))
    peer = (F.layer_norm(x, (300,)) - exact).abs().max()
    assert (ops.layer_norm_act(x, (300,), impl="native") - exact).abs().max() <= 1.5 * peer


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_samples(dtype):
    info = next(op for op in op_db if op.name == "nn.functional.layer_norm")
    count = 0
    for given in info.sample_inputs("cpu", dtype, requires_grad=True):
        results = []
        for function, extra in ((F.layer_norm, {}), (ops.layer_norm_act, {"impl": "native"})):
            again = given.transform(lambda t: t.detach().clone().requires_grad_(t.requires_grad))
            tensors = [again.input, *again.args, *again.kwargs.values()]
            leaves = [t for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad]
            output = function(again.input, *again.args, **again.kwargs, **extra)
            results.append((output.detach(), *torch.autograd.grad(output.sum(), leaves)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        count += 1
    assert count >= 5


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_rows_pass(impl):
    assert ops.layer_norm_act(torch.randn(0, 4), (4,), activation="relu", impl=impl).shape == (0, 4)


X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
REFUSALS = {
    "shape": ((X, (3,)), {}, ValueError, r"expected input of shape \(..., 3,\), got \(2, 3, 4\)"),
    "no_sizes": ((X, ()), {}, ValueError, "expected normalized_shape to be one or more sizes"),
    "number": ((X, 4), {}, ValueError, "expected normalized_shape to be one or more sizes, got 4"),
    "integer": ((X.long(), (4,)), {}, TypeError, "expected a floating point input"),
    "weight_shape": ((X, (4,), torch.ones(3)), {}, ValueError, r"expected weight of shape \(4,\), got \(3\)"),
    "bias_dtype": ((X, (4,), None, torch.ones(4).double()), {}, TypeError, "expected bias of the input's dtype"),
    "bias_device": ((X, (4,), None, torch.ones(4, device="meta")), {}, RuntimeError, "bias on the input's device"),
    "residual": ((X, (4,)), {"residual": X[:1]}, ValueError, "expected residual of the input's shape"),
    "activation": ((X, (4,)), {"activation": "mish"}, ValueError, "got 'mish'"),
    "impl": ((X, (4,)), {"impl": "mine"}, ValueError, "expected impl to be one of"),
    "native_dtype": ((X.half(), (4,)), {"impl": "native"}, NotImplementedError, "dtype float16 is not one of"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.layer_norm_act(*arguments, **keywords)
    assert str(caught.value).startswith("layer_norm_act: ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_auto_runs_natively_where_the_rest_rides_along(dtype, monkeypatch):
    monkeypatch.setattr(norm_tuning, "_HAS_AVX512", True)
    big, small = torch.randn(64, 512, 64, dtype=dtype), torch.randn(4, 64, dtype=dtype)
    choose = lambda x, activation, residual: implementation.choose("layer_norm_act", "auto", x, activation, residual)  # noqa: E731
    quicker = "native" if _extension.available() else "torch"
    assert choose(big, None, True) == choose(big, "relu", False) == quicker
    assert choose(big, None, False) == ("torch" if dtype == torch.float32 else quicker)
    assert choose(big, "gelu", True) == choose(small, "relu", True) == "torch"
    found = ops.layer_norm_act(big, (64,), activation="relu", residual=big)
    expected = ops.layer_norm_act(big, (64,), activation="relu", residual=big, impl="reference")
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

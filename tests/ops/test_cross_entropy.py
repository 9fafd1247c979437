"""cross_entropy: values, derivatives, registration, PyTorch's own samples, extremes and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import Sample, check_compiles, check_op

from genlab import _extension, ops
from genlab.ops import implementation

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
native = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db


def loss_of(input, *, target, weight, impl, **keywords):
    weight = None if weight is None else weight.to(input.dtype)
    value = ops.cross_entropy(input, target, weight, **keywords, impl=impl)
    assert value.dtype == input.dtype
    return value.reshape(1, -1)


def sample(shape, *, weighted=False, small=False, strided=False, **keywords):
    def make(dtype, device):
        generator = torch.Generator().manual_seed(sum(shape))
        values = torch.randn((*shape, 2), generator=generator, dtype=torch.float64).to(device, dtype)
        return (values[..., 0] if strided else values[..., 0].contiguous(),)

    generator = torch.Generator().manual_seed(7)
    classes = shape[0] if len(shape) == 1 else shape[1]
    sizes = () if len(shape) == 1 else (shape[0], *shape[2:])
    weight = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.5 if weighted else None
    arguments = {"target": torch.randint(classes, sizes, generator=generator), "weight": weight, **keywords}
    name = f"{shape}-{weighted}-{strided}-" + "-".join(map(str, keywords.values()))
    return Sample(name, make, arguments, terms=4 * classes, small=small)


SAMPLES = [
    sample((4, 5), small=True),
    sample((4, 5), weighted=True, reduction="none", label_smoothing=0.2, small=True),
    sample((3, 4, 2), weighted=True, label_smoothing=0.1, ignore_index=1, small=True),
    sample((2, 3, 2, 3), reduction="sum", small=True, strided=True),
    sample((6,), small=True),
    sample((1, 1)),
    sample((33, 1000), weighted=True, ignore_index=5),
    sample((2, 3000), label_smoothing=0.1),
    sample((2, 21, 9, 17), weighted=True),
    sample((1, 10, 129), reduction="none"),
]


@pytest.mark.parametrize("given", SAMPLES, ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_the_float64_reference_and_differentiates_twice(impl, given):
    check_op(loss_of, given, impl=impl, dtypes=(torch.float32, torch.float64, torch.bfloat16))


@native
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_compiles_without_a_break(reduction):
    check_compiles(loss_of, sample((4, 6), weighted=True, reduction=reduction), "native")


@native
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("reduction", "gradient"), [(0, False), (1, True), (2, False)])
def test_the_registered_ops_pass_opcheck(reduction, gradient, weighted):
    x, target = torch.randn(3, 5, 2, requires_grad=True), torch.randint(5, (3, 2))
    weight = torch.rand(5) if weighted else None
    namespace, rest = torch.ops.genlab, (reduction, -100, 0.1)
    torch.library.opcheck(namespace.cross_entropy, (x, target, weight, *rest, gradient))
    loss, moments, divisor, _ = namespace.cross_entropy(x.detach(), target, weight, *rest, False)
    given = (torch.randn_like(loss).requires_grad_(), x, target, weight, moments, divisor, *rest)
    torch.library.opcheck(namespace.cross_entropy_backward, given)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_samples(dtype):
    info = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
    count = 0
    for given in info.sample_inputs("cpu", dtype, requires_grad=True):
        target, arguments = given.args[0], given.kwargs
        if target.dtype.is_floating_point:
            with pytest.raises(NotImplementedError, match='use impl="torch"'):
                ops.cross_entropy(given.input, target, **arguments, impl="native")
            chosen = "auto"
        else:
            chosen = "native"
        logits = given.input.detach().requires_grad_()
        found = ops.cross_entropy(logits, target, **arguments, impl=chosen)
        expected = F.cross_entropy(logits, target, **arguments)
        torch.testing.assert_close(found, expected)
        grads = [torch.autograd.grad(value.sum(), logits)[0] for value in (found, expected)]
        torch.testing.assert_close(*grads)
        count += 1
    assert count >= 20


@native
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_gradient_that_rode_along_is_scaled_where_the_loss_was(scale):
    x, target = torch.randn(6, 40, requires_grad=True), torch.randint(40, (6,))
    results = []
    for impl in ("native", "torch"):
        loss = ops.cross_entropy(x, target, impl=impl) * scale
        again = [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*again)
        results.append(again[0])
    torch.testing.assert_close(*results)


@native
def test_rows_of_the_ignored_class_have_no_gradient_and_nothing_else_gives_nan():
    x, target = torch.randn(3, 4, requires_grad=True), torch.tensor([1, -100, 2])
    ops.cross_entropy(x, target, impl="native").backward()
    assert torch.equal(x.grad[1], torch.zeros(4)) and (x.grad[0] != 0).all()
    none_left = torch.full((3,), -100)
    assert ops.cross_entropy(x, none_left, impl="native").isnan()
    assert ops.cross_entropy(x, none_left, reduction="sum", impl="native") == 0


@native
def test_large_logits_keep_their_differences():
    x = torch.tensor([[1e4, 1e4 + 1, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    target, results = torch.tensor([0, 1]), []
    for impl in ("native", "torch"):
        loss = ops.cross_entropy(x, target, reduction="none", impl=impl)
        results.append((loss.detach(), torch.autograd.grad(loss.sum(), x)[0]))
    torch.testing.assert_close(*results)


@native
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("shape", [(3, 20), (3, 20, 2)], ids=str)
def test_infinite_logits_and_nan_do_as_in_torch(value, shape):
    x = torch.randn(shape)
    x[0, 3], x[2] = value, value
    target = torch.randint(20, (3, *shape[2:])).fill_(4)
    found, expected = (ops.cross_entropy(x, target, reduction="none", impl=i) for i in ("native", "torch"))
    torch.testing.assert_close(found, expected, equal_nan=True)


@native
def test_bytes_old_reductions_and_autocast_are_torchs():
    x, target = torch.randn(4, 5), torch.randint(5, (4,))
    for keywords in ({"size_average": False}, {"reduce": False}, {}):
        found = ops.cross_entropy(x, target.byte(), **keywords, impl="native")
        with pytest.warns(UserWarning) if keywords else _nothing():
            expected = F.cross_entropy(x, target, **keywords)
        torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.cross_entropy(x.bfloat16(), target, impl="native").dtype == torch.float32


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_auto_leaves_to_torch_what_was_quicker_there():
    quicker = "native" if _extension.available() else "torch"
    small, large = torch.randn(8, 10), torch.randn(512, 1000)
    choose = lambda x, smoothing: implementation.choose("cross_entropy", "auto", x, x.argmax(1), smoothing)  # noqa: E731
    assert choose(large, 0.0) == choose(small, 0.1) == choose(large.bfloat16(), 0.1) == quicker
    assert choose(small, 0.0) == choose(large.double(), 0.1) == choose(large.bfloat16(), 0.0) == "torch"
    assert implementation.choose("cross_entropy", "auto", large, large, 0.1) == "torch"


X, T = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])
REFUSALS = {
    "batch": ((X, T[:3]), {}, "expected target of the input's batch size 4, got \\(3\\)"),
    "class_above": ((X, T + 2), {}, "expected target from 0 to 4 or ignore_index=-100, got 5"),
    "class_below": ((X, T - 3), {}, "got -3"),
    "target_dtype": ((X, T.int()), {}, "expected target of class numbers, int64 or uint8"),
    "float_target": ((X, T.float()), {}, "got torch.float32 of shape \\(4\\)"),
    "target_rows": ((X, T[:, None]), {}, "expected target of shape \\(4\\), got \\(4, 1\\)"),
    "map": ((torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 4).long()), {}, "expected target of shape \\(2, 4, 5\\)"),
    "no_dimension": ((torch.tensor(1.0), torch.tensor(0)), {}, "expected input of shape"),
    "weight_shape": ((X, T, torch.ones(4)), {}, "expected weight of shape \\(5\\), got \\(4\\)"),
    "weight_dtype": ((X, T, torch.ones(5).double()), {}, "expected weight of the input's dtype"),
    "weight_gradient": ((X.clone().requires_grad_(), T, torch.ones(5).requires_grad_()), {}, "without gradient"),
    "reduction": ((X, T), {"reduction": "avg"}, "expected reduction to be one of none, mean, sum, got 'avg'"),
    "smoothing": ((X, T), {"label_smoothing": 1.5}, "expected label_smoothing in \\[0, 1\\], got 1.5"),
    "integer": ((X.long(), T), {}, "expected a floating point input"),
    "device": ((X, T.to("meta")), {}, "expected target on the input's device cpu, got meta"),
    "weight_device": ((X, T, torch.ones(5, device="meta")), {}, "expected weight on the input's device"),
    "no_tensor": ((X, 3), {}, "expected target to be a tensor, got int"),
}


@native
@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_torchs_type_and_a_sentence_of_its_own(name):
    arguments, keywords, message = REFUSALS[name]
    with pytest.raises(Exception) as theirs:  # noqa: B017, PT011 - whichever it is
        F.cross_entropy(*arguments, **keywords)
    with pytest.raises(theirs.type, match=message) as ours:
        ops.cross_entropy(*arguments, **keywords, impl="native")
    assert str(ours.value).startswith("cross_entropy: ")


def test_refuses_an_unknown_implementation_and_a_dtype_without_kernel():
    with pytest.raises(ValueError, match="expected impl to be one of"):
        ops.cross_entropy(X, T, impl="mine")
    with pytest.raises(NotImplementedError, match="dtype float16 is not one of"):
        ops.cross_entropy(X.half(), T, impl="native")

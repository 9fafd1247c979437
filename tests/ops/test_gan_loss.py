"""gan_loss: values, derivatives, registration, extremes and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import Sample, check_compiles, check_op

from genlab import _extension, ops
from genlab.ops import implementation
from genlab.ops.gan_loss import LOSSES

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
native = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db


def play(fake, real, *, loss, impl, label_smoothing=0.0):
    value = ops.gan_loss(loss, fake, real, label_smoothing=label_smoothing, impl=impl)
    assert value.dtype == (torch.float32 if fake.dtype == torch.bfloat16 else fake.dtype)
    return value.to(fake.dtype).reshape(1, 1)


def sample(loss, shape, other=None, *, smoothing=0.0, strided=False, small=False):
    def make(dtype, device):
        generator = torch.Generator().manual_seed(sum(shape))
        draw = lambda sizes: (torch.randn(sizes, generator=generator, dtype=torch.float64) * 2).to(device, dtype)  # noqa: E731
        fake = draw((*shape, 2))[..., 0] if strided else draw(shape)
        return fake, None if other is None else draw(other)

    name = f"{loss}-{shape}-{other}-{smoothing}-{strided}"
    return Sample(name, make, {"loss": loss, "label_smoothing": smoothing}, small=small)


SAMPLES = [
    *(sample(loss, (5,), (7,), small=True) for loss in LOSSES),
    *(sample(loss, (6,), small=True) for loss in LOSSES),
    sample("non_saturating", (6, 1), (3, 1), smoothing=0.1, small=True),
    *(sample(loss, (3, 1, 13, 11), (2, 1, 70, 70)) for loss in LOSSES),
    sample("non_saturating", (1,), (1,)),
    sample("hinge", (4, 3), (17,), strided=True, small=True),
    sample("minimax", (3, 9001)),
    sample("lsgan", (2, 8192), (8193, 1)),
]


@pytest.mark.parametrize("given", SAMPLES, ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_the_float64_reference_and_differentiates_twice(impl, given):
    check_op(play, given, impl=impl, dtypes=(torch.float32, torch.float64, torch.bfloat16))


@native
@pytest.mark.parametrize("loss", ["minimax", "hinge"])
def test_compiles_without_a_break(loss):
    check_compiles(play, sample(loss, (4, 1), (5, 1)), "native")


@native
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_registered_op_passes_opcheck(gradient, dtype):
    fake, real = (torch.randn(3, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    for given in ((fake, None, "lsgan", 0.0), (fake, real.detach(), "minimax", 0.2)):
        torch.library.opcheck(torch.ops.genlab.gan_loss, (*given, gradient))


@native
def test_one_side_that_needs_no_gradient_gets_none_and_the_other_its_own():
    fake, real = torch.randn(4, requires_grad=True), torch.randn(4)
    ops.gan_loss("non_saturating", fake, real, impl="native").backward()
    torch.testing.assert_close(fake.grad, torch.sigmoid(fake.detach()) / 4)
    assert real.grad is None


@native
def test_two_backward_passes_with_different_gradients_do_not_disturb_each_other():
    logits = torch.randn(9, requires_grad=True)
    loss = ops.gan_loss("non_saturating", logits, impl="native")
    once = [torch.autograd.grad(loss, logits, torch.tensor(g), retain_graph=True)[0].clone() for g in (1.0, 3.0, 1.0)]
    torch.testing.assert_close(once[1], 3 * once[0])
    assert torch.equal(once[0], once[2])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_large_logits_stay_finite_and_infinite_ones_do_as_in_torch(loss, impl):
    big = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    value = ops.gan_loss(loss, big, big.flip(0), impl=impl) + ops.gan_loss(loss, big, impl=impl)
    assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, big)[0]).all()
    for x in (float("inf"), -float("inf"), float("nan")):
        for real in (None, torch.tensor([0.5, x])):
            logits = torch.tensor([x, 0.0])
            found = ops.gan_loss(loss, logits, real, impl=impl)
            torch.testing.assert_close(found, ops.gan_loss(loss, logits, real, impl="torch"), equal_nan=True)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_small_tails_keep_their_digits(impl):
    logit = torch.tensor([30.0], requires_grad=True)
    value = ops.gan_loss("non_saturating", logit, impl=impl)
    exact = torch.tensor(-30.0, dtype=torch.float64).exp().log1p()
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(value, logit)[0].double(), -torch.sigmoid(torch.tensor([-30.0]).double()), rtol=1e-5, atol=0
    )


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_samples_of_the_same_functions(dtype):
    """Cross-entropy against one label everywhere, and the squared distance to it, on PyTorch's own inputs."""
    peers = {
        "nn.functional.binary_cross_entropy_with_logits": {
            "non_saturating": lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x)),
            "minimax": lambda x: -F.binary_cross_entropy_with_logits(x, torch.zeros_like(x)),
        },
        "nn.functional.mse_loss": {"lsgan": lambda x: 0.5 * F.mse_loss(x, torch.ones_like(x))},
    }
    for name, losses in peers.items():
        info = next(op for op in op_db if op.name == name)
        inputs = [given.input for given in info.sample_inputs("cpu", dtype, requires_grad=True)]
        assert len(inputs) >= 5
        for logits in inputs:
            logits = logits.detach().requires_grad_()
            for loss, peer in losses.items():
                found, expected = ops.gan_loss(loss, logits, impl="native"), peer(logits)
                torch.testing.assert_close(found, expected, equal_nan=True)
                grads = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
                torch.testing.assert_close(*grads, equal_nan=True)


@native
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_are_the_cross_entropy_against_them(smoothing):
    fake, real = torch.randn(20), torch.randn(30)
    expected = F.binary_cross_entropy_with_logits(
        real, torch.full_like(real, 1 - smoothing)
    ) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    for impl in IMPLEMENTATIONS:
        found = ops.gan_loss("non_saturating", fake, real, label_smoothing=smoothing, impl=impl)
        torch.testing.assert_close(found, expected)


@native
def test_under_autocast_the_loss_is_float32():
    fake, real = torch.randn(8).bfloat16(), torch.randn(8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.gan_loss("hinge", fake, real, impl="native").dtype == torch.float32
        assert ops.gan_loss("hinge", fake.float(), real.float(), impl="native").dtype == torch.float32


def test_auto_runs_natively_but_for_many_double_cross_entropies():
    quicker = "native" if _extension.available() else "torch"
    choose = lambda x, loss: implementation.choose("gan_loss", "auto", x, None, loss)  # noqa: E731
    assert choose(torch.randn(64), "hinge") == choose(torch.randn(64).bfloat16(), "minimax") == quicker
    assert choose(torch.randn(5000).double(), "lsgan") == quicker
    assert choose(torch.randn(5000).double(), "minimax") == choose(torch.randn(4).half(), "hinge") == "torch"


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_logits_give_nan_as_from_torch(impl):
    assert ops.gan_loss("hinge", torch.empty(0), torch.empty(0), impl=impl).isnan()


X = torch.zeros(4)
REFUSALS = {
    "loss": (("hinges", X), {}, ValueError, "expected loss to be one of .*, got 'hinges'"),
    "integer": (("hinge", X.long()), {}, TypeError, "expected floating point logits, got torch.int64"),
    "dtypes": (("hinge", X, X.double()), {}, TypeError, "expected real_logits of fake_logits' dtype"),
    "device": (("hinge", X, X.to("meta")), {}, RuntimeError, "expected real_logits on fake_logits' device cpu"),
    "smoothing": (("minimax", X, X), {"label_smoothing": 1.0}, ValueError, r"expected label_smoothing in \[0, 1\)"),
    "smoothed_hinge": (("hinge", X, X), {"label_smoothing": 0.1}, ValueError, "label_smoothing 0 for loss hinge"),
    "smoothed_generator": (("minimax", X), {"label_smoothing": 0.1}, ValueError, "0 for the generator"),
    "impl": (("hinge", X), {"impl": "mine"}, ValueError, "expected impl to be one of"),
    "native_dtype": (("hinge", X.half()), {"impl": "native"}, NotImplementedError, "dtype float16 is not one of"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.gan_loss(*arguments, **keywords)
    assert str(caught.value).startswith("gan_loss: ")

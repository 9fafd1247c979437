"""reparametrize_kl: values, derivatives of both results, registration and refusals."""

from __future__ import annotations

import pytest
import torch
from helpers import Sample, check_compiles, check_op

from genlab import _extension, ops
from genlab.likelihood import gaussian_kl

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
native = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")


def both(mean, log_variance, noise, *, impl):
    z, kl = ops.reparametrize_kl(mean, log_variance, noise, impl=impl)
    assert z.shape == noise.shape and kl.shape == mean.shape and z.dtype == kl.dtype == mean.dtype
    return torch.cat([z.flatten(1), kl], dim=1)


def sample(n, d, draws=None, *, halves=False, small=False):
    def make(dtype, device):
        generator = torch.Generator().manual_seed(n + d)
        draw = lambda *sizes: torch.randn(sizes, generator=generator, dtype=torch.float64).to(device, dtype)  # noqa: E731
        mean, log_variance = draw(n, 2 * d).chunk(2, 1)
        if not halves:
            mean, log_variance = mean.contiguous(), log_variance.contiguous()
        return mean, log_variance, draw(n, d) if draws is None else draw(n, draws, d)

    return Sample(f"{n}x{d}-{draws}-{halves}", make, terms=16 * (draws or 1), small=small)


SAMPLES = [
    sample(3, 4, small=True),
    sample(2, 3, 5, halves=True, small=True),
    sample(7, 40, 1),
    sample(9, 33, 3, halves=True),
    sample(1, 1),
    sample(130, 129),
]


@pytest.mark.parametrize("given", SAMPLES, ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_the_float64_reference_and_differentiates_twice(impl, given):
    check_op(both, given, impl=impl, dtypes=(torch.float32, torch.float64, torch.bfloat16))


@native
def test_compiles_without_a_break():
    check_compiles(both, sample(3, 4, 2), "native")


@native
@pytest.mark.parametrize("noise_learns", [False, True])
def test_the_registered_ops_pass_opcheck(noise_learns):
    mean, log_variance = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    noise = torch.randn(3, 2, 4, requires_grad=noise_learns)
    namespace = torch.ops.genlab
    torch.library.opcheck(namespace.reparametrize_kl, (mean, log_variance, noise))
    grad_z, grad_kl = torch.randn_like(noise), torch.randn(3, 4)
    for given, wanted in (((grad_z, grad_kl), [True, True, noise_learns]), ((None, grad_kl), [True, True, False])):
        torch.library.opcheck(namespace.reparametrize_kl_backward, (*given, mean, log_variance, noise, wanted))


@native
@pytest.mark.parametrize("which", [0, 1])
def test_one_of_the_results_alone_can_be_differentiated_twice(which):
    tensors = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((3, 4), (3, 4), (3, 2, 4))]
    one = lambda *given: ops.reparametrize_kl(*given, impl="native")[which]  # noqa: E731
    assert torch.autograd.gradcheck(one, tensors) and torch.autograd.gradgradcheck(one, tensors)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_the_divergence_is_the_closed_form_and_nothing_where_posterior_and_prior_agree(impl):
    mean, log_variance = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(
        ops.reparametrize_kl(mean, log_variance, torch.zeros(4, 6), impl=impl)[1], gaussian_kl(mean, log_variance)
    )
    z, kl = ops.reparametrize_kl(torch.zeros(4, 6), torch.zeros(4, 6), mean, impl=impl)
    assert torch.equal(z, mean) and torch.equal(kl, torch.zeros(4, 6))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_nan_and_overflow_show(impl):
    mean, log_variance = torch.zeros(1, 3), torch.tensor([[float("nan"), 1000.0, -1000.0]])
    z, kl = ops.reparametrize_kl(mean, log_variance, torch.ones(1, 3), impl=impl)
    assert z[0, 0].isnan() and kl[0, 0].isnan() and z[0, 1].isinf() and kl[0, 1].isinf()
    assert z[0, 2].abs() < 1e-30 and kl[0, 2] == pytest.approx(499.5)


@native
def test_under_autocast_half_precision_becomes_float32():
    given = [torch.randn(2, 3).bfloat16() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        assert {t.dtype for t in ops.reparametrize_kl(*given, impl="native")} == {torch.float32}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_samples_pass(impl):
    z, kl = ops.reparametrize_kl(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0, 2, 3), impl=impl)
    assert z.shape == (0, 2, 3) and kl.shape == (0, 3)


X = torch.zeros(2, 3)
REFUSALS = {
    "dimensions": ((X[0], X[0], X[0]), {}, ValueError, r"expected mean of shape \(n, d\), got \(3\)"),
    "log_variance": ((X, X[:1], X), {}, ValueError, r"expected log_variance of mean's shape \(2, 3\), got \(1, 3\)"),
    "noise": ((X, X, X[:, :2]), {}, ValueError, r"expected noise of shape \(2, 3\) or \(2, k, 3\), got \(2, 2\)"),
    "integer": ((X.long(), X.long(), X.long()), {}, TypeError, "expected floating point mean"),
    "dtype": ((X, X, X.double()), {}, TypeError, "expected noise of mean's dtype torch.float32, got torch.float64"),
    "device": ((X, X, X.to("meta")), {}, RuntimeError, "expected noise on mean's device cpu, got meta"),
    "impl": ((X, X, X), {"impl": "mine"}, ValueError, "expected impl to be one of"),
    "native_dtype": ((X.half(),) * 3, {"impl": "native"}, NotImplementedError, "dtype float16 is not one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.reparametrize_kl(*arguments, **keywords)
    assert str(caught.value).startswith("reparametrize_kl: ")

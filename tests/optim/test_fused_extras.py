"""What genlab.optim does in the step's own pass, beside torch's calls: scale, clipping, average, bound, shadows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from genlab import _extension, optim
from genlab.config import OptimizerConfig
from genlab.ema import EMA, EmaConfig
from genlab.ops import default_impl
from genlab.optim import WeightAverage
from genlab.optimizers import build_optimizer, take_step

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
KINDS = {
    "Adam": {"lr": 0.1, "amsgrad": True},
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0.2},
}
each_impl = pytest.mark.parametrize("impl", IMPLEMENTATIONS)
each_kind = pytest.mark.parametrize("name", KINDS)


def make(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = ((1030,), (3,), (), (0,), (7, 3, 2, 2))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in sizes]


def give_gradients(params: list[torch.Tensor], seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = (torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale).to(p)


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@each_impl
@each_kind
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_clip_grad_norm_over_all_groups(name, impl, max_norm):
    mine, plain = make(), make()
    optimizer = getattr(optim, name)([{"params": mine[:2]}, {"params": mine[2:]}], **KINDS[name], impl=impl)
    theirs = getattr(torch.optim, name)(plain, **KINDS[name])
    for seed in range(4):
        for params in (mine, plain):
            give_gradients(params, seed)
        kept = [p.grad.clone() for p in mine]
        optimizer.step(max_norm=max_norm)
        assert all(torch.equal(p.grad, k) for p, k in zip(mine, kept, strict=True)), "gradients are read only"
        torch.nn.utils.clip_grad_norm_(plain, max_norm)
        theirs.step()
    assert_same(mine, plain)


@each_impl
def test_clipping_a_norm_that_is_not_finite_does_as_clip_grad_norm_(impl):
    for bad in (float("inf"), float("nan")):
        mine, plain = make(), make()
        for params in (mine, plain):
            give_gradients(params, 0)
            params[0].grad[5] = bad
        optim.SGD(mine, lr=0.1, impl=impl).step(max_norm=1.0)
        torch.nn.utils.clip_grad_norm_(plain, 1.0)
        torch.optim.SGD(plain, lr=0.1).step()
        for a, b in zip(mine, plain, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


def test_clipping_without_gradients_does_nothing():
    params = make()
    optim.Adam(params).step(max_norm=1.0)
    assert_same(params, make())


@each_impl
@each_kind
@pytest.mark.parametrize("max_norm", [None, 0.7])
def test_a_gradient_scaler_unscales_clips_and_skips_as_with_torch(name, impl, max_norm):
    """Infinities in the first step, where states are new, and later."""
    mine, plain = make(torch.float32), make(torch.float32)
    optimizer = getattr(optim, name)(mine, **KINDS[name], impl=impl)
    theirs = getattr(torch.optim, name)(plain, **KINDS[name])
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2) for _ in range(2)]
    for seed in range(6):
        for params, scaler in zip((mine, plain), scalers, strict=True):
            scaler.scale(torch.zeros(()))  # creates the scale
            give_gradients(params, seed, scaler.get_scale())
            if seed in (0, 3):
                params[0].grad[1029] = float("inf")
        scalers[0].step(optimizer, max_norm=max_norm)
        if max_norm is not None:
            scalers[1].unscale_(theirs)
            torch.nn.utils.clip_grad_norm_(plain, max_norm)
        scalers[1].step(theirs)
        for scaler in scalers:
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
        for a, b in zip(mine, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)
    steps = {float(state["step"]) for state in optimizer.state.values() if "step" in state}
    assert steps <= {4.0}


@each_impl
@each_kind
def test_average_bound_and_shadows_are_those_of_separate_calls(name, impl):
    mine, plain = make(), make()
    optimizer, theirs = (
        getattr(optim, name)(mine, **KINDS[name], impl=impl),
        getattr(torch.optim, name)(plain, **KINDS[name]),
    )
    averages, expected = [p.detach().clone() for p in mine], [p.detach().clone() for p in plain]
    kinds = (torch.bfloat16, torch.float16, torch.bfloat16, torch.float16, torch.float16)
    shadows = {p: torch.empty_like(p, dtype=kind) for p, kind in zip(mine, kinds, strict=True)}
    for seed, share in enumerate((1.0, 0.7, 0.5, 0.3, 0.001)):
        for params in (mine, plain):
            give_gradients(params, seed)
            params[1].grad = None  # follows without a step
        follow = WeightAverage(dict(zip(mine, averages, strict=True)), share)
        optimizer.step(average=follow, bound=0.25, shadows=shadows)
        theirs.step()
        with torch.no_grad():
            for p, average in zip(plain, expected, strict=True):
                p.clamp_(-0.25, 0.25)
                average.lerp_(p, share)
        assert max(p.abs().max().item() for p in mine if p.numel()) == 0.25
        assert_same(mine, plain)
        assert_same(averages, expected)
        if share == 1.0:
            assert all(torch.equal(a, p) for a, p in zip(averages, mine, strict=True))
        for p, shadow in shadows.items():
            assert torch.equal(shadow, p.detach().to(shadow.dtype))


@each_impl
def test_the_share_may_be_a_tensor(impl):
    params, average = make(), [torch.zeros_like(p) for p in make()]
    follow = WeightAverage(dict(zip(params, average, strict=True)), torch.tensor(0.25, dtype=torch.float64))
    optim.SGD(params, lr=0.1, impl=impl).step(average=follow)
    assert_same(average, [0.25 * p.detach() for p in params])


@each_impl
def test_bfloat16_weights_are_averaged_as_they_are_stored(impl):
    (p, *_), average = make(torch.bfloat16), torch.zeros(1030, dtype=torch.bfloat16)
    give_gradients([p], 0)
    optim.SGD([p], lr=0.001, impl=impl).step(average=WeightAverage({p: average}, 1.0))
    assert torch.equal(average, p)


@each_impl
def test_a_nan_passes_the_bound(impl):
    (p, *_) = make()
    give_gradients([p], 0)
    p.grad[2] = float("nan")
    optim.SGD([p], lr=0.1, impl=impl).step(bound=0.1)
    assert p.isnan().sum() == 1 and p[~p.isnan()].abs().max() == 0.1


def test_averages_shadows_and_infinities_of_all_kinds_are_refused_by_type():
    (p, *_) = make()
    give_gradients([p], 0)
    if not _extension.available():
        pytest.skip("genlab._C is not built")
    optimizer = optim.SGD([p], lr=0.1, impl="native")
    with pytest.raises(RuntimeError, match=r"average 0 of its parameter's shape \(1030\), got \(7\)"):
        optimizer.step(average=WeightAverage({p: torch.zeros(7, dtype=torch.float64)}, 0.5))
    with pytest.raises(TypeError, match="average 0 of dtype"):
        optimizer.step(average=WeightAverage({p: torch.zeros(1030)}, 0.5))
    with pytest.raises(TypeError, match="shadows of bfloat16 or float16"):
        optimizer.step(shadows={p: torch.zeros(1030)})


# The lab's own calls.


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


@pytest.mark.parametrize("config", [EmaConfig(decay=0.9), EmaConfig(half_life=30, ramp=0.5), EmaConfig(decay=0.0)])
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_the_fused_average_is_that_of_ema(name, config):
    settings = OptimizerConfig(name=name, lr=0.01, momentum=0.4, max_grad_norm=0.05)
    results = []
    for impl in ("auto", "torch"):
        module = network()
        ema = EMA(module, config, images_per_step=10)
        module[3].bias.requires_grad_(False)
        with default_impl(impl):
            optimizer = build_optimizer(settings, module.parameters())
        assert isinstance(optimizer, optim.FusedStep) == (impl == "auto")
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        generator = torch.Generator().manual_seed(5)
        for _ in range(5):
            optimizer.zero_grad()
            module(torch.randn(3, 2, 4, 4, generator=generator)).square().mean().backward()
            if impl == "auto":
                take_step(optimizer, scaler, bound=0.3, average=ema.following(module, ema.next_share()))
                ema.copy_buffers(module)
            else:
                take_step(optimizer, scaler, bound=0.3)
                ema.update(module)
        results.append((module.state_dict(), ema.module.state_dict(), ema.state_dict()))
    (weights, averages, counters), (plain, expected, theirs) = results
    assert counters == theirs and counters["updates"] == 5
    for found, wanted in ((weights, plain), (averages, expected)):
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(averages["0.weight"], network()[0].weight)


def test_taking_a_step_with_torchs_optimizer_averages_too():
    module = network()
    ema, twin = (EMA(module, EmaConfig(decay=0.5), 1) for _ in range(2))
    with default_impl("torch"):
        optimizer = build_optimizer(OptimizerConfig(), module.parameters())
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    take_step(optimizer, torch.amp.GradScaler("cpu", enabled=False), average=ema.following(module, ema.next_share()))
    twin.update(copy.deepcopy(module))
    for a, b in zip(ema.module.parameters(), twin.module.parameters(), strict=True):
        assert torch.equal(a, b)

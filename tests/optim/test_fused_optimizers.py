"""genlab.optim beside torch.optim: the same steps for every option, the same state, the same refusals."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from genlab import _extension, optim

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
native = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
SIZES = ((1,), (3,), (17,), (1025,), (0,), (), (3, 5, 2, 2), (4099,))
CASES = [
    ("Adam", {}),
    ("Adam", {"betas": (0.0, 0.9), "eps": 1e-6}),
    ("Adam", {"betas": (0.5, 0.999), "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.2}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"amsgrad": True, "maximize": True, "weight_decay": 0.3}),
    ("RMSprop", {}),
    ("RMSprop", {"centered": True, "alpha": 0.9, "eps": 1e-4}),
    ("RMSprop", {"alpha": 0.3, "centered": True, "momentum": 0.9, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "maximize": True}),
]
ONE_OF_EACH = [CASES[2], CASES[4], CASES[8], CASES[10]]
IDS = ["-".join([name, *options]) for name, options in CASES]


def parameters(dtype: torch.dtype = torch.float64, sizes: tuple = SIZES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
    values = [v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for v in values]
    return [v.requires_grad_() for v in values]


def give_gradients(params: list[torch.Tensor], seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.empty_like(p, requires_grad=False).copy_(torch.randn(p.shape, generator=generator) * scale)


def run(params: list[torch.Tensor], optimizer: torch.optim.Optimizer, steps: int, **settings: object) -> None:
    for seed in range(steps):
        give_gradients(params, seed)
        optimizer.step(**settings)


def both(name: str, options: dict, impl: str, dtype: torch.dtype = torch.float64, sizes: tuple = SIZES):
    mine, plain = parameters(dtype, sizes), parameters(dtype, sizes)
    theirs = getattr(torch.optim, name)(plain, **options)
    return mine, getattr(optim, name)(mine, **options, impl=impl), plain, theirs


def error(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Norm of the difference of all values."""
    return torch.cat([(f.double() - e).flatten() for f, e in zip(found, exact, strict=True)]).norm().item()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_twenty_steps_are_torchs_in_float64(name, options, impl):
    mine, optimizer, plain, theirs = both(name, options, impl)
    run(mine, optimizer, 20)
    run(plain, theirs, 20)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
        assert a.stride() == b.stride()
        assert optimizer.state[a].keys() == theirs.state[b].keys()
        for key, value in theirs.state[b].items():
            torch.testing.assert_close(optimizer.state[a][key], value, rtol=1e-12, atol=1e-14)
            assert optimizer.state[a][key].stride() == value.stride()


@native
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_error_of_low_precision_is_at_most_twice_torchs(name, options, dtype):
    if dtype == torch.bfloat16 and options.get("centered"):
        pytest.skip("a variance of bfloat16 moments falls below zero: NaN, in torch too")
    exact = [p.detach().double().requires_grad_() for p in parameters(dtype)]
    mine, optimizer, plain, theirs = both(name, options, "native", dtype)
    reference = getattr(torch.optim, name)(exact, **options)
    for seed in range(20):
        give_gradients(mine, seed)
        for params in (plain, exact):
            for p, given in zip(params, mine, strict=True):
                p.grad = given.grad.to(p)
        for each in (optimizer, theirs, reference):
            each.step()
    assert error(mine, exact) <= 2 * error(plain, exact) + 1e-9


@pytest.mark.parametrize("impl", ["auto", *IMPLEMENTATIONS])
@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_any_memory_order_of_parameter_gradient_and_state_gives_the_same_step(name, options, impl):
    def odd() -> list[torch.Tensor]:
        wide = torch.arange(60.0, dtype=torch.float64).view(5, 12).sin()
        return [wide[:, ::2].requires_grad_(), wide.t()[1:4].clone().t().requires_grad_()]

    mine, plain = odd(), odd()
    optimizer = getattr(optim, name)(mine, **options, impl=impl)
    theirs = getattr(torch.optim, name)(plain, **options, foreach=False)
    between = mine[0]._base[:, 1::2].clone()
    assert not mine[0].is_contiguous() and mine[0].numel() < mine[0].untyped_storage().size() // 8
    for seed in range(3):
        give_gradients(mine, seed)
        give_gradients(plain, seed)
        mine[1].grad = mine[1].grad.t().contiguous().t()
        for state in optimizer.state.values():
            for key, value in state.items():
                if value.dim() == 2:
                    state[key] = value.t().contiguous().t()
        optimizer.step()
        theirs.step()
    assert torch.equal(mine[0]._base[:, 1::2], between), "values that are no parameter's stay"
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
        for key, value in theirs.state[b].items():
            torch.testing.assert_close(optimizer.state[a][key], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("impl", ["auto", *IMPLEMENTATIONS])
def test_a_group_may_mix_dtypes_frozen_parameters_and_such_without_gradient(impl):
    def make() -> list[torch.Tensor]:
        kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float32, torch.float32)
        return [torch.ones(5, dtype=kind).requires_grad_(i != 3) for i, kind in enumerate(kinds)]

    mine, plain = make(), make()
    pairs = [(mine, optim.Adam(mine, lr=0.1, impl=impl)), (plain, torch.optim.Adam(plain, lr=0.1))]
    for params, optimizer in pairs:
        for p in params[:3]:
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        optimizer.step()
        assert len(optimizer.state) == 3
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(mine[3], torch.ones(5)) and torch.equal(mine[4], torch.ones(5))


@native
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_gradients_that_are_not_finite_do_what_they_do_in_torch(name, options, bad):
    mine, optimizer, plain, theirs = both(name, options, "native", sizes=((19,), (1030,)))
    for seed in range(3):
        for params, each in ((mine, optimizer), (plain, theirs)):
            give_gradients(params, seed)
            if seed == 1:
                params[0].grad[3] = bad
                params[1].grad[1025] = bad
            each.step()
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14, equal_nan=True)
        assert not torch.isfinite(a).all() and torch.isfinite(a).sum() == a.numel() - 1


@native
def test_results_depend_neither_on_threads_nor_on_where_an_element_lies():
    def once(threads: int, sizes: tuple) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        params = [torch.linspace(-1, 1, 70001)[: sum(sizes)].clone()]
        params = [p.clone().requires_grad_() for p in params[0].split(list(sizes))]
        optimizer = optim.Adam(params, lr=0.1, weight_decay=0.01, impl="native")
        for k in range(3):
            whole = (torch.arange(70001.0) * (k + 1)).sin()[: sum(sizes)]
            for p, grad in zip(params, whole.split(list(sizes)), strict=True):
                p.grad = grad.clone()
            optimizer.step(max_norm=5.0) if len(sizes) == 1 else optimizer.step()
        return params

    threads = torch.get_num_threads()
    try:
        assert torch.equal(once(1, (70001,))[0], once(2, (70001,))[0])
        assert torch.equal(torch.cat(once(2, (1, 4099, 30, 70001 - 4130))), torch.cat(once(1, (4113, 70001 - 4113))))
    finally:
        torch.set_num_threads(threads)


# State.


def loaded(optimizer: torch.optim.Optimizer, state: dict) -> torch.optim.Optimizer:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file))
    return optimizer


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_state_goes_to_torch_and_back(name, options, impl):
    mine, optimizer, plain, theirs = both(name, options, impl)
    run(mine, optimizer, 3)
    with torch.no_grad():
        for a, b in zip(mine, plain, strict=True):
            b.copy_(a)
    theirs = loaded(theirs, optimizer.state_dict())
    assert theirs.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    run(plain, theirs, 3)
    again = [p.detach().clone(memory_format=torch.preserve_format).requires_grad_() for p in plain]
    back = loaded(getattr(optim, name)(again, **options, impl=impl), theirs.state_dict())
    run(again, back, 2)
    run(mine, optimizer, 3)
    run(mine, optimizer, 2)
    for a, b in zip(mine, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_state_of_torchs_fused_optimizer_loads():
    mine, optimizer, plain, _ = both("Adam", {}, "auto", torch.float32)
    theirs = torch.optim.Adam(plain, fused=True)
    run(plain, theirs, 2)
    loaded(optimizer, theirs.state_dict())
    assert optimizer.param_groups[0]["fused"] is True
    with torch.no_grad():
        for a, b in zip(mine, plain, strict=True):
            a.copy_(b)
    run(mine, optimizer, 2)
    run(plain, theirs, 2)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_state_of_other_parameters_is_refused_as_by_torch():
    (source,) = parameters(sizes=((7,),))
    giver = optim.Adam([source])
    run([source], giver, 1)
    with pytest.raises(ValueError, match="parameter group"):
        optim.Adam(parameters(sizes=((7,), (7,)))).load_state_dict(giver.state_dict())
    with pytest.raises(ValueError, match="number of parameter groups"):
        optim.Adam([{"params": p} for p in parameters(sizes=((7,), (7,)))]).load_state_dict(giver.state_dict())
    for family in (torch.optim, optim):
        params = parameters(sizes=((9,),))
        taker = family.Adam(params)
        taker.load_state_dict(giver.state_dict())
        with pytest.raises(RuntimeError):  # as torch, which looks at shapes when it steps
            run(params, taker, 1)


@native
def test_the_refusal_names_the_state_and_both_shapes():
    (a,), (b,) = parameters(sizes=((7,),)), parameters(sizes=((9,),))
    giver, taker = optim.SGD([a], momentum=0.9), optim.SGD([b], momentum=0.9, impl="native")
    run([a], giver, 1)
    taker.load_state_dict(giver.state_dict())
    with pytest.raises(RuntimeError, match=r"momentum_buffer 0 of its parameter's shape \(9\), got \(7\)"):
        run([b], taker, 1)


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_a_copy_goes_on_alike(name, options):
    mine, optimizer, _, _ = both(name, options, "reference")
    run(mine, optimizer, 2)
    params, other = copy.deepcopy((mine, optimizer))
    assert other.impl == "reference"
    run(mine, optimizer, 2)
    run(params, other, 2)
    assert all(torch.equal(a, b) for a, b in zip(mine, params, strict=True))


# torch's interface.


def test_closure_zero_grad_hooks_and_schedulers_work():
    layer = nn.Linear(3, 1)
    optimizer = optim.Adam(layer.parameters(), lr=0.1)
    schedule, seen = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = layer(torch.ones(2, 3)).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    schedule.step()
    assert optimizer.step(closure) < first
    assert optimizer.param_groups[0]["lr"] == 0.05 and seen == [1, 1]
    optimizer.zero_grad()
    assert layer.weight.grad is None


def test_groups_have_their_own_settings_and_can_be_added():
    a, b = parameters(sizes=((5,), (6,)))
    optimizer = optim.SGD([a], lr=0.5)
    optimizer.add_param_group({"params": [b], "lr": 0.25})
    before = a.detach().clone(), b.detach().clone()
    for p in (a, b):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(a, before[0] - 0.5) and torch.equal(b, before[1] - 0.25)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "SGD"])
def test_the_learning_rate_may_be_a_tensor(name, impl):
    mine, plain = parameters(), parameters()
    rate = torch.tensor(0.02, dtype=torch.float64)
    run(mine, getattr(optim, name)(mine, lr=rate, impl=impl), 3)
    run(plain, getattr(torch.optim, name)(plain, lr=0.02), 3)
    assert error(mine, plain) < 1e-12


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_complex_parameters_run_through_torch(impl):
    mine, plain = (torch.full((4,), 1 + 2j, requires_grad=True) for _ in range(2))
    for p, optimizer in ((mine, optim.Adam([mine], lr=0.1, impl=impl)), (plain, torch.optim.Adam([plain], lr=0.1))):
        p.grad = torch.full_like(p, 0.5 - 1j)
        optimizer.step()
    torch.testing.assert_close(mine, plain)


@native
def test_a_step_between_forward_and_backward_is_noticed():
    (p,) = parameters(sizes=((4,),))
    optimizer = optim.SGD([p], lr=0.1, impl="native")
    loss = p.square().sum()
    p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "SGD"])
def test_bad_arguments_are_refused_by_torchs_types(name):
    kind, (p,) = getattr(optim, name), parameters(sizes=((3,),))
    with pytest.raises(RuntimeError, match=f"differentiable=False.*use torch.optim.{name}"):
        kind([p], differentiable=True)
    for bad in ({"lr": -1.0}, {"weight_decay": -1.0}, {"impl": "quick"}):
        with pytest.raises(ValueError):
            kind([p], **bad)
    with pytest.raises(ValueError, match="empty parameter list"):
        kind([])
    optimizer = kind([p])
    with pytest.raises(ValueError, match="max_norm > 0, got 0"):
        optimizer.step(max_norm=0)
    with pytest.raises(ValueError, match="bound > 0, got -1"):
        optimizer.step(bound=-1)
    p.grad = torch.ones(3, dtype=torch.float64).to_sparse()
    for settings in ({}, {"max_norm": 1.0}):
        with pytest.raises(RuntimeError, match="does not support sparse gradients"):
            optimizer.step(**settings)


def test_nesterov_and_foreach_beside_fused_are_refused_as_by_torch():
    (p,) = parameters(sizes=((3,),))
    with pytest.raises(ValueError, match="Nesterov"):
        optim.SGD([p], nesterov=True)
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        optim.Adam([p], fused=True, foreach=True)


@native
def test_a_dtype_without_kernels_is_refused_by_native_and_served_by_auto():
    p = torch.ones(3, dtype=torch.float16, requires_grad=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(NotImplementedError, match="float16"):
        optim.SGD([p], lr=0.5, impl="native").step()
    optim.SGD([p], lr=0.5).step()
    assert torch.equal(p, torch.full_like(p, 0.5))

"""genlab.optim's CUDA kernels: the CPU's values, captured steps, loss scales on the device, bits that repeat."""

from __future__ import annotations

import pytest
import torch

from genlab import optim
from genlab.ops.optimizer_step import gradient_norm
from genlab.optim import WeightAverage

pytestmark = pytest.mark.cuda

KINDS = {
    "Adam": {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"lr": 0.1, "betas": (0.5, 0.9)},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0.2},
}
SIZES = ((1,), (3,), (0,), (), (4096,), (4099,), (33, 5, 4, 4), (70001,), *((n,) for n in range(1, 60)))
each_kind = pytest.mark.parametrize("name", KINDS)


def make(device: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in SIZES]
    return [v.requires_grad_() for v in values]


def give_gradients(params: list[torch.Tensor], seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(grad)


def extras(params: list[torch.Tensor]) -> dict[str, object]:
    averages = {p: torch.zeros_like(p) for p in params}
    shadows = {p: torch.zeros_like(p, dtype=torch.bfloat16) for p in params}
    return {"average": WeightAverage(averages, 0.3), "shadows": shadows, "bound": 1.5, "max_norm": 20.0}


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_agrees_with_the_cpu(name, dtype):
    host = torch.float64 if dtype == torch.float64 else torch.float32
    found = []
    for device, kind, impl in (("cuda", dtype, "native"), ("cpu", host, "reference")):
        params = make(device, kind)
        if kind != dtype:
            params = [p.detach().to(dtype).to(kind).requires_grad_() for p in params]
        optimizer, follow = getattr(optim, name)(params, **KINDS[name], impl=impl), extras(params)
        for seed in range(2 if dtype in (torch.float16, torch.bfloat16) else 5):
            give_gradients(params, seed)
            optimizer.step(**follow)
        found.append([*params, *follow["average"].of.values()])
    loose = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 6e-2, torch.float16: 1e-2}[dtype]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.detach().cpu().to(host), b.detach(), rtol=loose, atol=loose)


@each_kind
def test_shadows_are_the_rounded_weights_and_steps_lie_on_the_device(name):
    params = make("cuda")
    optimizer, follow = getattr(optim, name)(params, **KINDS[name], impl="native"), extras(params)
    give_gradients(params, 0)
    optimizer.step(**follow)
    assert all(torch.equal(shadow, p.detach().bfloat16()) for p, shadow in follow["shadows"].items())
    assert all(s["step"].device == p.device for p, s in optimizer.state.items() if "step" in s)


@each_kind
def test_a_captured_step_is_replayed_with_fresh_gradients_rates_and_shares(name):
    results = []
    for captured in (True, False):
        params = make("cuda")
        rate = torch.tensor(KINDS[name]["lr"], device="cuda")
        share = torch.tensor(1.0, device="cuda", dtype=torch.float64)
        settings = {**KINDS[name], "lr": rate, "impl": "native"}
        optimizer, follow = getattr(optim, name)(params, **settings), extras(params)
        follow["average"] = WeightAverage(follow["average"].of, share)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            give_gradients(params, 0)
            optimizer.step(**follow)  # creates the state
            graph = torch.cuda.CUDAGraph()
            if captured:
                with torch.cuda.graph(graph, stream=stream):
                    optimizer.step(**follow)
            for seed in (1, 2, 3):
                give_gradients(params, seed)
                rate.fill_(KINDS[name]["lr"] / seed)
                share.fill_(1 / (seed + 1))
                graph.replay() if captured else optimizer.step(**follow)
        torch.cuda.synchronize()
        results.append([*params, *follow["average"].of.values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@each_kind
def test_a_gradient_scaler_never_waits_for_the_device_and_skips_infinities(name):
    mine, plain = make("cuda"), make("cuda")
    optimizer = getattr(optim, name)(mine, **KINDS[name], impl="native")
    theirs = getattr(torch.optim, name)(plain, **KINDS[name])
    scalers = [torch.amp.GradScaler("cuda", init_scale=1024.0, growth_interval=2) for _ in range(2)]
    for seed in range(5):
        for params, scaler, each in ((mine, scalers[0], optimizer), (plain, scalers[1], theirs)):
            scaler.scale(torch.zeros((), device="cuda"))
            give_gradients(params, seed, scaler.get_scale())
            if seed == 2:
                params[-1].grad[0] = float("inf")
            scaler.step(each)
            scaler.update()
        for a, b in zip(mine, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_norm_and_a_clipped_step_repeat_bit_for_bit():
    params = make("cuda")
    give_gradients(params, 0)
    grads = [p.grad for p in params]
    first = gradient_norm(grads, impl="native")
    assert all(torch.equal(first, gradient_norm(grads, impl="native")) for _ in range(20))
    torch.testing.assert_close(first.cpu(), torch.cat([g.double().flatten() for g in grads]).norm().cpu())
    runs = []
    for _ in range(5):
        again = make("cuda")
        give_gradients(again, 0)
        optim.Adam(again, impl="native").step(max_norm=0.5)
        runs.append(torch.cat([p.detach().flatten() for p in again]))
    assert all(torch.equal(runs[0], other) for other in runs[1:])


def test_state_of_torchs_optimizer_on_the_gpu_loads_and_goes_on():
    mine, plain = make("cuda"), make("cuda")
    theirs = torch.optim.Adam(plain, lr=0.1)  # its step counts lie on the host
    give_gradients(plain, 0)
    theirs.step()
    optimizer = optim.Adam(mine, lr=0.1, impl="native")
    optimizer.load_state_dict({**theirs.state_dict()})
    for state in optimizer.state.values():
        state.update({key: value.clone() for key, value in state.items()})
    with torch.no_grad():
        for a, b in zip(mine, plain, strict=True):
            a.copy_(b)
    for params, each in ((mine, optimizer), (plain, theirs)):
        give_gradients(params, 1)
        each.step()
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

"""The losses of `genlab bench op`: the logits and latents of the lab's trainers, and tables of many classes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import ops
from genlab.bench.cases import Case, Tensors

# loss, who it is for, shape of the logits of each side
GAMES = (
    ("non_saturating", "DCGAN", (128, 1)),
    ("lsgan", "PatchGAN 70x70 map", (16, 1, 70, 70)),
    ("non_saturating", "PatchGAN 70x70 map", (16, 1, 70, 70)),
    ("hinge", "SNGAN", (64, 1)),
    ("wasserstein", "WGAN", (64, 1)),
)
# label, shape of the logits, label smoothing
TABLES = (
    ("digits", (100, 10), 0.0),
    ("1000 classes", (32, 1000), 0.0),
    ("1000 classes, smoothed", (32, 1000), 0.1),
    ("10000 classes", (4096, 10000), 0.0),
)
# label, samples, draws, latents
LATENTS = (("VAE", 128, 1, 40), ("IWAE", 20, 50, 50))
QUICK = ("DCGAN", "PatchGAN 70x70 map", "1000 classes", "VAE")
TINY_GAMES, TINY_TABLES = (("lsgan", "tiny", (4, 1)),), (("tiny", (4, 5), 0.0),)
TINY_LATENTS = (("tiny", 4, 2, 3),)


def loss_cases(shapes: str) -> list[Case]:
    """The rows of "quick", "full" or "tiny"."""
    tiny = shapes == "tiny"
    taken = lambda label: shapes != "quick" or label in QUICK  # noqa: E731
    cases = [c for game in (TINY_GAMES if tiny else GAMES) if taken(game[1]) for c in _game(*game)]
    cases += [c for table in (TINY_TABLES if tiny else TABLES) if taken(table[0]) for c in _table(*table)]
    return cases + [
        c for latents in (TINY_LATENTS if tiny else LATENTS) if taken(latents[0]) for c in _latents(*latents)
    ]


def _both(
    op: str, label: str, shape: str, make: Callable[[torch.Generator], Tensors], ours: Callable, peer: Callable,
    wanted: tuple[int, ...], values: tuple[float, float],
) -> list[Case]:  # fmt: skip
    parts = [("forward", (), values[0]), ("forward and backward", wanted, values[1])]
    return [
        Case(op, direction, label, shape, make, ours, peer, some, (), 0.0, moved, whole=True)
        for direction, some, moved in parts
    ]


def _game(loss: str, label: str, sizes: tuple[int, ...]) -> list[Case]:
    def make(generator: torch.Generator) -> Tensors:
        return torch.randn(sizes, generator=generator), torch.randn(sizes, generator=generator)

    def ours(fake: Tensor, real: Tensor, *, impl: str) -> Tensor:
        return ops.gan_loss(loss, fake, real, impl=impl)

    count = 2.0 * torch.Size(sizes).numel()
    shape = "x".join(map(str, sizes)) + f" {loss}"
    return _both("gan_loss", label, shape, make, ours, functools.partial(_torch_game, loss), (0, 1), (count, 2 * count))


def _torch_game(loss: str, fake: Tensor, real: Tensor) -> Tensor:
    # As trainers write it, half precision reduced in float32.
    if fake.dtype in (torch.bfloat16, torch.float16):
        fake, real = fake.float(), real.float()
    if loss == "lsgan":
        return 0.5 * F.mse_loss(real, torch.ones_like(real)) + 0.5 * F.mse_loss(fake, torch.zeros_like(fake))
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if loss == "wasserstein":
        return fake.mean() - real.mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


@functools.lru_cache(maxsize=8)
def _targets(rows: int, classes: int, device: torch.device) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(rows)).to(device)


def _table(label: str, sizes: tuple[int, int], smoothing: float) -> list[Case]:
    def make(generator: torch.Generator) -> Tensors:
        return (torch.randn(sizes, generator=generator),)

    def ours(input: Tensor, *, impl: str) -> Tensor:
        target = _targets(*sizes, input.device)
        return ops.cross_entropy(input, target, label_smoothing=smoothing, impl=impl)

    def peer(input: Tensor) -> Tensor:
        return F.cross_entropy(input, _targets(*sizes, input.device), label_smoothing=smoothing)

    count = float(torch.Size(sizes).numel())
    shape = "x".join(map(str, sizes)) + (f" smoothing {smoothing}" if smoothing else "")
    return _both("cross_entropy", label, shape, make, ours, peer, (0,), (count, 2 * count))


def _latents(label: str, n: int, k: int, d: int) -> list[Case]:
    def make(generator: torch.Generator) -> Tensors:
        draw = lambda *sizes: torch.randn(sizes, generator=generator)  # noqa: E731
        return draw(n, d), draw(n, d), draw(n, k, d)

    def ours(mean: Tensor, log_variance: Tensor, noise: Tensor, *, impl: str) -> tuple[Tensor, Tensor]:
        return ops.reparametrize_kl(mean, log_variance, noise, impl=impl)

    def peer(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = mean.unsqueeze(1) + (0.5 * log_variance).exp().unsqueeze(1) * noise
        return z, 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)

    small, large = float(n * d), float(n * k * d)
    values = (3 * small + 2 * large, 9 * small + 5 * large)
    return _both("reparametrize_kl", label, f"{n}x{k}x{d}", make, ours, peer, (0, 1), values)

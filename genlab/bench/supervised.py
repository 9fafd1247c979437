"""Steps of `genlab bench step` that train one network on one loss: classifiers of pictures and models of text.

The lab's side is its own trainer's `advance`, the whole step. The plain side is the same network of torch's modules,
the loss of `torch.nn.functional`, torch's clipping and its fused optimiser, with the trainer's settings and weights.
Dropout is off: its noise would differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Supervised:
    """A model whose training step is timed.

    Attributes:
        algorithm: of its trainer, whose only network is trained.
        tree: settings -> the sections "model", "optimizer" and others of its configuration.
        spec: settings -> what `DataSpec` takes beside the name.
        batch: (settings, generator) -> tensors of one batch.
        plain: (settings, the lab's network) -> the same network of torch's modules, with its weights.
        loss: (plain network, batch, autocast) -> 0-d; the network runs in autocast, the loss in float32.
        size, channels: of the pictures; 0 for text.
        length, width: tokens of a sequence and the network's width, of models of text.
        batch_size: samples of a step where `--batch` does not say.
    """

    algorithm: str
    tree: Callable[[Any], dict[str, Any]]
    spec: Callable[[Any], dict[str, Any]]
    batch: Callable[[Any, torch.Generator], Batch]
    plain: Callable[[Any, nn.Module], nn.Module]
    loss: Callable[[nn.Module, Batch, torch.autocast], Tensor]
    size: int = 0
    channels: int = 0
    length: int = 0
    width: int = 0
    batch_size: int = 128


# Differences in the second step are those of the first update. Adam divides each gradient by its own size, so that
# rounding decides the sign of the smallest.
TOLERANCES = {"fp32": (1e-5, 1e-2), "bf16-mixed": (2e-2, 5e-2)}


def make_trainer(workload: Supervised, settings: Any) -> Any:
    """The lab's trainer of that model on one batch's worth of data."""
    from genlab.config import parse_config
    from genlab.trainers import ALGORITHMS
    from genlab.trainers.data_spec import DataSpec

    tree = workload.tree(settings)
    tree |= {"algorithm": workload.algorithm, "seed": settings.seed}
    tree["data"] = {"batch_size": settings.batch} | tree.get("data", {})
    tree["train"] = {"precision": settings.precision, "deterministic": False}
    spec = DataSpec(tree["data"]["name"], **workload.spec(settings))
    trainer = ALGORITHMS.get(workload.algorithm)(parse_config(tree, "bench step"), spec, device=settings.device)
    _fill_zeros(next(iter(trainer.networks.values())), settings.seed)
    return trainer


def _fill_zeros(network: nn.Module, seed: int) -> None:
    """Gives layers that begin at zero (a Vision Transformer's last) values: behind them every network looks alike."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            values = torch.randn(module.weight.shape, generator=generator) * 0.1
            module.weight.data.copy_(values)


def make_batch(workload: Supervised, settings: Any) -> Batch:
    """The batch that every step of every arm sees. What is in it does not change the time."""
    return workload.batch(settings, torch.Generator().manual_seed(settings.seed))


def lab_step(workload: Supervised, settings: Any) -> Callable[[], dict[str, Tensor]]:
    """A step of the lab's trainer; returns its loss."""
    trainer = make_trainer(workload, settings)
    batch = trainer.to_device(make_batch(workload, settings))

    def step() -> dict[str, Tensor]:
        return {"loss": trainer.advance(batch)["loss"]}

    return step


def plain_step(
    workload: Supervised, settings: Any, layout: torch.memory_format, compiled: bool
) -> Callable[[], dict[str, Tensor]]:
    """A step of the network of torch's modules; returns its loss."""
    network, optimizer, max_norm = _plain(workload, settings, layout)
    device = torch.device(settings.device).type
    autocast = torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16-mixed")
    batch = {name: value.to(settings.device) for name, value in make_batch(workload, settings).items()}
    batch = {name: v.contiguous(memory_format=layout) if v.dim() == 4 else v for name, v in batch.items()}
    if compiled:
        network.compile(dynamic=False)

    def step() -> dict[str, Tensor]:
        optimizer.zero_grad()
        loss = workload.loss(network, batch, autocast)
        loss.backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        optimizer.step()
        return {"loss": loss.detach()}

    return step


def _plain(
    workload: Supervised, settings: Any, layout: torch.memory_format
) -> tuple[nn.Module, torch.optim.Optimizer, float | None]:
    """Network, optimiser and norm to clip by; the trainer they come from is gone, and no part of the arm's memory."""
    trainer = make_trainer(workload, settings)
    (ours,) = trainer.networks.values()
    network = workload.plain(settings, ours).to(settings.device, memory_format=layout).train()
    config = trainer.config.optimizer
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.name == "sgd":
        optimizer = torch.optim.SGD(network.parameters(), momentum=config.momentum, nesterov=config.nesterov, **common)
    else:
        kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        optimizer = kind(network.parameters(), betas=config.betas, eps=config.eps, **common)
    return network, optimizer, config.max_grad_norm

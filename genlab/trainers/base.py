"""What all algorithms share inside one process: networks, optimisers, precision, averaging, noise, sampling and state.

An algorithm is a subclass with four methods - `build_networks`, `build_optimizers`, `train_step`, `sample` - and
nothing else. The loop around it (data, logs, samples, checkpoints) is in `genlab.trainers.loop`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genlab.config import RunConfig
from genlab.distributed import Distributed, ShardedNoise
from genlab.ema import EMA, EmaConfig
from genlab.errors import ConfigError, UserError
from genlab.nn import synchronize_batch_norm
from genlab.precision import Precision
from genlab.schedules import build_schedule
from genlab.seeding import generator, seed_everything
from genlab.trainers.data_spec import DataSpec
from genlab.trainers.update import Update

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


class Trainer:
    """One algorithm on one process.

    Args:
        config: of the class's `config_class`.
        data: what the samples look like; enough to build the networks without the data set.
        device: where the networks live.
        distributed: this process among those of the run.

    Attributes:
        networks: name -> network; an optimiser trains one or several of them.
        optimizers: name -> optimiser; `update(name)` steps it.
        ema: network's name -> its average, for the networks that `averaged_networks` names.
        noise: random tensors that are the same for any number of processes.
        step: updates done so far.
        use_ema: whether `sample` draws from the averaged networks.
    """

    config_class: ClassVar[type[RunConfig]] = RunConfig
    data_kinds: ClassVar[tuple[str, ...]] = ("images",)

    def __init__(
        self,
        config: RunConfig,
        data: DataSpec,
        *,
        device: torch.device | str = "cpu",
        distributed: Distributed | None = None,
    ) -> None:
        if data.kind not in self.data_kinds:
            raise ConfigError(
                f"algorithm {config.algorithm}: expected a data set of {' or '.join(self.data_kinds)}, "
                f"got {data.kind} (data.name={data.name})"
            )
        self.config = config
        self.data = data
        self.device = torch.device(device)
        self.distributed = distributed or Distributed()
        self.precision = Precision(config.train.precision, self.device)
        self.step = 0
        self.use_ema = True
        self.micro_batch_count = config.train.grad_accumulation
        self._check_batch_split()

        seed_everything(config.seed, "weights")  # the same on every process
        self.networks = {name: self._place(network) for name, network in self.build_networks().items()}
        self.optimizers = self.build_optimizers()
        images_per_step = config.data.batch_size
        self.ema = {
            name: EMA(self.networks[name], settings, images_per_step)
            for name, settings in self.averaged_networks().items()
        }
        self.scalers = {name: self.precision.new_scaler() for name in self.optimizers}
        self.noise = ShardedNoise(generator(config.seed, "noise"), self.distributed, self.device)
        self._trainable = {
            name: [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            for name, optimizer in self.optimizers.items()
        }
        self._schedule = build_schedule(config.train.schedule, config.train.steps)
        seed_everything(config.seed, "training", self.distributed.rank)  # dropout and the like differ between processes

    # The algorithm: these four, and for some `averaged_networks` and `batches_per_step`.

    def build_networks(self) -> dict[str, nn.Module]:
        """The networks, on the CPU, in training mode."""
        raise NotImplementedError

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers over `self.networks`."""
        raise NotImplementedError

    def train_step(self, *batches: Batch) -> Metrics:
        """One step of the algorithm on `batches_per_step` local batches.

        Returns:
            name -> 0-d detached tensor on the device. Nothing in here waits for the device.
        """
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` new images, (count, C, H, W) float32 in [-1, 1], from the averaged networks where there are some.

        Args:
            count: number of images, at least 1.
            generator: CPU generator that all randomness comes from.
        """
        return self.decode(self.latents(count, generator))

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` draws from the prior, (count, ...) on the device: what `interpolate` walks between."""
        raise UserError(f"algorithm {self.config.algorithm}: has no latent space to draw from")

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, C, H, W) float32 in [-1, 1] of the latents, from the averaged networks where there are some."""
        raise UserError(f"algorithm {self.config.algorithm}: has no latent space to decode from")

    def averaged_networks(self) -> dict[str, EmaConfig]:
        """Which networks are followed by a moving average."""
        return {}

    @property
    def batches_per_step(self) -> int:
        """Batches that one `train_step` takes."""
        return 1

    # What a train_step is written with.

    def autocast(self) -> AbstractContextManager:
        """Context of forward passes; losses and penalties leave it."""
        return self.precision.autocast()

    @contextmanager
    def update(self, name: str) -> Iterator[Update]:
        """One update of the optimiser `name`: `with self.update("generator") as update: ... update.backward(loss)`.

        Inside, only the parameters of that optimiser require gradients, so no other network's weight gradients are
        computed. On leaving, gradients are averaged over processes and the optimiser steps.
        """
        optimizer, scaler = self.optimizers[name], self.scalers[name]
        for other, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(other == name)
        optimizer.zero_grad(set_to_none=True)
        update = Update(scaler, self.micro_batch_count)
        try:
            yield update
        finally:
            for parameters in self._trainable.values():
                for parameter in parameters:
                    parameter.requires_grad_(True)
        self.distributed.average_gradients(self._trainable[name])
        scaler.step(optimizer)
        scaler.update()

    def advance(self, *batches: Batch) -> Metrics:
        """Learning rates of this step, `train_step`, moving averages, and the step counter."""
        factor = self._schedule(self.step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        metrics = self.train_step(*(self.to_device(batch) for batch in batches))
        for name, ema in self.ema.items():
            ema.update(self.networks[name])
        self.step += 1
        return metrics

    @property
    def learning_rate(self) -> float:
        """The first optimiser's present learning rate."""
        return next(iter(self.optimizers.values())).param_groups[0]["lr"]

    def to_device(self, batch: Batch) -> Batch:
        """The batch on the trainer's device, pictures in the trainer's memory order."""
        moved = {}
        for name, value in batch.items():
            value = value.to(self.device, non_blocking=True)
            moved[name] = value.contiguous(memory_format=self._memory_format) if value.dim() == 4 else value
        return moved

    # Sampling.

    def inference_network(self, name: str) -> nn.Module:
        """The network that samples come from: its average where there is one and `use_ema` is set."""
        return self.ema[name].module if self.use_ema and name in self.ema else self.networks[name]

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients, evaluation mode (running batch statistics), float32; training mode comes back afterwards."""
        before = {name: network.training for name, network in self.networks.items()}
        for network in self.networks.values():
            network.eval()
        try:
            with torch.no_grad(), self.precision.full():
                yield
        finally:
            for name, network in self.networks.items():
                network.train(before[name])

    # Placement.

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.config.train.channels_last else torch.contiguous_format

    def _place(self, network: nn.Module) -> nn.Module:
        if self.config.train.sync_batch_norm:
            synchronize_batch_norm(network)
        return network.to(self.device, memory_format=self._memory_format).train()

    def _check_batch_split(self) -> None:
        size, processes = self.config.data.batch_size, self.distributed.world_size
        if size % (processes * self.micro_batch_count):
            raise ConfigError(
                f"data.batch_size: expected a multiple of {processes} process(es) x train.grad_accumulation="
                f"{self.micro_batch_count}, got {size}"
            )

    def batch_description(self) -> dict[str, Any]:
        """Sizes that a log's first row names."""
        return {
            "batch_size": self.config.data.batch_size,
            "processes": self.distributed.world_size,
            "micro_batches": self.micro_batch_count,
            "parameters": {name: sum(p.numel() for p in net.parameters()) for name, net in self.networks.items()},
        }

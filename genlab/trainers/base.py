"""What all algorithms share inside one process: networks, optimisers, precision, averaging, noise and state.

An algorithm is a subclass with four methods - `build_networks`, `build_optimizers`, `train_step`, `sample` - and what
it has beside them (its own pictures, scores, data streams, state). What a trained one can be asked for is in
`genlab.trainers.abilities`, how it is judged in `genlab.trainers.judged`, the loop around it (data, logs, samples,
checkpoints) in `genlab.trainers.loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from genlab.config import RunConfig
from genlab.distributed import Distributed, ShardedNoise
from genlab.ema import EMA, EmaConfig
from genlab.errors import ConfigError
from genlab.nn import ConvChain, synchronize_batch_norm
from genlab.optim import WeightAverage
from genlab.optimizers import take_step
from genlab.precision import Precision
from genlab.schedules import build_schedule
from genlab.seeding import generator, seed_everything
from genlab.trainers.abilities import Abilities
from genlab.trainers.data_spec import DataSpec
from genlab.trainers.diagnosis import gradient_norm
from genlab.trainers.graphs import StepGraphs, Uncaptured
from genlab.trainers.judged import Judged
from genlab.trainers.update import Update

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Picture:
    """A grid that a training writes.

    Attributes:
        images: (N, C, H, W) float32 in [-1, 1].
        columns: images in a row; None: as square as can be.
        name: distinguishes a second picture of the same step; "" for the first.
    """

    images: Tensor
    columns: int | None = None
    name: str = ""


@dataclass(frozen=True)
class Writing:
    """A text that a training writes: sentences of a language model, translations beside their source.

    Attributes:
        text: any number of lines.
        name: distinguishes a second text of the same step; "" for the first.
    """

    text: str
    name: str = ""


class Trainer(Abilities, Judged):
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
        config_class: what `config` is validated as.
        data_kinds: kinds of data set that the algorithm can learn from.
        trains_in_stages: whether some parameters learn only later than in the first step.
        watches_gradients: whether `update` notes the length of its gradient in `gradient_norms`.
        graphs: does the steps, captured as CUDA graphs where they can be.
        notes: what `begin` has to say of the configuration and what it loaded, for the beginning of the log.
        gradient_norms: optimiser's name -> norm of the gradient of its last watched update, 0-d.
    """

    config_class: ClassVar[type[RunConfig]] = RunConfig
    data_kinds: ClassVar[tuple[str, ...]] = ("images",)
    trains_in_stages: ClassVar[bool] = False

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
                f"got {data.kind} (data.name={data.name}); `genlab list datasets` shows the kinds"
            )
        self.config = config
        self.data = data
        self.device = torch.device(device)
        self.distributed = distributed or Distributed()
        self.precision = Precision(config.train.precision, self.device)
        self.step = 0
        self.use_ema = True
        self.watches_gradients = False
        self.gradient_norms: dict[str, Tensor] = {}
        self.notes: list[str] = []
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
        self._averaged_by = {name: self._networks_of(optimizer) for name, optimizer in self.optimizers.items()}
        # Within a step: the averages that wait for an update, and the weight of the present parameters in each.
        self._shares: dict[str, float | Tensor] | None = None
        self.graphs = StepGraphs(self, config.train.cuda_graph)
        seed_everything(config.seed, "training", self.distributed.rank)  # dropout and the like differ between processes

    @classmethod
    def settle(cls, config: RunConfig, dataset: ImageDataset) -> RunConfig:
        """The configuration with what only the data tells, such as the steps of an epoch; asked before a training."""
        return config

    # The algorithm: these three and `sample`, and of the others what it needs.

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

    def averaged_networks(self) -> dict[str, EmaConfig]:
        """Which networks are followed by a moving average. A `train_step` updates each of them once at most."""
        return {}

    def weight_bound(self, name: str) -> float | None:
        """c, where each step of the optimiser `name` ends with w <- clip(w, -c, c); None: not clipped."""
        return None

    @property
    def batches_per_step(self) -> int:
        """Batches that the next `train_step` takes; may depend on `step`."""
        return 1

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        """The training batches; `settings` are the seed, process and loader arguments of `BatchStream`."""
        from genlab.data import BatchStream

        return BatchStream(dataset, self.config.data.batch_size, **settings)

    def begin(self) -> None:
        """Called before the first step of a new run, not of a resumed one: weights that come from elsewhere, notes."""

    def preview(
        self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]
    ) -> Sequence[Picture | Writing]:
        """The pictures and texts that training writes every `train.sample_every` steps.

        Args:
            count: `train.sample_count`.
            generator: CPU generator in the same state every time.
            examples: n -> n evenly spaced, unvaried samples of the training set on the device, the same every time.
        """
        return [Picture(self.sample(count, generator))]

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON values) that a resumed run needs beside networks, optimisers, averages and generators."""
        return {}, {}

    def load_extra_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Takes back what `extra_state` gave."""

    # What a train_step is written with.

    def autocast(self) -> AbstractContextManager:
        """Context of forward passes; losses and penalties leave it."""
        return self.precision.autocast()

    @contextmanager
    def update(self, name: str) -> Iterator[Update]:
        """One update of the optimiser `name`: `with self.update("generator") as update: ... update.backward(loss)`.

        Inside, only the parameters of that optimiser require gradients, so no other network's weight gradients are
        computed. On leaving, gradients are averaged over processes and the optimiser steps; in the same pass over
        memory the weights are clipped to `weight_bound` and taken into their network's average.
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
        if self.watches_gradients:
            self.gradient_norms[name] = gradient_norm(self._trainable[name]) / scaler.get_scale()
        bound, average = self.weight_bound(name), self._average_after(name)
        take_step(optimizer, scaler, bound=bound, average=average)
        scaler.update()

    def _networks_of(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """The averaged networks all of whose parameters the optimiser holds: its step carries their averages on."""
        held = {p for group in optimizer.param_groups for p in group["params"]}
        return [name for name in self.ema if held.issuperset(self.networks[name].parameters())]

    def _average_after(self, name: str) -> WeightAverage | None:
        """The averages that an update of the optimiser `name` carries on; outside of a step there are none."""
        if self._shares is None:
            return None
        followed = WeightAverage({}, 0.0)
        for network in self._averaged_by[name]:
            if network not in self._shares:
                raise RuntimeError(f"network {network!r}: expected one update in a train_step, because it is averaged")
            share = self._shares[network]
            # Weights on the device are not compared, which would wait for it: the others follow after the step.
            if not followed.of or (not isinstance(share, Tensor) and share == followed.share):
                del self._shares[network]
                one = self.ema[network].following(self.networks[network], share)
                followed = WeightAverage({**followed.of, **one.of}, share)
        return followed if followed.of else None

    def advance(self, *batches: Batch) -> Metrics:
        """Learning rates of this step, `train_step`, moving averages, and the step counter."""
        factor = self._schedule(self.step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # on the device, where a captured step reads it
                    if "initial_lr" not in group:
                        group["initial_lr"] = float(group["lr"])
                    group["lr"].fill_(group["initial_lr"] * factor)
                else:
                    group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        shares = {name: ema.next_share() for name, ema in self.ema.items()}
        metrics = self.graphs.step(batches, shares)
        self.step += 1
        return metrics

    def take_step(self, batches: Sequence[Batch], shares: Mapping[str, float | Tensor]) -> Metrics:
        """What a step does on the device: `train_step` on batches that are there, then the moving averages."""
        self._shares = dict(shares)
        try:
            metrics = self.train_step(*batches)
            for name, ema in self.ema.items():
                if name in self._shares:
                    ema.take(self.networks[name], self._shares[name])
                else:
                    ema.copy_buffers(self.networks[name])
        finally:
            self._shares = None
        return metrics

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        """What the host decides in the next step: steps of one key launch the same kernels on the same numbers.

        Every number that `train_step` takes from the host and that changes from step to step belongs in here, and
        `train_step` leaves nothing on the host. An `Uncaptured` says why that cannot be. See
        `genlab.trainers.graphs`.
        """
        return ()

    @property
    def learning_rate(self) -> float:
        """The first optimiser's present learning rate."""
        return float(next(iter(self.optimizers.values())).param_groups[0]["lr"])

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
        for module in network.modules():
            if isinstance(module, ConvChain):
                module.fuse = self.config.kernels.fuse
        return network.to(self.device, memory_format=self._memory_format).train()

    def _check_batch_split(self) -> None:
        size, processes = self.config.data.batch_size, self.distributed.world_size
        if size % (processes * self.micro_batch_count):
            raise ConfigError(
                f"data.batch_size: expected a multiple of {processes} process(es) x train.grad_accumulation="
                f"{self.micro_batch_count}, got {size}"
            )

    @property
    def counted(self) -> tuple[str, int]:
        """What logs count, and how many of them a sample is: ("images", 1), ("sentences", 1), ("tokens", 128)."""
        return self.data.samples, 1

    def batch_description(self) -> dict[str, Any]:
        """Sizes that a log's first row names."""
        return {
            "batch_size": self.config.data.batch_size,
            "processes": self.distributed.world_size,
            "micro_batches": self.micro_batch_count,
            "parameters": {name: sum(p.numel() for p in net.parameters()) for name, net in self.networks.items()},
        }

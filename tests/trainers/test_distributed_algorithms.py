"""Every algorithm: two processes end where one does at the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from algorithm_variants import CASES, algorithm_of, tiny_preset
from torch import Tensor, nn
from training_jobs import finish, run_ranks

from genlab import data
from genlab.distributed import Distributed
from genlab.models.sgan import GaussianNoise
from genlab.trainers import ALGORITHMS, DataSpec

STEPS = 3


def silence(network: nn.Module) -> None:
    """Takes out what each process draws for itself: dropout and noise inside of a network."""
    for module in network.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
        elif isinstance(module, GaussianNoise):
            module.std = 0.0


def parameters(trainer) -> dict[str, Tensor]:
    return {
        name: torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        for name, network in trainer.networks.items()
    }


def train_each(out: str) -> None:
    """Body of a process: a few steps of every algorithm; rank 0 writes where each began and ended."""
    torch.use_deterministic_algorithms(True)
    distributed = Distributed.from_environment("cpu")
    ends = {}
    for algorithm in CASES:
        config = tiny_preset(algorithm, "train.sync_batch_norm=true")
        dataset = data.build(config.data, config.data.split)
        trainer = ALGORITHMS.get(algorithm_of(algorithm))(config, DataSpec.of(dataset), distributed=distributed)
        for network in trainer.networks.values():
            silence(network)
        rank, world_size = distributed.rank, distributed.world_size
        stream = trainer.open_stream(dataset, seed=0, rank=rank, world_size=world_size)
        start = {name: value.clone() for name, value in parameters(trainer).items()}
        for _ in range(STEPS):
            trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step)))
        ends[algorithm] = {"start": start, "end": parameters(trainer)}
    if distributed.rank == 0:
        torch.save(ends, out)
    distributed.close()


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[str, dict[str, dict]]:
    folder = tmp_path_factory.mktemp("distributed")
    files = {name: str(folder / name) for name in ("one", "two")}
    assert finish(train_each, files["one"], timeout=300) == 0
    assert run_ranks(2, train_each, files["two"], timeout=300) == [0, 0]
    return {name: torch.load(Path(file), weights_only=True) for name, file in files.items()}


@pytest.mark.parametrize("algorithm", CASES)
def test_two_processes_end_where_one_does(ends, algorithm):
    one, two = ends["one"][algorithm], ends["two"][algorithm]
    for name, start in one["start"].items():
        assert torch.equal(start, two["start"][name]), name
        moved = (one["end"][name] - start).norm()
        assert (one["end"][name] - two["end"][name]).norm() <= 0.02 * moved, name

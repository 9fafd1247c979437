"""What holds for every algorithm: a new one is tested by being registered and having a tiny configuration."""

from __future__ import annotations

import pytest
import torch

from genlab import data
from genlab.checkpoint import load_bundle, load_checkpoint
from genlab.config import RunConfig, dump_config, load_config, parse_config, read_yaml
from genlab.trainers import ALGORITHMS, DataSpec, Trainer, train

pytestmark = pytest.mark.parametrize("algorithm", ALGORITHMS.names())


def build(algorithm: str) -> tuple[Trainer, data.BatchStream]:
    config = load_config(f"{algorithm}_tiny")
    dataset = data.build(config.data, config.data.split)
    trainer = ALGORITHMS.get(algorithm)(config, DataSpec.of(dataset))
    return trainer, data.BatchStream(dataset, config.data.batch_size, seed=0)


def test_one_step_changes_every_trainable_parameter(algorithm):
    trainer, stream = build(algorithm)
    before = {
        f"{network}.{name}": parameter.detach().clone()
        for network, module in trainer.networks.items()
        for name, parameter in module.named_parameters()
    }
    metrics = trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step)))
    unchanged = [
        f"{network}.{name}"
        for network, module in trainer.networks.items()
        for name, parameter in module.named_parameters()
        if torch.equal(before[f"{network}.{name}"], parameter)
    ]
    assert unchanged == []
    assert trainer.step == 1
    assert metrics
    for name, value in metrics.items():
        assert value.dim() == 0, name
        assert not value.requires_grad, name
        assert torch.isfinite(value), name


def test_one_seed_gives_one_training(algorithm):
    runs = []
    for _ in range(2):
        trainer, stream = build(algorithm)
        runs.append([trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step))) for _ in range(2)])
    assert runs[0] == runs[1]


def test_samples_are_images_in_range_and_depend_on_the_generator_alone(algorithm):
    trainer, _ = build(algorithm)
    images = trainer.sample(5, torch.Generator().manual_seed(1))
    assert images.shape == (5, *trainer.data.shape)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    torch.rand(3)
    assert torch.equal(trainer.sample(5, torch.Generator().manual_seed(1)), images)
    assert not torch.equal(trainer.sample(5, torch.Generator().manual_seed(2)), images)


def test_a_checkpoint_alone_rebuilds_the_model(algorithm, tmp_path):
    config = load_config(f"{algorithm}_tiny", ["train.steps=2", "train.tensorboard=false"])
    result = train(config, tmp_path / "run", evaluator=None)
    bundle = load_bundle(tmp_path / "run")
    assert bundle.config == config
    assert bundle.step == 2
    assert bundle.path == result.last_checkpoint
    assert not any(network.training for network in bundle.trainer.networks.values())
    again = load_bundle(result.last_checkpoint)
    first, second = (b.trainer.sample(3, torch.Generator().manual_seed(0)) for b in (bundle, again))
    assert torch.equal(first, second)
    saved = load_checkpoint(result.last_checkpoint)
    for name, network in bundle.trainer.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, saved.tensors[f"networks/{name}/{key}"])


def test_the_configuration_survives_a_round_trip(algorithm, tmp_path):
    config = load_config(f"{algorithm}_tiny")
    assert isinstance(config, RunConfig)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert parse_config(read_yaml(path)) == config
    assert parse_config(config.model_dump(mode="json")) == config

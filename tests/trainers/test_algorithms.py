"""What holds for every algorithm: a new one is tested by being registered and having a tiny configuration.

`algorithm_variants.VARIANTS` adds trainings in which an algorithm takes another of its paths.
"""

from __future__ import annotations

import pytest
import torch
from algorithm_variants import CASES, algorithm_of, tiny_preset
from training_jobs import assert_same_checkpoint

from genlab import _extension, data, ops
from genlab.checkpoint import checkpoint_name, find_checkpoint, load_bundle, load_checkpoint
from genlab.config import RunConfig, dump_config, load_config, parse_config, read_yaml
from genlab.errors import UserError
from genlab.trainers import ALGORITHMS, DataSpec, Trainer, train

pytestmark = pytest.mark.parametrize("algorithm", CASES)


def build(algorithm: str, config: RunConfig | None = None) -> tuple[Trainer, data.BatchStream]:
    config = config or tiny_preset(algorithm)
    dataset = data.build(config.data, config.data.split)
    trainer = ALGORITHMS.get(algorithm_of(algorithm))(config, DataSpec.of(dataset))
    return trainer, trainer.open_stream(dataset, seed=0)


def test_one_step_or_every_stage_changes_every_trainable_parameter(algorithm):
    trainer, stream = build(algorithm)
    before = {
        f"{network}.{name}": parameter.detach().clone()
        for network, module in trainer.networks.items()
        for name, parameter in module.named_parameters()
    }
    steps = trainer.config.train.steps if trainer.trains_in_stages else 1
    for _ in range(steps):
        metrics = trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step)))
    unchanged = [
        f"{network}.{name}"
        for network, module in trainer.networks.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and torch.equal(before[f"{network}.{name}"], parameter)
    ]
    assert unchanged == []
    assert trainer.step == steps
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
    if not trainer.draws_samples:
        with pytest.raises(UserError, match=algorithm_of(algorithm)):
            trainer.sample(2, torch.Generator())
        return
    images = trainer.sample(5, torch.Generator().manual_seed(1))
    assert images.shape == (5, *trainer.data.shape)
    assert images.dtype == torch.float32
    if trainer.data.kind != "points":
        assert images.abs().max() <= 1
    torch.rand(3)
    assert torch.equal(trainer.sample(5, torch.Generator().manual_seed(1)), images)
    assert not torch.equal(trainer.sample(5, torch.Generator().manual_seed(2)), images)


def test_a_checkpoint_alone_rebuilds_the_model(algorithm, tmp_path):
    config = tiny_preset(algorithm, "train.steps=2", "train.tensorboard=false")
    result = train(config, tmp_path / "run", evaluator=None)
    bundle = load_bundle(tmp_path / "run")
    assert bundle.config == config
    assert bundle.step == 2
    assert bundle.path == result.last_checkpoint
    assert not any(network.training for network in bundle.trainer.networks.values())
    again = load_bundle(result.last_checkpoint)
    if bundle.trainer.draws_samples:
        first, second = (b.trainer.sample(3, torch.Generator().manual_seed(0)) for b in (bundle, again))
        assert torch.equal(first, second)
    saved = load_checkpoint(result.last_checkpoint)
    for name, network in bundle.trainer.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, saved.tensors[f"networks/{name}/{key}"])


def test_2n_steps_equal_n_steps_a_checkpoint_and_n_steps_bit_for_bit(algorithm, tmp_path):
    common = ["train.steps=4", "train.checkpoint_every=2", "train.sample_every=4", "train.tensorboard=false"]
    config = tiny_preset(algorithm, *common)
    train(config, tmp_path / "whole", evaluator=None)
    middle = tmp_path / "whole" / "checkpoints" / checkpoint_name(2)
    train(config, tmp_path / "rest", resume=middle, evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "rest"))


def test_pictures_and_own_scores_are_what_the_class_announces(algorithm, tmp_path, cache):
    config = tiny_preset(algorithm, "train.steps=2", "train.sample_count=4", "train.tensorboard=false")
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"metrics": ["own"]})})
    result = train(config, tmp_path / "run")
    assert result.samples is not None
    names = {row["name"].split("[")[0] for row in result.last_scores}  # "frechet[classifier]" is "frechet" there
    assert names <= set(load_bundle(tmp_path / "run").trainer.own_score_names)
    assert names or not load_bundle(tmp_path / "run").trainer.own_score_names
    assert all(row["value"] is not None and row["protocol"] for row in result.last_scores)


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed"])
def test_trains_in_low_precision(algorithm, precision):
    config = tiny_preset(algorithm, f"train.precision={precision}")
    trainer, stream = build(algorithm, config)
    for _ in range(2):
        metrics = trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step)))
    assert all(torch.isfinite(value) for value in metrics.values())
    for network in trainer.networks.values():
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_native_and_torch_kernels_give_the_same_curve(algorithm):
    if not _extension.status().available:
        pytest.skip("the compiled extension is not here")
    curves = []
    for impl in ("native", "torch"):
        with ops.default_impl(impl):
            trainer, stream = build(algorithm)
            steps = [trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step))) for _ in range(3)]
        curves.append([{name: float(value) for name, value in step.items()} for step in steps])
    for native, plain in zip(*curves, strict=True):
        assert native == pytest.approx(plain, rel=5e-3, abs=5e-4)


def test_the_configuration_survives_a_round_trip(algorithm, tmp_path):
    config = tiny_preset(algorithm)
    assert isinstance(config, RunConfig)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert parse_config(read_yaml(path)) == config
    assert parse_config(config.model_dump(mode="json")) == config

"""Configurations: every fault is one line that names key, value, bound and the nearest valid key."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from genlab.config import (
    apply_overrides,
    config_directory,
    diff_configs,
    dump_config,
    flatten,
    load_config,
    parse_config,
    read_yaml,
)
from genlab.data import DATASETS
from genlab.errors import ConfigError
from genlab.trainers import ALGORITHMS

CONFIGS = sorted(config_directory().glob("*.yaml"))


def test_there_are_configurations_and_every_algorithm_has_a_tiny_one():
    assert len(CONFIGS) >= 5
    names = {path.stem for path in CONFIGS}
    assert {f"{algorithm}_tiny" for algorithm in ALGORITHMS.names()} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_that_comes_along_loads_by_name_and_survives_a_round_trip(path, tmp_path):
    config = load_config(path.stem)
    assert config == load_config(path)
    lines = path.read_text().splitlines()
    assert 3 <= len(lines) <= 25
    assert max(map(len, lines)) <= 120
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


TEXT_KINDS = ("sentences", "text", "documents", "sentence_pairs", "tagged", "series")


def text_spec(name: str, kind: str):
    """What a small set of that kind would say of itself."""
    from genlab.data.text_vocabulary import BEGIN, END, MASK, PAD, UNKNOWN, build_codec
    from genlab.trainers import DataSpec

    codec = build_codec(["a b c d"], unit="word", roles=(PAD, UNKNOWN, BEGIN, END, MASK)).to_dict()
    keys = {"sentence_pairs": ("source", "target"), "series": (), "captioned": ("caption",)}.get(kind, ("tokens",))
    classes = 3 if kind in ("sentences", "tagged") else None
    return DataSpec(name, kind, (1,) if kind == "series" else (), classes, codecs=dict.fromkeys(keys, codec) or None)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_builds_its_networks(path):
    from genlab.trainers import DataSpec

    config = load_config(path)
    kind = DATASETS.get(config.data.name).kind
    colour = any(word in path.stem for word in ("cifar", "faces")) or kind in ("paired", "unpaired")
    shape = (config.data.channels or (3 if colour else 1), *config.data.height_width)
    if kind in TEXT_KINDS:
        spec = text_spec(config.data.name, kind)
    elif kind == "captioned":
        spec = dataclasses.replace(text_spec(config.data.name, kind), shape=shape)
    else:
        spec = DataSpec(config.data.name, kind, (2,) if kind == "points" else shape, 10 if kind == "images" else None)
    trainer = ALGORITHMS.get(config.algorithm)(config, spec)
    assert trainer.networks
    assert trainer.optimizers


JUDGED_BY_THE_TEST_PART = {
    "autoencoder", "cyclegan", "encoder_classifier", "pix2pix", "segmentation", "sgan", "vae",
}  # fmt: skip


@pytest.mark.parametrize("path", [path for path in CONFIGS if not path.stem.endswith("_tiny")], ids=lambda p: p.stem)
def test_no_best_checkpoint_is_chosen_by_what_is_reported_of_the_test_part(path):
    config = load_config(path)
    if config.algorithm in JUDGED_BY_THE_TEST_PART:
        assert config.evaluate.select == "none"
    else:
        assert config.evaluate.select not in ("test_error", "test_accuracy", "code_error")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.step=5", r"unknown key 'train\.step'; did you mean 'train\.steps'\?"),
        ("trian.steps=5", r"unknown key 'trian'; did you mean 'train'\?"),
        ("gan.regularizers.r2.weight=1", r"unknown key 'gan\.regularizers\.r2'; did you mean 'gan\.regularizers\.r1'"),
        ("gan.regularizers.gradient_penalty.wieght=1", r"did you mean 'gan\.regularizers\.gradient_penalty\.weight'\?"),
        ("gan.ema.xyzzy=1", r"unknown key 'gan\.ema\.xyzzy'; valid: decay, half_life, ramp"),
        ("train.steps=many", r"train\.steps: expected a valid integer.*, got 'many'"),
        ("train.steps=0", r"train\.steps: expected greater than or equal to 1, got 0"),
        ("train.steps=1.5", r"train\.steps: expected a valid integer.*, got 1\.5"),
        ("generator_optimizer.lr=-1", r"generator_optimizer\.lr: expected greater than 0, got -1"),
        ("generator_optimizer.lr=.nan", r"generator_optimizer\.lr: expected a finite number, got nan"),
        ("generator_optimizer.betas=[0.5, 1.0]", r"betas: expected two numbers in \[0, 1\), got \[0\.5, 1\.0\]"),
        ("train.precision=fp8", r"train\.precision: expected 'fp32', 'bf16-mixed' or 'fp16-mixed', got 'fp8'"),
        ("data.channels=5", r"data\.channels: expected less than or equal to 4, got 5"),
        ("data.image_size=0", r"data\.image_size: expected 1 to 8192 pixels, got 0"),
        ("train.schedule.name=step", r"schedule 'step' expects milestones, got none"),
        ("train.schedule={name: step, milestones: [5, 3]}", r"milestones: expected strictly rising steps"),
        ("gan.loss=hing", r"gan\.loss: expected one of .*, got 'hing'; did you mean 'hinge'\?"),
        ("gan.ema.decay=1", r"gan\.ema\.decay: expected less than 1, got 1"),
        ("seed=-1", r"seed: expected greater than or equal to 0, got -1"),
        ("algorithm=dcgam", r"algorithm: expected one of .*dcgan.*, got 'dcgam'; did you mean 'dcgan'\?"),
        ("algorithm=null", r"algorithm: expected one of .*, got nothing"),
        ("train.steps", r"override 'train\.steps': expected key=value"),
        ("=5", r"override '=5': expected key=value"),
        ("train..steps=5", r"expected key=value"),
        ("seed.deeper=5", r"seed: expected a valid integer"),
        ("algorithm.deeper=5", r"override 'algorithm\.deeper=5': algorithm is a value, not a section"),
        ("train.steps=[1", r"the value is not valid YAML; quote it"),
    ],
)
def test_a_fault_is_one_line_that_names_it(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("dcgan_tiny", [override])
    assert "\n" not in str(caught.value)


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config("dcgan_tiny", ["train.steps=0", "gan.loss=x", "model.latentdim=3"])
    for part in ("train.steps", "gan.loss", "'model.latent_dim'"):
        assert part in str(caught.value)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("algorithm: dcgan\ntrain: {steps: 7, log_every: 3}\n")
    config = load_config(path, ["train.steps=9", "gan.regularizers.r1.weight=2"])
    assert (config.train.steps, config.train.log_every, config.train.checkpoint_every) == (9, 3, 500)
    assert config.gan.regularizers.r1.weight == 2
    assert config.gan.regularizers.r1.interval == 1


def test_the_defaults_are_the_papers():
    config = parse_config({"algorithm": "dcgan"})
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        assert (optimizer.name, optimizer.lr, optimizer.betas) == ("adam", 2e-4, (0.5, 0.999))
    assert config.data.batch_size == 128
    assert config.model.latent_dim == 100
    assert config.gan.loss == "non_saturating"


def test_overrides_do_not_touch_the_tree_they_are_given():
    tree = {"train": {"steps": 1}}
    assert apply_overrides(tree, ["train.steps=2", "a.b={c: [1, null]}"]) == {
        "train": {"steps": 2},
        "a": {"b": {"c": [1, None]}},
    }
    assert tree == {"train": {"steps": 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: [1", "not valid YAML"),
        ("- a\n- b\n", "expected a mapping of keys to values, got list"),
        ("", "expected a mapping of keys to values, got NoneType"),
        ("seed: 1\nseed: 2\n", "key 'seed' stands twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_name_say_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="no such file; `genlab list configs`"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="did you mean 'dcgan_digits'"):
        load_config("dcgan_digit")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_differences_are_listed_by_dotted_key():
    old = load_config("dcgan_tiny")
    new = load_config("dcgan_tiny", ["train.steps=99", "gan.regularizers.r1.weight=2", "gan.ema=null"])
    lines = diff_configs(old, new)
    assert "train.steps: 8 -> 99" in lines
    assert any(line.startswith("gan.regularizers.r1.weight: '(absent)' -> 2") for line in lines)
    assert diff_configs(old, old) == []


def test_a_configuration_cannot_be_changed_once_made():
    config = load_config("dcgan_tiny")
    with pytest.raises(ValidationError):
        config.seed = 3


def test_flatten_keeps_empty_sections():
    assert flatten({"a": {"b": 1, "c": {}}, "d": None}) == {"a.b": 1, "a.c": {}, "d": None}


def test_one_key_of_a_section_keeps_the_algorithms_own_defaults_of_the_others():
    config = load_config("progressive_tiny", ["generator_optimizer.eps=1e-6", "gan.regularizers.r1.weight=3"])
    assert config.generator_optimizer.lr == 1e-3  # not OptimizerConfig's own 2e-4
    assert config.generator_optimizer.betas == (0.0, 0.99)
    assert config.gan.loss == "wasserstein"
    assert config.gan.regularizers.gradient_penalty is not None
    assert config.gan.regularizers.r1.weight == 3
    assert load_config("progressive_tiny", ["gan.regularizers.drift=null"]).gan.regularizers.drift is None


def test_a_folder_of_a_configurations_name_does_not_hide_it(tmp_path, monkeypatch):
    """`genlab train dcgan_tiny` inside runs/, where a run may be called so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dcgan_tiny").mkdir()
    assert load_config("dcgan_tiny").algorithm == "dcgan"


def test_a_section_that_may_be_null_is_switched_by_true_and_false():
    on = load_config("dcgan_tiny", ["gan.regularizers.r1=true"])
    assert on == load_config("dcgan_tiny", ["gan.regularizers.r1={}"])
    assert on.gan.regularizers.r1.weight == 10
    off = load_config("wgan_gp_tiny", ["gan.regularizers.gradient_penalty=false"])
    assert off.gan.regularizers.gradient_penalty is None
    assert load_config("dcgan_tiny", ["gan.ema=false"]).gan.ema is None
    with pytest.raises(ConfigError, match=r"regularizers\.r1: expected a section, such as .*r1\.weight=.*, got 3"):
        load_config("dcgan_tiny", ["gan.regularizers.r1=3"])
    with pytest.raises(ConfigError, match=r"train: expected a section, such as train\.steps=\.\.\., got True"):
        load_config("dcgan_tiny", ["train=true"])

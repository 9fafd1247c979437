"""Configurations: defaults < file < overrides, errors that name key, value and the nearest valid key."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlab.config import (
    apply_overrides,
    config_directory,
    diff_configs,
    dump_config,
    find_config,
    flatten,
    load_config,
    parse_config,
)
from genlab.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(config_directory().glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_that_comes_along_loads_and_survives_a_round_trip(path, tmp_path):
    config = load_config(path)
    assert load_config(written(tmp_path, dump_config(config))) == config


def test_file_beats_defaults_and_overrides_beat_the_file(tmp_path):
    path = written(tmp_path, "algorithm: dcgan\ndata: {batch_size: 16}\ntrain: {steps: 7}\n")
    config = load_config(path, ["train.steps=9", "gan.regularizers.r1.weight=2e-1"])
    assert (config.data.batch_size, config.train.steps, config.gan.regularizers.r1.weight) == (16, 9, 0.2)
    assert config.generator_optimizer.lr == 2e-4


def test_overrides_leave_the_tree_they_start_from_alone():
    tree = {"train": {"steps": 1}}
    changed = apply_overrides(tree, ["train.steps=2", "data.name=ring"])
    assert changed == {"train": {"steps": 2}, "data": {"name": "ring"}}
    assert tree == {"train": {"steps": 1}}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"trian": {}}, "unknown key 'trian'; did you mean 'train'?"),
        ({"train": {"stepps": 3}}, "unknown key 'train.stepps'; did you mean 'train.steps'?"),
        ({"train": {"schedule": {"warmup": 3}}}, "did you mean 'train.schedule.warmup_steps'?"),
        ({"train": {"qqq": 3}}, "unknown key 'train.qqq'; valid: steps, "),
        ({"train": {"steps": "many"}}, "train.steps: expected a valid integer"),
        ({"train": {"steps": 0}}, "train.steps: expected greater than or equal to 1, got 0"),
        ({"generator_optimizer": {"lr": -1}}, "generator_optimizer.lr: expected greater than 0, got -1"),
        ({"generator_optimizer": {"lr": float("nan")}}, "generator_optimizer.lr"),
        ({"generator_optimizer": {"betas": [2, 1]}}, "betas: expected two numbers in [0, 1), got [2, 1]"),
        ({"train": {"precision": "fp8"}}, "train.precision: expected 'fp32', 'bf16-mixed' or 'fp16-mixed', got 'fp8'"),
        ({"train": {"schedule": {"name": "step"}}}, "schedule 'step' expects milestones, got none"),
        ({"data": {"image_size": 0}}, "data.image_size: expected 1 to 8192 pixels, got 0"),
        ({"train": 3}, "train: expected a valid dictionary"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_bound(tree, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config({"algorithm": "dcgan", **tree}, source="run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert expected in message
    assert "\n" not in message


def test_every_fault_of_a_file_is_named_at_once():
    with pytest.raises(ConfigError, match=r"data\.batch_size.*; train\.steps"):
        parse_config({"algorithm": "dcgan", "data": {"batch_size": 0}, "train": {"steps": 0}})


@pytest.mark.parametrize(
    ("tree", "expected"),
    [({}, "got nothing"), ({"algorithm": "dgcan"}, "did you mean 'dcgan'?"), ({"algorithm": 5}, "expected one of")],
)
def test_the_algorithm_is_asked_for_by_name(tree, expected):
    with pytest.raises(ConfigError, match="algorithm: expected one of") as caught:
        parse_config(tree)
    assert expected in str(caught.value)


@pytest.mark.parametrize("override", ["train.steps", "=3", "train..steps=3", "train.steps.more=1", "train.steps=[1"])
def test_an_override_that_is_no_assignment_is_refused(override):
    with pytest.raises(ConfigError, match="override"):
        apply_overrides({"train": {"steps": 3}}, [override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "expected a mapping of keys to values, got list"),
        ("", "expected a mapping of keys to values, got NoneType"),
        ("train: {steps: 1}\ntrain: {steps: 2}\n", "key 'train' stands twice (line 2)"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused(tmp_path, text, expected):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_missing_file_is_named_with_the_nearest_listed_config(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="did you mean 'dcgan_tiny'"):
        find_config("dcgan_tny")


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def test_differences_are_listed_by_key_with_both_values():
    old = load_config("dcgan_tiny")
    new = load_config("dcgan_tiny", ["train.steps=99", "gan.regularizers.r1.weight=1"])
    lines = diff_configs(old, new)
    assert f"train.steps: {old.train.steps} -> 99" in lines
    assert any(line.startswith("gan.regularizers.r1") for line in lines)
    assert diff_configs(old, old) == []


def test_flatten_keeps_empty_sections():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2, "e": {}}

"""Typed configurations: defaults < YAML file < dotted overrides, with errors that name the key and the nearest one.

`RunConfig` holds the sections that every algorithm has. An algorithm's trainer file subclasses it and adds its own
(`model`, `gan`, ...); the key `algorithm` of a configuration says which subclass reads the rest.
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, Literal, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from genlab.errors import ConfigError
from genlab.registry import nearest


def config_directory() -> Path:
    """The folder of the configurations that come along: inside an installed package, else beside it in the checkout."""
    package = Path(__file__).resolve().parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are fixed once validated.

    Where an algorithm gives a section defaults of its own (a default_factory), a file that sets one key of that section
    keeps the others: `generator_optimizer: {eps: 1e-6}` does not bring another algorithm's learning rate in.

    A section that may be null is also switched on with its defaults by `true` and off by `false`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_own_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            if isinstance(values.get(name), bool):
                leaves = _leaf_types(field.annotation)
                if type(None) in leaves and any(isinstance(t, type) and issubclass(t, Section) for t in leaves):
                    merged[name] = {} if values[name] else None
            if isinstance(values.get(name), dict) and field.default_factory is not None:
                default = field.get_default(call_default_factory=True)
                if isinstance(default, Section):
                    merged[name] = _over_defaults(default, values[name])
        return merged


def _over_defaults(default: Section, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the entries of `default` that they leave open and that are not the class's own defaults."""
    merged = dict(values)
    plain = type(default).model_construct()
    for name in type(default).model_fields:
        own = getattr(default, name)
        if name not in values:
            if own != getattr(plain, name, own):
                merged[name] = own
        elif isinstance(own, Section) and isinstance(values[name], dict):
            merged[name] = _over_defaults(own, values[name])
    return merged


class DataConfig(Section):
    """Which samples are trained on, and how they are brought to size."""

    name: str = Field("digits", description="data set; `genlab list datasets` shows them")
    root: Path | None = Field(None, description="folder, zip or torchvision root that holds the files")
    split: str = Field("train", description="part that is trained on: train, test, val or all")
    download: bool = Field(False, description="let torchvision download what is missing into root")
    image_size: int | tuple[int, int] = Field(32, description="pixels: one number, or [height, width]")
    channels: int | None = Field(None, ge=1, le=4, description="1 to 4; default: as the set has")
    resize: Literal["stretch", "crop", "pad"] = Field("crop", description="what happens to another aspect ratio")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    batch_size: int = Field(128, ge=1, description="samples of one optimiser step, over all processes together")
    workers: int = Field(0, ge=0, le=64, description="loader processes for sets that are read from files")
    limit: int | None = Field(None, ge=1, description="use only so many samples of the split, evenly spaced")
    holdout: float = Field(0.1, ge=0, le=0.5, description="share of a folder without a test part kept for testing")
    classes: list[int | str] | None = Field(None, description="keep only these classes (names or numbers)")
    flip: bool = Field(False, description="mirror left-right with probability one half")
    jitter: int | None = Field(None, ge=1, le=8192, description="resize to this size, then crop image_size at random")
    direction: Literal["a_to_b", "b_to_a"] = Field("a_to_b", description="which half of a pair is the input")

    @field_validator("image_size")
    @classmethod
    def _positive_size(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        sides = (value,) if isinstance(value, int) else value
        if any(side < 1 or side > 8192 for side in sides):
            raise ValueError("expected 1 to 8192 pixels")
        return value

    @property
    def height_width(self) -> tuple[int, int]:
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


class OptimizerConfig(Section):
    """One optimiser. Defaults are DCGAN's (Radford et al. 2016, section 4)."""

    name: Literal["adagrad", "adam", "adamw", "rmsprop", "sgd"] = "adam"
    lr: float = Field(2e-4, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.5, 0.999), description="Adam's decay rates, each in [0, 1)")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1, description="of rmsprop and sgd")
    nesterov: bool = Field(False, description="sgd: momentum looks ahead; needs momentum above 0")
    alpha: float = Field(0.99, ge=0, lt=1, description="rmsprop's smoothing constant")
    max_grad_norm: float | None = Field(
        None, gt=0, description="the gradients' common 2-norm is clipped to it (Pascanu et al. 2013); null: not clipped"
    )

    @field_validator("betas")
    @classmethod
    def _decay_rates(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("expected two numbers in [0, 1)")
        return value

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerConfig:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError(f"nesterov: expected sgd with momentum above 0, got {self.name} with {self.momentum:g}")
        return self


class ScheduleConfig(Section):
    """Factor on every learning rate as a function of the step."""

    name: Literal["constant", "linear", "cosine", "step", "exponential", "inverse_sqrt"] = "constant"
    warmup_steps: int = Field(0, ge=0, description="linear rise from 0 to the learning rate")
    decay_start: int = Field(0, ge=0, description="step from which the decay runs (linear, cosine, exponential)")
    decay_end: int | None = Field(None, ge=1, description="step at which it ends; default: train.steps")
    final_factor: float = Field(0.0, ge=0, le=1, description="factor at the end (linear, cosine)")
    gamma: float = Field(0.1, gt=0, le=1, description="factor per milestone (step) or per step (exponential)")
    milestones: list[int] = Field(default_factory=list, description="steps at which `step` multiplies by gamma")

    @model_validator(mode="after")
    def _milestones_where_needed(self) -> ScheduleConfig:
        if self.name == "step" and not self.milestones:
            raise ValueError("schedule 'step' expects milestones, got none")
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones: expected strictly rising steps, got {self.milestones}")
        return self


class TrainConfig(Section):
    """How long, how precisely, and what is written on the way."""

    steps: int = Field(1000, ge=1, description="optimiser steps of the slowest-stepping network")
    precision: Literal["fp32", "bf16-mixed", "fp16-mixed"] = "fp32"
    grad_accumulation: int = Field(1, ge=1, description="micro-batches whose gradients are summed into one step")
    channels_last: bool = Field(True, description="NHWC memory order for 4-d tensors: quicker, same numbers")
    sync_batch_norm: bool = Field(False, description="batch statistics over all processes instead of each its own")
    cuda_graph: Literal["auto", "on", "off"] = Field(
        "auto",
        description="steps captured as CUDA graphs: auto where a GPU can, with the reason in the log where not; on: "
        "stop where not",
    )
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    log_every: int = Field(20, ge=1, description="steps between rows of log.jsonl")
    sample_every: int = Field(500, ge=1, description="steps between sample grids")
    sample_count: int = Field(64, ge=1, le=1024, description="pictures in a sample grid")
    checkpoint_every: int = Field(500, ge=1)
    keep_last: int = Field(3, ge=1, description="checkpoints kept beside the best one")
    tensorboard: bool = Field(True, description="write curves for TensorBoard beside log.jsonl")
    on_nan: Literal["stop", "rollback"] = Field("stop", description="a loss that is not finite: stop, or go back")
    on_collapse: Literal["warn", "stop", "rollback"] = Field(
        "warn", description="what else is done where the diagnosis finds a collapse or a divergence"
    )
    max_rollbacks: int = Field(3, ge=1, description="how often `rollback` goes back before it stops")
    deterministic: bool = Field(True, description="only operations that give the same bits again")

    @field_validator("cuda_graph", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # as YAML reads them


class EvaluateConfig(Section):
    """Scores taken during and after training."""

    every: int | None = Field(None, ge=1, description="steps between evaluations; default: only at the end")
    metrics: list[Literal["fid", "is", "kid", "prdc", "modes", "own"]] | None = Field(
        None,
        description="own: the algorithm's own scores; default: own, with fid, is and modes of samples; fid and kid "
        "without classes; modes and fid of points; []: no scores",
    )
    extractor: str = Field(
        "auto", description="inception, classifier, rotation, a classifier's run, or auto (offline default of the set)"
    )
    samples: int = Field(2000, ge=2, description="generated images of one evaluation")
    real_split: str = Field("train", description="part of the data set that is compared with")
    batch_size: int = Field(100, ge=1)
    select: str | None = Field(
        None,
        description="score whose best checkpoint is kept beside the last; default: the first metric; none: no best "
        "one, as where a choice by the test part would flatter what is reported on it",
    )


class KernelsConfig(Section):
    """Which implementation of the lab's ops runs."""

    impl: Literal["auto", "native", "torch", "reference"] = "auto"
    require: bool = Field(False, description="stop when the compiled extension is missing, instead of using torch")
    fuse: bool | None = Field(
        None, description="convolution, normalisation and activation in one: less memory; default: with impl=native"
    )


class RunConfig(Section):
    """What every algorithm's configuration has."""

    algorithm: str
    seed: int = Field(0, ge=0, lt=2**32)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    kernels: KernelsConfig = Field(default_factory=KernelsConfig)


class _UniqueKeyLoader(yaml.SafeLoader):
    """safe_load that refuses a key given twice; YAML itself would silently keep the last."""


def _construct_unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ConfigError(f"key {key!r} stands twice (line {key_node.start_mark.line + 1}); keep one")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: missing or unreadable file, not YAML, not a mapping, a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader: builds plain values only
    except FileNotFoundError:
        raise ConfigError(f"config {path}: no such file; `genlab list configs` shows those that exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: cannot be read ({error})") from None
    except ConfigError as error:
        raise ConfigError(f"config {path}: {error}") from None
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"config {path}: not valid YAML: {detail}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path}: expected a mapping of keys to values, got {type(tree).__name__}")
    return tree


def apply_overrides(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """A copy of `tree` with each `dotted.key=value` set; values are read as YAML (`null`, `[1, 2]`, `{a: 1}`).

    Raises:
        ConfigError: an override without "=", with an empty key, or one that goes through a plain value.
    """
    result = _copy_tree(tree)
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise ConfigError(f"override {override!r}: expected key=value, such as train.steps=2000")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"override {override!r}: the value is not valid YAML; quote it") from None
        node = result
        for depth, part in enumerate(parts[:-1]):
            child = node.get(part)
            if child is None:
                child = node[part] = {}
            if not isinstance(child, dict):
                raise ConfigError(f"override {override!r}: {'.'.join(parts[: depth + 1])} is a value, not a section")
            node = child
        node[parts[-1]] = value
    return result


def _copy_tree(value: Any) -> Any:
    return {k: _copy_tree(v) for k, v in value.items()} if isinstance(value, dict) else value


def find_config(name: str | Path) -> Path:
    """The file that `name` means: a path, or the stem of a file in the configs folder."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return path  # a folder only where no configuration has its name
    listed = {file.stem: file for file in sorted(config_directory().glob("*.yaml"))}
    if str(name) in listed:
        return listed[str(name)]
    if path.exists():
        return path
    guess = nearest(str(name), listed)
    hint = f"; did you mean {guess!r}?" if guess else ""
    raise ConfigError(f"config {name}: no such file or listed config{hint}; `genlab list configs` shows them")


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads a configuration file, applies dotted overrides and validates the whole.

    Returns:
        The configuration in the class of its `algorithm`.

    Raises:
        ConfigError: anything wrong with the file, a key or a value; all faults are named at once, one per `;`.
    """
    file = find_config(path)
    tree = apply_overrides(read_yaml(file), list(overrides or []))
    return parse_config(tree, source=str(file))


def parse_config(tree: dict[str, Any], source: str = "config") -> RunConfig:
    """Validates a plain mapping as the configuration of its `algorithm`."""
    from genlab.trainers import ALGORITHMS  # trainers subclass RunConfig, so they are imported late

    algorithm = tree.get("algorithm")
    if algorithm is None:
        raise ConfigError(f"{source}: algorithm: expected one of {', '.join(ALGORITHMS.names())}, got nothing")
    if algorithm not in ALGORITHMS:
        guess = nearest(str(algorithm), ALGORITHMS.names())
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(
            f"{source}: algorithm: expected one of {', '.join(ALGORITHMS.names())}, got {algorithm!r}{hint}"
        )
    return validate(ALGORITHMS.get(algorithm).config_class, tree, source)


def validate(section: type[Section], tree: dict[str, Any], source: str) -> Any:
    """`section.model_validate(tree)` with errors that name key, value, bound and the nearest valid key."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(_describe_fault(section, fault) for fault in error.errors())
        raise ConfigError(f"{source}: {faults}") from None


def _describe_fault(section: type[Section], fault: Any) -> str:
    # pydantic adds the tag of a union branch ("int", "tuple[int, int]") to the location; those are no keys of the file.
    location = [str(part) for part in fault["loc"] if "[" not in str(part) and part not in {"int", "str", "float"}]
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        valid = _fields_at(section, location[:-1])
        guess = nearest(location[-1], valid)
        hint = f"did you mean {'.'.join([*location[:-1], guess])!r}?" if guess else f"valid: {', '.join(valid)}"
        return f"unknown key {key!r}; {hint}"
    if fault["type"] in {"model_type", "model_attributes_type"}:
        inner = _fields_at(section, location)
        return f"{key}: expected a section, such as {key}.{inner[0] if inner else 'name'}=..., got {fault['input']!r}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ").strip()
    told = message.startswith("expected") or not fault["msg"].startswith("Input")
    expectation = message if told else f"expected {message}"
    given = "" if fault["type"] == "missing" or isinstance(fault["input"], dict) else f", got {fault['input']!r}"
    expectation, separator, guess = expectation.partition("; did you mean")
    line = f"{expectation}{given}{separator}{guess}"
    return f"{key}: {line}" if key else line


def _fields_at(section: type[Section], location: list[str]) -> list[str]:
    """Names of the fields of the section that lies at `location` below `section`."""
    current: Any = section
    for part in location:
        field = current.model_fields.get(part)
        if field is None:
            return []
        leaves = _leaf_types(field.annotation)
        current = next((leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, Section)), None)
        if current is None:
            return []
    return list(current.model_fields)


def _leaf_types(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in {Union, types.UnionType}:
        return [leaf for argument in typing.get_args(annotation) for leaf in _leaf_types(argument)]
    return [annotation]


def dump_config(config: RunConfig) -> str:
    """The whole resolved configuration as YAML; `load_config` of it gives an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=100)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 3}} -> {"train.steps": 3}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def diff_configs(old: RunConfig, new: RunConfig) -> list[str]:
    """One line `key: old -> new` for each value in which two configurations differ."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    keys = list(dict.fromkeys([*before, *after]))
    missing = "(absent)"
    return [
        f"{key}: {before.get(key, missing)!r} -> {after.get(key, missing)!r}"
        for key in keys
        if before.get(key, missing) != after.get(key, missing)
    ]

"""What `genlab list` shows: the rows of every kind of thing that has a name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

Rows = tuple[list[str], list[list[str]]]  # titles of the columns, and the rows


class Listing(str, Enum):
    """What `genlab list` can list."""

    models = "models"
    algorithms = "algorithms"
    classifiers = "classifiers"
    configs = "configs"
    datasets = "datasets"
    ops = "ops"
    extractors = "extractors"
    losses = "losses"
    metrics = "metrics"
    settings = "settings"


def _models() -> Rows:
    from genlab.config import config_directory, read_yaml
    from genlab.trainers import ALGORITHMS

    names: dict[str, list[str]] = {name: [] for name in ALGORITHMS.names()}
    for file in sorted(config_directory().glob("*.yaml")):
        names.setdefault(str(read_yaml(file).get("algorithm")), []).append(file.stem)
    rows = [
        [name, _summary(ALGORITHMS.get(name)), ", ".join(files)] for name, files in names.items() if name in ALGORITHMS
    ]
    return ["algorithm", "what it is", "configs"], rows


def _configs() -> Rows:
    from genlab.config import config_directory, read_yaml

    rows = []
    for file in sorted(config_directory().glob("*.yaml")):
        tree = read_yaml(file)
        data, train = tree.get("data") or {}, tree.get("train") or {}
        rows.append([file.stem, tree.get("algorithm"), data.get("name", ""), train.get("steps", ""), _comment(file)])
    return ["config", "algorithm", "data", "steps", "what it shows"], rows


def _comment(file: Path) -> str:
    """First sentence of the comment that a configuration begins with."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return first_sentence(" ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)))


def _datasets() -> Rows:
    from genlab.data import describe

    return ["data set", "kind", "what it is", "needs"], [
        [row.name, row.kind, row.summary, row.needs] for row in describe()
    ]


def _ops() -> Rows:
    from genlab import ops

    return ["op", "device", "dtype", "implementations", "auto", "why"], [list(row) for row in op_rows(ops.describe())]


def op_rows(described: list) -> list[tuple[str, ...]]:
    """Rows of `genlab.ops.describe()` as text, dtypes that share everything else on one line."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for row in described:
        lacks_all = row.reason.startswith("no native kernel")  # said already
        why = row.reason + (f"; not native: {', '.join(row.missing)}" if row.missing and not lacks_all else "")
        key = (row.op, row.device, ", ".join(row.implementations), row.auto, why)
        grouped.setdefault(key, []).append(row.dtype)
    return [(op, device, ", ".join(dtypes), *rest) for (op, device, *rest), dtypes in grouped.items()]


def _extractors() -> Rows:
    from genlab.metrics.extractors import EXTRACTORS

    return ["extractor", "what it is"], [[name, text] for name, text in EXTRACTORS.items()]


def _losses() -> Rows:
    from genlab.losses import ADVERSARIAL_LOSSES

    entries = [(name, ADVERSARIAL_LOSSES.get(name)) for name in ADVERSARIAL_LOSSES]
    rows = [[name, _summary(entry.discriminator_loss), _summary(entry.generator_loss)] for name, entry in entries]
    return ["adversarial loss", "discriminator minimises", "generator minimises"], rows


def _networks() -> Rows:
    from genlab.models import MODELS

    return ["network", "what it is"], [[name, _summary(MODELS.get(name))] for name in MODELS]


def _classifiers() -> Rows:
    from genlab.models.classifiers import CLASSIFIERS

    rows = []
    for name in CLASSIFIERS.names():
        entry = CLASSIFIERS.get(name)
        rows.append([name, entry.summary, _least(*entry.least)])
    return ["classifier (model.network)", "what it is", "smallest picture"], rows


def _least(large: int, small: int) -> str:
    """What pictures the two forms of a network need."""
    if large == small:
        return "any" if large == 1 else f"{large} px"
    return f"{small} px small, {large} px large"


def _settings() -> Rows:
    """Every setting that is one of several names, with the algorithms that have it."""
    from genlab.trainers import ALGORITHMS

    found: dict[tuple[str, str], list[str]] = {}
    for algorithm in ALGORITHMS.names():
        for key, names in named_settings(ALGORITHMS.get(algorithm).config_class):
            found.setdefault((key, ", ".join(names)), []).append(algorithm)
    rows = [
        [key, names, "all" if len(able) == len(ALGORITHMS.names()) else ", ".join(able)]
        for (key, names), able in sorted(found.items())
    ]
    return ["setting", "names", "algorithms"], rows


def named_settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """(dotted key, names that it takes) of a configuration's class, sections inside of it included."""
    registered = _registered(section)
    for name, field in section.model_fields.items():
        parts = _flat(field.annotation)
        names = [part for part in parts if isinstance(part, str)]
        if names or name in registered:
            yield prefix + name, names or registered[name]
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from named_settings(part, f"{prefix}{name}.")


def _flat(annotation: Any) -> list[Any]:
    """Types and literal values that an annotation such as `list[Literal["a", "b"]] | None` is made of."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal or not arguments:
        return list(arguments or [annotation])
    return [part for argument in arguments for part in _flat(argument)]


def _registered(section: type[BaseModel]) -> dict[str, list[str]]:
    """Names of a section's settings whose entries are registered and not written into the class."""
    from genlab.config import DataConfig, EvaluateConfig, RunConfig
    from genlab.losses import ADVERSARIAL_LOSSES
    from genlab.metrics.extractors import EXTRACTORS
    from genlab.models.classifiers import CLASSIFIERS, ClassifierModelConfig
    from genlab.models.conditional_networks import CONDITIONAL_NETWORKS
    from genlab.models.gan_networks import GAN_NETWORKS
    from genlab.trainers import ALGORITHMS
    from genlab.trainers.cgan import CganModelConfig
    from genlab.trainers.gan_config import GanConfig, GanModelConfig

    tables: list[tuple[type[BaseModel], dict[str, list[str]]]] = [
        (ClassifierModelConfig, {"network": CLASSIFIERS.names()}),
        (CganModelConfig, dict.fromkeys(("network", "discriminator"), CONDITIONAL_NETWORKS.names())),
        (GanModelConfig, dict.fromkeys(("network", "discriminator"), GAN_NETWORKS.names())),
        (GanConfig, {"loss": ADVERSARIAL_LOSSES.names()}),
        (DataConfig, {"name": ["see `genlab list datasets`"]}),
        (EvaluateConfig, {"extractor": ["auto", *EXTRACTORS, "a classifier's run"]}),
        (RunConfig, {"algorithm": ALGORITHMS.names()}),
    ]
    return next((names for owner, names in tables if issubclass(section, owner)), {})


def _regularizers() -> Rows:
    from genlab.regularizers import RegularizersConfig

    fields = RegularizersConfig.model_fields.items()
    return ["regulariser (gan.regularizers)", "what it does"], [[name, field.description] for name, field in fields]


def _metrics() -> Rows:
    from genlab.metrics import METRICS

    rows = [[name, metric.summary, ", ".join(metric.names)] for name, metric in METRICS.items()]
    return ["metric of samples (evaluate.metrics)", "what it is", "its scores"], rows


def _own_scores() -> Rows:
    from genlab.trainers import ALGORITHMS

    found = [(name, ALGORITHMS.get(name).own_score_names) for name in ALGORITHMS.names()]
    return ["algorithm", "own scores (evaluate.metrics: own)"], [[name, ", ".join(own)] for name, own in found if own]


def _summary(entry: object) -> str:
    """First sentence of an entry's docstring."""
    return first_sentence(entry.__doc__ or "")


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence; "et al." does not."""
    return re.split(r"(?<! al)\. ", " ".join(text.split()))[0].rstrip(".")


LISTINGS: dict[Listing, tuple[Callable[[], Rows], ...]] = {
    Listing.models: (_models, _classifiers, _networks),
    Listing.algorithms: (_models,),
    Listing.classifiers: (_classifiers,),
    Listing.configs: (_configs,),
    Listing.datasets: (_datasets,),
    Listing.ops: (_ops,),
    Listing.extractors: (_extractors,),
    Listing.losses: (_losses, _regularizers),
    Listing.metrics: (_metrics, _own_scores),
    Listing.settings: (_settings,),
}

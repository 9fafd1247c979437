"""Feature extractors trained on the data set itself: the default where Inception's weights are not at hand.

`classifier` learns the set's classes; `rotation` learns by how much a picture was turned (Gidaris et al. 2018,
"Unsupervised Representation Learning by Predicting Image Rotations") and serves sets without classes. Both are trained
once and kept in the cache directory under a key of data and recipe; the hash of the weights stands in every score.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.errors import MetricError
from genlab.images import to_uint8
from genlab.metrics.extractors.base import ExtractorFacts, FeatureExtractor, full_precision, hash_weights, with_channels
from genlab.metrics.extractors.network import SmallConvNet, shift, working_size
from genlab.paths import cache_dir

Progress = Callable[[str, int, int | None], None]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that the trained weights depend on beside the data."""

    task: str
    size: tuple[int, int]
    channels: int
    dim: int
    num_classes: int
    images_seen: int
    batch_size: int = 64
    lr: float = 4e-3
    weight_decay: float = 1e-2
    warmup: float = 0.2
    max_shift: int = 2
    seed: int = 0
    network: str = "conv4s2-24 conv3s2-48 conv3-96 conv3s2-96 conv3-dim mean linear"

    def key(self, fingerprint: str) -> str:
        content = json.dumps({"data": fingerprint, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:20]


class TrainedExtractor(FeatureExtractor):
    """A `SmallConvNet` trained on one data set. Made by `classifier_extractor` and `rotation_extractor`.

    Attributes:
        accuracy: fraction of held-out images (or turned images) that it names rightly.
        recipe: how it was trained.
    """

    def __init__(
        self, name: str, network: SmallConvNet, recipe: Recipe, facts: dict[str, Any], device: torch.device
    ) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False).to(device)
        self.recipe = recipe
        self.hash = hash_weights(network)
        self.dim = recipe.dim
        self.num_classes = recipe.num_classes if recipe.task == "classify" else None
        self.channels = recipe.channels
        self.accuracy = float(facts["accuracy"])
        self.facts = facts
        self.resize = f"bilinear with antialiasing to {recipe.size[0]}x{recipe.size[1]}"
        self.device = device

    def prepare(self, images: Tensor) -> Tensor:
        return _prepare(images, self.recipe.size)

    def forward(self, images: Tensor, logits: bool) -> tuple[Tensor, Tensor | None]:
        features, scores = self.network(images)
        return features, scores if logits else None

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "task": self.recipe.task, **self.facts}


def classifier_extractor(
    train: Any,
    held_out: Any | None = None,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainedExtractor:
    """The classifier of a labelled data set, from the cache or trained now.

    Args:
        train: ImageDataset with classes; what the network learns from.
        held_out: ImageDataset on which the accuracy is measured; default: the training images, which the record says.
        device: where to train and run.
        seed: of initialisation, order and shifts.
        progress: called with ("train <name>", done, total).

    Raises:
        MetricError: the data set has no classes, or is too small for a covariance of the features.
    """
    return _cached("classifier", train, held_out, torch.device(device), seed, progress)


def rotation_extractor(
    train: Any,
    held_out: Any | None = None,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainedExtractor:
    """The rotation predictor of a data set without classes, from the cache or trained now.

    Arguments and errors as for `classifier_extractor`, no classes needed.
    """
    return _cached("rotation", train, held_out, torch.device(device), seed, progress)


def classifier_at_hand(train: Any, *, device: str | torch.device = "cpu", seed: int = 0) -> TrainedExtractor | None:
    """What `classifier_extractor` would give where it is in the cache; None where it would have to be trained.

    Raises:
        MetricError: the data set has no classes.
    """
    name, recipe = _plan("classifier", train, seed)
    loaded = _read(_place(name, recipe, train), recipe)
    return None if loaded is None else TrainedExtractor(name, loaded[0], recipe, loaded[1], torch.device(device))


def announce_trained(kind: str, train: Any, seed: int = 0) -> ExtractorFacts:
    """Name, features and classes of the "classifier" or "rotation" extractor of a data set; nothing is trained.

    Raises:
        MetricError: a data set that it cannot learn from.
    """
    name, recipe = _plan(kind, train, seed)
    return ExtractorFacts(name, recipe.dim, recipe.num_classes if recipe.task == "classify" else None)


def _plan(kind: str, train: Any, seed: int) -> tuple[str, Recipe]:
    if kind == "classifier" and (train.kind != "images" or not train.num_classes):
        raise MetricError(
            f"extractor 'classifier': expected a data set with classes, got {train.name} without; use 'rotation'"
        )
    if train.kind not in ("images", "unpaired", "paired"):
        raise MetricError(f"extractor 'rotation': expected a data set of images, got {train.name} of kind {train.kind}")
    if kind == "classifier":
        return f"{train.name}_cnn", _recipe("classify", train, seed)
    return f"{train.name}_rotation_cnn", _recipe("rotate", train, seed)


def _cached(
    kind: str, train: Any, held_out: Any | None, device: torch.device, seed: int, progress: Progress | None
) -> TrainedExtractor:
    name, recipe = _plan(kind, train, seed)
    path = _place(name, recipe, train)
    loaded = _read(path, recipe)
    if loaded is None:
        network, facts = _train(name, recipe, train, held_out, device, progress)
        _write(path, network, facts)
        # Another process may have been first: whoever wrote the file decides the hash for all.
        loaded = _read(path, recipe)
        if loaded is None:
            raise MetricError(f"{path}: could not be read back after training; check the disk")
    network, facts = loaded
    return TrainedExtractor(name, network, recipe, facts, device)


def _place(name: str, recipe: Recipe, train: Any) -> Path:
    return cache_dir() / "extractors" / f"{name}-{recipe.key(train.fingerprint)}.safetensors"


def _recipe(task: str, train: Any, seed: int) -> Recipe:
    count = len(train)
    dim = 64 if count < 5000 else 128
    c, h, w = train.image_shape
    size = working_size(h, w)
    if task == "rotate":
        size = (max(size),) * 2  # a turned picture has to keep its shape
    # Small sets are seen often, large ones about three times; bounded so that a CPU takes a minute or two.
    images_seen = min(max(24_000, 3 * count), 180_000)
    classes = train.num_classes if task == "classify" else 4
    channels = 1 if c <= 2 else 3
    return Recipe(task, size, channels, dim, classes, images_seen, batch_size=min(64, count), seed=seed)


def _prepare(images: Tensor, size: tuple[int, int]) -> Tensor:
    scaled = images.to(torch.float32).div(127.5).sub(1.0)
    if tuple(scaled.shape[-2:]) == size:
        return scaled
    return F.interpolate(scaled, size=size, mode="bilinear", align_corners=False, antialias=True)


def _train(
    name: str, recipe: Recipe, train: Any, held_out: Any | None, device: torch.device, progress: Progress | None
) -> tuple[SmallConvNet, dict[str, Any]]:
    """AdamW with a linear rise and a cosine fall of the rate; nothing outside the network is changed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    network = _new_network(recipe).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = math.ceil(recipe.images_seen / recipe.batch_size)
    order = _endless_order(len(train), recipe.batch_size, generator)
    with torch.enable_grad(), full_precision():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = recipe.lr * _rate(step / steps, recipe.warmup)
            images, labels = _task_batch(train.fetch(next(order)), recipe, device, generator)
            images = shift(images, recipe.max_shift, generator)
            loss = F.cross_entropy(network(images)[1], labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if progress is not None and (step % 10 == 0 or step + 1 == steps):
                progress(f"train {name}", step + 1, steps)
    return network.cpu(), _accuracy(network.eval(), recipe, train, held_out, device)


def _new_network(recipe: Recipe) -> SmallConvNet:
    """Seeded weights, drawn without touching the global generator of a training that evaluates on its way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return SmallConvNet(recipe.channels, recipe.dim, recipe.num_classes)


def _endless_order(count: int, batch_size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Indices of full batches, every epoch in a new order; a rest smaller than a batch is left out of its epoch.

    Samples are fetched unvaried: the cache key knows what the samples are, not how a run's configuration varies them.
    """
    while True:
        order = torch.randperm(count, generator=generator).numpy()
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def _rate(done: float, warmup: float) -> float:
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _task_batch(
    batch: dict[str, Tensor], recipe: Recipe, device: torch.device, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Network inputs and targets of one batch of the data set, for either task."""
    images = next(batch[key] for key in ("image", "target", "b") if key in batch)
    images = _prepare(with_channels(to_uint8(images.to(device)), recipe.channels), recipe.size)
    if recipe.task == "classify":
        return images, batch["label"].to(device).long()
    turns = torch.randint(0, 4, (len(images),), generator=generator).to(device)
    turned = torch.stack(
        [torch.rot90(image, int(turn), dims=(1, 2)) for image, turn in zip(images, turns, strict=True)]
    )
    return turned, turns


def _accuracy(
    network: SmallConvNet, recipe: Recipe, train: Any, held_out: Any | None, device: torch.device
) -> dict[str, Any]:
    from genlab.data import iterate

    judged = train if held_out is None else held_out
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    network = network.to(device)
    right = total = 0
    with torch.inference_mode(), full_precision():
        for batch in iterate(judged, 250, limit=10_000):
            images, labels = _task_batch(batch, recipe, device, generator)
            right += int((network(images)[1].argmax(dim=1) == labels).sum())
            total += len(labels)
    network.cpu()
    return {
        "accuracy": right / total,
        "accuracy_on": f"{judged.name} {judged.split}" + (" (its own training images)" if held_out is None else ""),
        "accuracy_count": total,
        "trained_on": f"{train.name} {train.split} ({len(train)} images)",
        "training_seed": recipe.seed,
    }


def _read(path: Path, recipe: Recipe) -> tuple[SmallConvNet, dict[str, Any]] | None:
    """The cached network, or None where there is none or the file is damaged (which a warning says)."""
    if not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    network = _new_network(recipe)
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            names = file.keys()
            network.load_state_dict({key: file.get_tensor(key) for key in names})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        warnings.warn(f"{path}: damaged cache of a feature extractor ({error}); training it again", stacklevel=2)
        path.unlink(missing_ok=True)
        return None
    return network, facts


def _write(path: Path, network: SmallConvNet, facts: dict[str, Any]) -> None:
    """Puts the network into the cache unless another process already has; never leaves half a file there."""
    from safetensors.torch import save

    content = save(network.state_dict(), metadata={"facts": json.dumps(facts)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".extractor-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if not path.exists():
                os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
    except OSError as error:
        raise MetricError(
            f"{path}: expected a writable cache directory, got {error.strerror}; set GENLAB_CACHE to one"
        ) from error

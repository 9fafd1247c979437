"""What an algorithm needs to know of its data to build networks; kept in checkpoints in place of the data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DataSpec:
    """The look of the samples.

    Attributes:
        name: the data set's.
        kind: "images", "paired", "unpaired" or "points".
        shape: (C, H, W), or (2,) for points.
        num_classes: None without classes.
        class_names: None without names.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, dataset: Any) -> DataSpec:
        """The spec of an `ImageDataset`."""
        names = tuple(dataset.class_names) if dataset.class_names else None
        return cls(dataset.name, dataset.kind, tuple(dataset.image_shape), dataset.num_classes, names)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataSpec:
        """The spec that `to_dict` wrote."""
        names = tuple(values["class_names"]) if values["class_names"] else None
        return cls(values["name"], values["kind"], tuple(values["shape"]), values["num_classes"], names)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

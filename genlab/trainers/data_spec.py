"""What an algorithm needs to know of its data to build networks; kept in checkpoints in place of the data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DataSpec:
    """The look of the samples.

    Attributes:
        name: the data set's.
        kind: of the data set (`genlab.data.catalogue`).
        shape: (C, H, W), (2,) for points, () for text, (D,) for series of D values.
        num_classes: None without classes.
        class_names: None without names.
        codecs: what turns text into numbers, by the key of its tensor in a batch ("tokens"; "source", "target"), each
            as `genlab.data.text_vocabulary.TextCodec.to_dict` gives it; None without text. A model of text is of no
            use without it, so it lies in the checkpoint.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    codecs: dict[str, dict[str, Any]] | None = None

    @classmethod
    def of(cls, dataset: Any) -> DataSpec:
        """The spec of an `ImageDataset`."""
        names = tuple(dataset.class_names) if dataset.class_names else None
        codecs = {key: codec.to_dict() for key, codec in getattr(dataset, "codecs", {}).items()} or None
        return cls(dataset.name, dataset.kind, tuple(dataset.image_shape), dataset.num_classes, names, codecs)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataSpec:
        """The spec that `to_dict` wrote."""
        names = tuple(values["class_names"]) if values["class_names"] else None
        facts = (values["name"], values["kind"], tuple(values["shape"]), values["num_classes"])
        return cls(*facts, names, values.get("codecs"))  # checkpoints of older versions have no codecs

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

"""What an algorithm needs to know of its data to build networks; kept in checkpoints in place of the data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from genlab.errors import DataError

# What one sample of a kind is called where samples are counted; pairs of pictures count as pictures do elsewhere.
_SAMPLES = {
    "captioned": "images",
    "documents": "pairs",
    "images": "images",
    "paired": "images",
    "points": "points",
    "sentence_pairs": "pairs",
    "sentences": "sentences",
    "series": "windows",
    "tagged": "sentences",
    "text": "windows",
    "unpaired": "images",
}


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

    @property
    def samples(self) -> str:
        """What samples are called where they are counted: "images", "sentences", "pairs", ..."""
        return _SAMPLES.get(self.kind, "samples")

    def describe(self) -> str:
        """The look of the samples in a few words: "1 x 28 x 28", "sentences, 8,765 tokens", "series of 2 values"."""
        if self.codecs:
            sizes = " and ".join(f"{len(codec['tokens']):,}" for codec in self.codecs.values())
            what = f"{self.kind.replace('_', ' ')}, {sizes} tokens"
            return " x ".join(map(str, self.shape)) + f", {what}" if self.shape else what
        if self.kind == "series":
            return f"series of {self.shape[0]} value{'s' if self.shape[0] > 1 else ''}"
        return " x ".join(map(str, self.shape))

    def require_classes(self, why: str) -> int:
        """The number of classes of a set that must have at least two.

        Args:
            why: who needs them, such as "algorithm cgan".

        Raises:
            DataError: it has none, or only one.
        """
        if self.num_classes is None:
            raise DataError(
                f"data set {self.name!r}: expected at least 2 classes, which {why} needs, got none; choose a labelled "
                "set (`genlab list datasets`), or a folder with one subfolder per class"
            )
        if self.num_classes < 2:
            raise DataError(
                f"data set {self.name!r}: expected at least 2 classes, which {why} needs, got only "
                f"{', '.join(self.class_names or ('one',))}; widen data.classes, or choose another set"
            )
        return self.num_classes

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

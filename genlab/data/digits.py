"""The real handwritten digits that scikit-learn carries: 1,797 of 8x8 pixels, no network needed."""

from __future__ import annotations

import numpy as np

from genlab.config import DataConfig
from genlab.data.arrays import ArrayPictures
from genlab.data.base import ImageDataset, PictureDataset, View, digests
from genlab.data.catalogue import register
from genlab.data.selection import select, stratified

TEST_COUNT = 297
SPLIT_SEED = 1797


@register(
    "digits",
    kind="images",
    summary=f"1,797 real handwritten digits, 8x8 grey, 10 classes; {1797 - TEST_COUNT} train, {TEST_COUNT} test",
)
def build_digits(config: DataConfig, split: str) -> ImageDataset:
    """Optical recognition of handwritten digits (Alpaydin, Kaynak 1998), as in `sklearn.datasets.load_digits`.

    The 17 grey levels 0..16 are spread over 0..255, then the picture is brought to size with `data.interpolation`. The
    split is ours (the package has none): stratified by class, the same for every seed of a run.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    pixels = np.rint(raw.images * (255.0 / 16.0)).astype(np.uint8)[:, :, :, None]
    labels = raw.target.astype(np.int64)
    if split != "all":
        part = stratified(labels, TEST_COUNT, SPLIT_SEED) == (split == "test")
        pixels, labels = pixels[part], labels[part]
    chosen = select(config, len(pixels), labels, [str(digit) for digit in range(10)])
    return PictureDataset(
        ArrayPictures(pixels, config),
        View.of(config),
        chosen.picked,
        chosen.labels,
        name=config.name,
        split=split,
        class_names=chosen.class_names,
        **digests(config, split, {"test_count": TEST_COUNT, "split_seed": SPLIT_SEED}),
    )

"""Data sets by name, and the streams that feed them to training and evaluation.

`build(config, split)` gives an `ImageDataset`; `BatchStream` draws training batches from it, `iterate` passes over it
once in order. Pictures are float32 in [-1, 1], (C, H, W); text is int64 tokens (`text_base`), captioned pictures have
both (`captions`). `check(path)` reports everything that is wrong with a folder or archive of images. To add a set: one
file with a builder under `@register`, imported below.
"""

from genlab.data import (  # noqa: F401  (fills the catalogue)
    caption_files,
    cifar,
    digits,
    drawn,
    drawn_captions,
    folders,
    idx,
    large_sets,
    pairs,
    points,
    text_corpora,
    text_document_sets,
    text_pairs,
    text_sets,
)
from genlab.data.base import ImageDataset, evenly_spaced, require_labels
from genlab.data.catalogue import DATASETS, DatasetRow, build, describe, register
from genlab.data.checking import CheckReport, Finding, check
from genlab.data.decoding import decode_image
from genlab.data.files import FileTree, open_tree
from genlab.data.stream import BatchStream, iterate

__all__ = [
    "DATASETS",
    "BatchStream",
    "CheckReport",
    "DatasetRow",
    "FileTree",
    "Finding",
    "ImageDataset",
    "build",
    "check",
    "decode_image",
    "describe",
    "evenly_spaced",
    "iterate",
    "open_tree",
    "register",
    "require_labels",
]

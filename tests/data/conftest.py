"""Fixtures of the data tests: a folder to write pictures into, and configurations that read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from picture_files import Writer

from genlab.config import DataConfig


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    root = tmp_path / "pictures"
    root.mkdir()
    return Writer(root)


@pytest.fixture
def config(write: Writer):
    """`config("folder", image_size=8)` with the root of `write` unless another is given."""

    def make(name: str, **values: object) -> DataConfig:
        return DataConfig(**{"name": name, "root": write.root, "image_size": 8, **values})

    return make

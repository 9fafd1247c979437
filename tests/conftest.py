"""Fixtures of the whole suite: seeds, the cache, real data where it lies beside the checkout, and the GPU marker."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NO_GPU = "needs a CUDA device"


def pytest_configure(config: pytest.Config) -> None:
    import torch

    # One thread per xdist worker: the workers share the cores, and sums come out the same on every machine.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_collection_finish() -> None:
    import torch

    # torch.testing._internal, which op tests import for its samples, forbids the whole process to set torch.backends'
    # flags; training sets them.
    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(isinstance(report.longrepr, tuple) and NO_GPU in str(report.longrepr[2]) for report in skipped)
    terminalreporter.write_line(f"GPU tests skipped: {count}")


@pytest.fixture(autouse=True)
def seed() -> int:
    """The same random numbers for every test, whatever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty $GENLAB_CACHE for the session: no test reads or fills the user's own."""
    path = tmp_path_factory.mktemp("genlab-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENLAB_CACHE", str(path))
        yield path


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A $GENLAB_CACHE of one test, where no judge lies that another test has trained."""
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "genlab-cache"))
    return tmp_path / "genlab-cache"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data: $GENLAB_TEST_DATA, else shared/data beside the checkout."""
    named = os.environ.get("GENLAB_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            f"no real data: {'$GENLAB_TEST_DATA' if named else 'shared/data beside the checkout'} is not a folder"
        )
    return folder


@pytest.fixture
def device() -> str:
    """The device of tests that run anywhere; tests of the GPU are marked `cuda` and name it."""
    return "cpu"

"""Makefile, pins and package data: set-up happens once, with exactly what was tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
STAMPS = (".created", ".installed", ".kernels-built")


def project_requirements() -> list[Requirement]:
    """Every requirement of pyproject.toml; read by pattern, because Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text()
    blocks = re.findall(r"^(?:dependencies|requires|test) = \[(.*?)\]$", text, flags=re.M | re.S)
    return [Requirement(quoted) for block in blocks for quoted in re.findall(r'"([^"]+)"', block)]


def pins() -> dict[str, Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {re.sub(r"[-_.]+", "-", pin.name.lower()): pin for pin in map(Requirement, filter(None, lines))}


def test_every_requirement_has_a_pin_within_its_range() -> None:
    requirements, pinned = project_requirements(), pins()
    assert len(requirements) > 15
    for requirement in requirements:
        pin = pinned.get(re.sub(r"[-_.]+", "-", requirement.name.lower()))
        assert pin is not None, f"{requirement.name} has no pin in constraints.txt"
        version = next(iter(pin.specifier)).version
        assert requirement.specifier.contains(version), f"{pin} is outside of {requirement}"


def test_pins_are_exact() -> None:
    for pin in pins().values():
        assert [part.operator for part in pin.specifier] == ["=="]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that make looks at, set up already."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "kernel.cpp").write_text("")
    (tmp_path / ".venv").mkdir()
    later = time.time() + 1
    for order, name in enumerate(STAMPS):
        (tmp_path / ".venv" / name).touch()
        touch(tmp_path / ".venv" / name, later + order)
    return tmp_path


def touch(path: Path, when: float) -> None:
    os.utime(path, (when, when))


def plan(checkout: Path, *words: str) -> str:
    """What make would do."""
    return subprocess.run(["make", "-n", *words], cwd=checkout, capture_output=True, text=True, check=True).stdout


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
@pytest.mark.parametrize("target", ["train", "test"])
def test_make_does_no_set_up_twice(checkout: Path, target: str) -> None:
    steps = plan(checkout, target)
    assert "pip" not in steps and "venv -m venv" not in steps and "genlab build" not in steps
    assert {"train": "-m genlab train dcgan_digits", "test": "-m pytest"}[target] in steps


@needs_make
def test_make_builds_again_only_what_changed(checkout: Path) -> None:
    touch(checkout / "csrc" / "kernel.cpp", time.time() + 100)
    steps = plan(checkout, "setup")
    assert "genlab build" in steps and "pip" not in steps
    touch(checkout / "constraints.txt", time.time() + 100)
    steps = plan(checkout, "setup")
    assert "--no-build-isolation" in steps and "-m venv" not in steps


@needs_make
def test_make_installs_torch_first_and_from_the_pins(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    steps = plan(checkout, "setup")
    assert steps.index("torch torchvision") < steps.index("--no-build-isolation")
    assert steps.count("-c constraints.txt") == steps.count("pip --disable-pip-version-check")


@needs_make
@pytest.mark.parametrize("required, code", [("0", 0), ("1", 2)])
def test_make_goes_on_without_kernels_unless_they_are_required(checkout: Path, required: str, code: int) -> None:
    touch(checkout / "csrc" / "kernel.cpp", time.time() + 100)
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'error: no compiler' >&2; exit 2\n")
    python.chmod(0o755)
    environment = {**os.environ, "GENLAB_REQUIRE_KERNELS": required}
    done = subprocess.run(["make", "setup"], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert ("going on with plain PyTorch" in done.stdout) == (code == 0)


@needs_make
@pytest.mark.parametrize(
    "script, message",
    [
        (None, "not found; install Python 3.10 or newer"),
        ('case "$*" in *version_info*) exit 1;; *) echo Python 3.9.2;; esac', "Python 3.9.2 is too old"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "apt-get install python3-venv"),
    ],
)
def test_make_names_what_python_lacks(checkout: Path, script: str | None, message: str) -> None:
    shutil.rmtree(checkout / ".venv")
    python = checkout / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    done = subprocess.run(["make", "train", f"PYTHON={python}"], cwd=checkout, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0
    assert len(errors) == 1 and message in errors[0]
    assert not (checkout / ".venv" / ".created").exists()


def test_report_template_is_declared_as_package_data() -> None:
    assert resources.files("genlab.report").joinpath("template.html").is_file()
    assert "report/*.html" in (ROOT / "pyproject.toml").read_text()


def test_ci_script_is_valid_shell_and_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "make test" in text and "GPU tests skipped" in text
    assert script.stat().st_mode & 0o111


def test_no_project_file_names_a_registry() -> None:
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "setup.py", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|--index-url|--extra-index", text), name


def test_help_is_quick_because_torch_is_not_imported() -> None:
    code = (
        "import sys; from genlab.cli import main; code = main(['--help']); "
        "heavy = {'torch', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules); sys.exit(1 if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

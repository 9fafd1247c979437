"""Building: what it picks, what it writes, and how it fails."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genlab import _extension, build

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake_cuda(tmp_path, monkeypatch):
    """A toolkit whose nvcc says the release that the test writes."""

    def make(release: str) -> Path:
        home = tmp_path / "cuda"
        (home / "bin").mkdir(parents=True)
        (home / "include").mkdir()
        (home / "include/cuda_runtime.h").touch()
        nvcc = home / "bin/nvcc"
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
        nvcc.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(home))
        return home

    return make


def test_the_library_agrees_with_its_metadata():
    module = _extension.load()
    facts = _extension.metadata()
    assert facts["torch"] == torch.__version__
    assert facts["with_cuda"] == module.with_cuda
    assert _extension.status().available
    assert _extension.status().reason == ""


def test_importing_genlab_loads_nothing():
    code = (
        "import sys, genlab, genlab.ops; assert 'genlab._C' not in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_cuda_is_built_where_nvcc_matches_torch_whatever_gpu_there_is(fake_cuda, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a build must not look for a GPU"))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.delenv("GENLAB_WITH_CUDA", raising=False)
    home = fake_cuda("12.6")
    tools = build.toolchain()
    assert (tools.with_cuda, tools.cuda_home, tools.nvcc_version) == (True, str(home), "12.6")
    assert tools.architectures == "8.0;9.0+PTX"


def test_an_nvcc_of_another_major_version_is_left_out_with_both_versions(fake_cuda, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("GENLAB_WITH_CUDA", raising=False)
    fake_cuda("12.6")
    tools = build.toolchain()
    assert not tools.with_cuda
    assert "nvcc 12.6 does not match torch's CUDA 13.0" in tools.cuda_reason
    with pytest.raises(build.BuildError, match="CUDA was asked for, but nvcc 12.6 does not match"):
        build.toolchain(with_cuda=True)


def test_a_torch_without_cuda_builds_for_the_cpu(fake_cuda, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    fake_cuda("13.0")
    assert build.toolchain(False).cuda_reason == "switched off"
    assert build.toolchain().cuda_reason == "this torch is built without CUDA"


def test_the_environment_switches_cuda_off(monkeypatch):
    monkeypatch.setenv("GENLAB_WITH_CUDA", "0")
    assert not build.toolchain().with_cuda
    assert not any(source.endswith(".cu") for source in build.sources(ROOT, with_cuda=False))
    assert "csrc/kernels/conv2d_direct.cu" in build.sources(ROOT, with_cuda=True)


def test_the_hash_follows_the_tools_and_the_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_WITH_CUDA", "0")
    tools = build.toolchain()
    (tmp_path / "csrc").mkdir()
    source = tmp_path / "csrc/a.cpp"
    source.write_text("int a;")
    first = build.source_hash(tmp_path, tools)
    assert first == build.source_hash(tmp_path, tools)
    source.write_text("int b;")
    assert build.source_hash(tmp_path, tools) != first


def test_a_second_build_does_nothing():
    if build._read_metadata().get("source_hash") != build.source_hash(ROOT, build.toolchain()):
        pytest.skip("the library in this checkout is of other sources; `genlab build` makes it current")
    result = build.build()
    assert (result.ok, result.built, result.reason) == (True, False, "up to date")
    assert result.seconds < 60


def test_without_a_compiler_the_reason_names_the_remedy(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = build.build(force=True)
    assert not result.ok
    assert "there is no C++ compiler (apt-get install g++, or set CXX)" in result.reason


def test_a_compiler_that_does_not_run_is_named(tmp_path, monkeypatch):
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    result = build.build(force=True)
    assert not result.ok
    assert result.reason == (f"the C++ compiler does not run: {broken} --version (apt-get install g++, or set CXX)")


def test_a_launcher_before_the_compiler_belongs_to_the_command(monkeypatch):
    monkeypatch.setenv("CXX", "ccache g++-12")
    assert build.compiler_command() == ["ccache", "g++-12"]
    monkeypatch.setenv("CXX", "")
    assert build.compiler_command() == ["c++"]


def test_the_ninja_of_an_environment_that_is_not_activated_is_used(tmp_path, monkeypatch):
    ninja = tmp_path / "ninja"
    ninja.write_text("#!/bin/sh\necho 1.13\n")
    ninja.chmod(0o755)
    monkeypatch.setenv("GENLAB_WITH_CUDA", "0")
    tools = dataclasses.replace(build.toolchain(), ninja=str(ninja))
    monkeypatch.setenv("PATH", "/nonexistent")
    build._extension(ROOT, tools)
    assert shutil.which("ninja") == str(ninja)


def _run_setup(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    """setup.py build_ext on a copy of the project without its library, with a compiler that always fails."""
    compiler = tmp_path / "failing-compiler"
    compiler.write_text("#!/bin/sh\nif [ \"$1\" = --version ]; then echo failing 1.0; exit 0; fi\n"
                        "echo 'x.cpp:1: error: nothing works here' >&2\nexit 1\n")  # fmt: skip
    compiler.chmod(0o755)
    project = tmp_path / "project"
    copied = ("setup.py", "pyproject.toml", "genlab/build.py", "genlab/__init__.py", *build.sources(ROOT, False))
    for path in copied:
        target = project / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / path).read_bytes())
    (project / "README.md").touch()
    variables = {**os.environ, "CXX": str(compiler), "CC": str(compiler), "GENLAB_WITH_CUDA": "0", **environment}
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=project, env=variables, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def test_a_failing_compiler_leaves_an_install_without_kernels_and_says_so(tmp_path):
    done = _run_setup(tmp_path)
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("genlab: ")]
    assert len(lines) == 1
    assert re.match(
        "genlab: the kernels are not built: the compiler failed .*; the lab runs on plain PyTorch", lines[0]
    )


def test_a_failing_compiler_is_an_error_where_kernels_are_required(tmp_path):
    done = _run_setup(tmp_path, GENLAB_REQUIRE_KERNELS="1")
    assert done.returncode != 0
    assert "genlab: the kernels could not be built: the compiler failed" in done.stderr


def test_a_missing_compiler_is_one_line_too(tmp_path):
    done = _run_setup(tmp_path, CXX="no-such-compiler")
    assert done.returncode == 0
    assert "genlab: the kernels are not built: there is no C++ compiler" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(tomllib is None, reason="tomllib needs Python 3.11")
def test_metadata_holds_ranges_and_no_pin_of_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dependencies = project["project"]["dependencies"]
    assert "torch>=2.11" in dependencies
    assert project["project"]["requires-python"] == ">=3.10"
    for line in (
        *dependencies,
        *project["project"]["optional-dependencies"]["test"],
        *project["build-system"]["requires"],
    ):
        assert "==" not in line, f"{line} pins a version"
    assert project["project"]["scripts"] == {"genlab": "genlab.cli:main"}


def test_unreadable_metadata_is_no_metadata(tmp_path, monkeypatch):
    (tmp_path / build.METADATA_NAME).write_text("{")
    monkeypatch.setattr(build, "PACKAGE", tmp_path)
    assert build._read_metadata() == {}
    (tmp_path / build.METADATA_NAME).write_text(json.dumps({"torch": "2"}))
    assert build._read_metadata() == {"torch": "2"}

"""The rules of csrc/: torch-free kernels, schemas that are complete and tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from genlab import _extension

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
TARGET_BEGIN = re.compile(r'^GENLAB_TARGET_BEGIN\(.*$|^#include "cpu/isa/begin.h"$', re.MULTILINE)
TORCH_HEADERS = ("torch/", "ATen/", "c10/", "pybind11/", "Python.h")

# Halves of one gradient, between which processes exchange sums; genlab/ops/norm_native.py differentiates the whole, and
# tests/ops/test_batch_norm_synchronised.py checks that to the second order.
HALVES = ("norm_act_backward_sums", "norm_act_backward_input")

# Ops that a training calls after its gradients are taken, or that take them: they write in place, or are a number for
# such an op.
_OPTIMIZER = tuple(f"optimizer_step_{part}" for part in ("adam", "rmsprop", "sgd", "follow", "norm"))
WITHOUT_GRADIENT = (*_OPTIMIZER, "word2vec_step")


def schemas() -> list[str]:
    return re.findall(r'm\.def\(\s*"(\w+)\(', (ROOT / "csrc/registration.cpp").read_text())


@pytest.mark.parametrize("folder", ["kernels", "cpu", "emulation"])
def test_no_torch_header_outside_ops(folder):
    files = [path for path in (ROOT / "csrc" / folder).rglob("*") if path.suffix in (".h", ".cu", ".cpp")]
    assert files
    for path in files:
        for header in INCLUDE.findall(path.read_text()):
            assert not header.startswith(TORCH_HEADERS), f"{path.relative_to(ROOT)} includes {header}"


def test_no_source_includes_the_whole_of_torch():
    """torch/extension.h takes a minute to compile; the narrow headers take seconds."""
    for path in (ROOT / "csrc").rglob("*.*"):
        assert "torch/extension.h" not in INCLUDE.findall(path.read_text()), path


def test_instruction_sets_are_named_in_one_place():
    by_hand = re.compile(r"pragma\s+(GCC|clang)\s+(target|push_options|attribute)|-march")
    for path in (ROOT / "csrc").rglob("*.*"):
        assert path.name == "target.h" or by_hand.search(path.read_text()) is None, path


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "csrc/cpu").rglob("*.*")) if TARGET_BEGIN.search(p.read_text())],
    ids=lambda p: p.name,
)
def test_nothing_shared_is_compiled_for_an_instruction_set(path):
    """An inline function of a header that is read while a target is set may be the copy that every machine runs."""
    _, text = TARGET_BEGIN.split(path.read_text(), maxsplit=1)
    texts = {path.name: text}
    while texts:
        name, text = texts.popitem()
        for header in INCLUDE.findall(text):
            if header == "cpu/isa/end.h":
                continue
            assert (ROOT / "csrc" / header).is_file(), f"{name} includes {header} while a target is set"
            inside = (ROOT / "csrc" / header).read_text()
            assert "#pragma once" not in inside, (
                f"{name} includes {header}, which others may share, while a target is set"
            )
            texts[header] = inside


def test_kernels_neither_allocate_nor_synchronise_nor_print():
    forbidden = re.compile(
        r"\b(cudaMalloc\w*|cudaDeviceSynchronize|cudaStreamSynchronize|cudaMemcpy\w*|printf|malloc)\s*\("
    )
    for path in (ROOT / "csrc/kernels").rglob("*.cu"):
        assert forbidden.search(path.read_text()) is None, path


def test_every_schema_is_in_one_library_block():
    blocks = [path.name for path in (ROOT / "csrc").rglob("*.cpp") if re.search(r"TORCH_LIBRARY\(", path.read_text())]
    assert blocks == ["registration.cpp"]
    assert len(schemas()) >= 4


@pytest.mark.parametrize("name", schemas())
def test_every_schema_has_cpu_kernel_fake_gradient_and_test(name):
    _extension.require()
    qualified = f"genlab::{name}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "CPU")
    assert (name in HALVES + WITHOUT_GRADIENT) != torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "Autograd")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "Meta")
    if _extension.load().with_cuda:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "CUDA")
    tests = "\n".join(path.read_text() for path in (ROOT / "tests/ops").glob("test_*.py"))
    # As a string, or as an attribute of torch.ops.genlab (the public functions of genlab.ops do not count).
    assert re.search(rf'"{name}"|\b(?:namespace|torch\.ops\.genlab)\.{name}\b', tests), f"no test names {name}"

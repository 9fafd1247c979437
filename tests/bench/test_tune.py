"""The table behind `auto`: what `genlab bench tune` writes is what the ops then do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genlab import _extension, ops
from genlab.bench import tune as tuning
from genlab.bench import variants
from genlab.bench.cases import make_cases
from genlab.bench.measure import ForeignLoad
from genlab.bench.op import OpSettings
from genlab.bench.variants import Variant
from genlab.errors import UserError
from genlab.ops import implementation, measured
from genlab.ops.shapes import ConvCall

needs_kernels = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
QUICKLY = OpSettings(shapes="tiny", rounds=2, seconds=1e-4)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table of its own for the test, read again whenever it is written by `save`."""
    file = tmp_path / "tuning.json"
    monkeypatch.setenv(measured.VARIABLE, str(file))
    measured.forget()
    yield file
    monkeypatch.undo()
    measured.forget()


def outcome(shape_class: str, choice: str, *, noisy: bool = False, ratio: float = 2.0) -> tuning.Outcome:
    target = measured.target_of("cpu")
    machine = measured.machine_of("cpu")
    entry = measured.Entry(
        "conv2d", "cpu", "float32", target, shape_class, choice, ratio, 0.02, machine, 1, "2.11", "2026-01-01"
    )
    return tuning.Outcome(entry, noisy, "")


INPUT, WEIGHT = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3)


def call_with(weight: torch.Tensor) -> ConvCall:
    return ConvCall(weight, (1, 1), (0, 0), (1, 1), 1, "zeros", (6, 6))


def conv_class(*, training: bool) -> str:
    weight = WEIGHT.clone().requires_grad_(training)
    return measured.shape_class_of("conv2d", INPUT, [call_with(weight)])


@needs_kernels
def test_auto_does_what_the_table_says_and_only_there(table: Path) -> None:
    call = call_with(WEIGHT)
    assert implementation.choose("conv2d", "auto", INPUT, call) == "torch"
    tuning.save([outcome(conv_class(training=False), "native")], table)
    assert implementation.choose("conv2d", "auto", INPUT, call) == "native"
    assert implementation.choose("conv2d", "torch", INPUT, call) == "torch"
    assert implementation.choose("conv2d", "auto", INPUT.double(), call) == "torch"
    learning = call_with(WEIGHT.clone().requires_grad_())
    assert implementation.choose("conv2d", "auto", INPUT, learning) == "torch"
    with torch.no_grad():
        assert implementation.choose("conv2d", "auto", INPUT, learning) == "native"
    with ops.default_impl("reference"):
        assert implementation.choose("conv2d", "auto", INPUT, call) == "reference"
    torch.testing.assert_close(ops.conv2d(INPUT, WEIGHT), ops.conv2d(INPUT, WEIGHT, impl="torch"), rtol=1e-4, atol=1e-5)


def test_a_measured_native_is_passed_over_without_the_library(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning.save([outcome(conv_class(training=False), "native")], table)
    monkeypatch.setattr(_extension, "_module", None)
    monkeypatch.setattr(_extension, "_failure", "genlab._C is not built; run `genlab build`")
    assert ops.conv2d(INPUT, WEIGHT).shape == (2, 5, 6, 6)


@pytest.mark.parametrize("what", ["target", "machine"])
def test_entries_of_another_instruction_set_or_machine_do_not_count(table: Path, what: str) -> None:
    other = outcome(conv_class(training=False), "native")
    tuning.save([other], table)
    assert len(measured.entries_of("conv2d", "cpu", torch.float32)) == 1
    entry = dataclasses.replace(other.entry, **{what: "another"})
    table.unlink()
    tuning.save([dataclasses.replace(other, entry=entry)], table)
    assert len(measured.read(table)) == 1
    assert measured.entries_of("conv2d", "cpu", torch.float32) == []


def test_list_ops_says_what_was_measured(table: Path) -> None:
    tuning.save([outcome("a", "native"), outcome("b", "torch", ratio=0.5)], table)
    row = next(r for r in ops.describe() if (r.op, r.device, r.dtype) == ("conv2d", "cpu", "float32"))
    where = f"({measured.machine_of('cpu')}, 2026-01-01)"
    assert row.reason.endswith(f"; measured: native at 1 of 2 shape classes {where}")


def test_what_noise_decided_is_not_written_unless_asked(table: Path) -> None:
    outcomes = [outcome("quiet", "native"), outcome("busy", "native", noisy=True), outcome("even", "torch", ratio=1.01)]
    assert tuning.save(outcomes, table) == 1
    assert [entry.shape_class for entry in measured.read(table)] == ["quiet"]
    assert tuning.save(outcomes, table, accept_noise=True) == 2
    assert [entry.shape_class for entry in measured.read(table)] == ["busy", "quiet"]


def test_a_new_measurement_replaces_the_old_one_and_keeps_the_others(table: Path) -> None:
    tuning.save([outcome("a", "native"), outcome("b", "native"), outcome("c", "native")], table)
    tuning.save([outcome("a", "torch", ratio=0.5), outcome("b", "torch", ratio=1.0)], table)
    assert {entry.shape_class: entry.choice for entry in measured.read(table)} == {"a": "torch", "c": "native"}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_class_of_a_case_is_the_one_its_op_asks_for(
    training: bool, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in make_cases(list(tuning.TUNED), "tiny"):
        asked = []
        monkeypatch.setattr(
            measured, "choice_of", lambda op, device, dtype, x, s, asked=asked: asked.append((op, x, s)) or "torch"
        )
        masters = variants.make_masters(case, "fp32", 0)
        tensors = variants.place(case, Variant("", None, layout), masters, "fp32", "cpu")
        tensors[0].requires_grad_(training)
        case.ours(*tensors, impl="auto")
        (op, input, shape) = asked[0]
        assert tuning.class_of_call(case, tensors) == measured.shape_class_of(op, input, shape)


def test_native_that_is_wrong_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.batch_norm_act
    monkeypatch.setattr(
        ops, "batch_norm_act", lambda *given, **named: right(*given, **{**named, "impl": "torch"}) * 1.01
    )
    case = make_cases(["batch_norm_act"], "tiny")[0]
    found = tuning.compare(case, "contiguous", False, QUICKLY, ForeignLoad())
    assert found.entry.choice == "torch" and "exceeds 1e-05" in found.problem and found.conclusive


@needs_kernels
def test_the_command_writes_a_table_that_the_ops_read(table: Path, capsys: pytest.CaptureFixture) -> None:
    from genlab.cli import main

    options = ["--shapes", "tiny", "--rounds", "2", "--seconds", "0.0001", "--accept-noise"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genlab.allocator.keep_freed_memory", lambda: True)
        patch.setattr("genlab.bench.op.LEAST_NOISE", 0.0)
        assert main(["bench", "tune", "conv2d", *options]) == 0
    out = capsys.readouterr().out
    assert f"of 4 classes decided, written to {table}" in out
    tree = json.loads(table.read_text())
    assert tree["schema"] == measured.SCHEMA
    assert {entry.op for entry in measured.read(table)} <= {"conv2d"}


def test_the_time_limit_leaves_cases_out_by_name() -> None:
    outcomes, left_out = tuning.tune(dataclasses.replace(QUICKLY, limit=0.0))
    assert outcomes == [] and len(left_out) == 4 and "conv2d tiny" in left_out


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 9, "entries": []}', '{"schema": 1, "entries": [{"op": 1}]}'])
def test_a_file_that_is_no_table_is_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match="not a tuning table .*; write one with `genlab bench tune`"):
        measured.read(tmp_path / "t.json")


def test_the_packaged_table_is_one() -> None:
    assert measured.PACKAGED.is_file()
    assert isinstance(measured.read(measured.PACKAGED), list)


def test_bench_without_a_verb_says_which_there_are(capsys: pytest.CaptureFixture) -> None:
    from genlab.cli import main

    assert main(["bench"]) == 2
    assert "expected op, step or tune" in capsys.readouterr().err
    assert main(["bench", "--tune", "step"]) == 2
    assert "use `genlab bench tune`" in capsys.readouterr().err

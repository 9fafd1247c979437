"""`genlab bench op`: rows of every op and pass, wrong results refused, noise told, files written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genlab import _extension, ops
from genlab.bench import cases, measure, variants, word2vec_cases
from genlab.bench import op as bench
from genlab.bench.op import OpSettings, run_op_bench
from genlab.bench.plot import plot_ops
from genlab.errors import UserError

RECURRENCES = ("gru", "lstm", "rnn")
LOSSES = ("cross_entropy", "gan_loss", "reparametrize_kl")
FLAT = ("layer_norm_act", "scaled_dot_product_attention", *LOSSES, *RECURRENCES, "word2vec_step")  # no images
QUICKLY = {"shapes": "tiny", "rounds": 2, "seconds": 1e-4}


@pytest.fixture(scope="module")
def result() -> dict:
    return run_op_bench(OpSettings(**QUICKLY))


def test_every_op_has_rows_for_each_pass(result: dict) -> None:
    passes: dict[str, set[str]] = {}
    for row in result["rows"]:
        passes.setdefault(row["op"], set()).add(row["direction"])
    assert set(passes) == set(cases.OPS)
    convolution, norm = {"forward", "input gradient", "weight gradient"}, {"forward", "backward"}
    convolution.add("gradients through activation")
    whole = {"forward", "forward and backward"}
    assert passes.pop("word2vec_step") == {"skip_gram", "cbow"}
    assert passes.pop("optimizer_step") == {"adam+ema", "adam+ema+clip", "rmsprop+clamp", "sgd"}
    for op, found in passes.items():
        one = whole if op in (*LOSSES, *RECURRENCES) else convolution if op.startswith("conv") else norm
        assert found == one, op


def test_a_row_holds_ours_every_peer_the_roofline_and_the_error(result: dict) -> None:
    for row in result["rows"]:
        by_name = {variant["name"]: variant for variant in row["variants"]}
        peers = {name for name in by_name if not by_name[name]["ours"]}
        layouts = {"contiguous"} if row["op"] in FLAT else {"contiguous", "channels_last"}
        expected = {f"torch eager {layout}" for layout in layouts}
        if row["op"] == "optimizer_step":
            expected = {"torch foreach", "torch loop" if row["direction"] == "rmsprop+clamp" else "torch fused"}
        if row["op"] == "scaled_dot_product_attention":
            expected |= {"torch math", "torch by hand"}
        assert peers == expected
        for variant in row["variants"]:
            if variant["absent"]:
                assert variant["impl"] == "native" and not _extension.available()
                continue
            slack = word2vec_cases.SLACK if row["op"] == "word2vec_step" else 1.0
            assert variant["error"] <= variants.TOLERANCE["fp32"] * slack and variant["refused"] is None
            assert variant["seconds"] > 0 and len(variant["samples"]) == 2 * row["rounds_kept"]
            assert variant["same_against_same"] > 0 and variant["spread"] >= 0
        assert row["best"]["peer"] in peers and row["best"]["auto"].startswith("genlab auto")
        assert row["ratio"] > 0 and row["noise"] >= bench.LEAST_NOISE
        assert row["verdict"] in {"wins", "ties", "loses"}
        assert row["floor_seconds"] > 0 and row["bound"] in {"compute", "memory"} and row["roofline"]["auto"] > 0


def test_the_file_says_what_the_numbers_depend_on(result: dict) -> None:
    assert result["bench"] == "op" and result["schema"] == bench.SCHEMA
    assert result["machine"]["cpu"] and result["machine"]["torch"] and result["machine"]["threads"] >= 1
    assert {"commit", "command", "date", "settings"} <= set(result)
    assert result["ceilings"]["products"]["fp32"] > 0 and result["ceilings"]["copy"] > 0
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(result, allow_nan=False))


def test_a_wrong_result_refuses_the_row_and_nothing_of_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.batch_norm_act
    monkeypatch.setattr(ops, "batch_norm_act", lambda *given, **named: right(*given, **named) * 1.001)
    rows = run_op_bench(OpSettings(names=("batch_norm_act",), **QUICKLY))["rows"]
    assert [row["verdict"] for row in rows] == ["refused", "refused"]
    for row in rows:
        assert row["ratio"] is None and row["native_ratio"] is None
        assert "genlab auto contiguous: error 0.001 against float64 exceeds 1e-05" in row["refused"]
        assert all(v["seconds"] is None for v in row["variants"] if v["ours"])


@pytest.mark.parametrize("wrong", ["nothing learnt", "another key", "the other architecture"])
def test_word2vec_that_learns_other_predictions_than_its_peer_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str):
    right = ops.word2vec_step

    def step(*tables: object, **settings: object) -> object:
        changes = {"nothing learnt": {"lr": 0.0}, "another key": {"key": 8}}
        other = "cbow" if settings["architecture"] == "skip_gram" else "skip_gram"
        return right(*tables, **{**settings, **changes.get(wrong, {"architecture": other})})

    monkeypatch.setattr(ops, "word2vec_step", step)
    rows = run_op_bench(OpSettings(names=("word2vec_step",), **QUICKLY))["rows"]
    assert [row["verdict"] for row in rows] == ["refused", "refused"]


def test_a_result_that_goes_wrong_while_it_is_timed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = ops.layer_norm_act, []

    def wrong_later(*given: object, **named: object) -> torch.Tensor:
        calls.append(1)
        return right(*given, **named) * (1 if len(calls) < 5 else 2)

    monkeypatch.setattr(ops, "layer_norm_act", wrong_later)
    case = cases.make_cases(["layer_norm_act"], "tiny")[0]
    assert bench.measure_case(case, OpSettings(**QUICKLY))[0]["verdict"] == "refused"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_an_infinite_error(value: float) -> None:
    exact = torch.ones(3, dtype=torch.float64)
    assert not variants.error_of([torch.tensor([1.0, value, 1.0])], [exact]) <= 1e9
    assert variants.error_of([torch.ones(2)], [exact]) == float("inf")


def test_low_precision_adds_autocast_peers_and_judges_by_its_own_tolerance() -> None:
    rows = run_op_bench(OpSettings(names=("conv2d",), dtype="bf16", **QUICKLY))["rows"]
    names = {variant["name"] for variant in rows[0]["variants"]}
    assert {"torch autocast contiguous", "torch autocast channels_last"} <= names
    errors = [v["error"] for row in rows for v in row["variants"] if v["error"] is not None]
    assert errors and 1e-5 < max(errors) <= variants.TOLERANCE["bf16"]


def test_torch_compile_takes_part_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda run, **_: compiled.append(run) or run)
    rows = run_op_bench(OpSettings(names=("layer_norm_act",), compiled=True, **QUICKLY))["rows"]
    assert len(compiled) == 2  # forward and backward
    assert all("torch.compile contiguous" in {v["name"] for v in row["variants"]} for row in rows)


def test_no_case_begins_after_the_limit_and_the_file_names_them() -> None:
    found = run_op_bench(OpSettings(names=("layer_norm_act",), limit=0.0, **QUICKLY))
    assert found["rows"] == []
    assert found["left_out"] == ["layer_norm_act forward tiny", "layer_norm_act backward tiny"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("conv3d",)}, "op: expected one of .*, got 'conv3d'; did you mean 'conv2d'"),
        ({"shapes": "huge"}, "--shapes: expected one of quick, full, tiny, got 'huge'"),
        ({"dtype": "fp16"}, "--dtype: expected one of fp32, bf16 on cpu, got 'fp16'"),
    ],
)
def test_refuses_what_it_does_not_know(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_op_bench(OpSettings(**{**QUICKLY, **change}))


def test_shapes_of_the_layers_are_torchs() -> None:
    for case in cases.make_cases([], "full"):
        if case.layer is not None and case.direction == "forward":
            with torch.device("meta"):
                tensors = [torch.empty(t.shape) for t in case.make(torch.Generator("cpu"))]
            assert tuple(case.peer(*tensors).shape[2:]) == case.layer.output, case.label


def test_direct_flops_are_torchs_count() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for case in cases.make_cases(["conv2d", "conv_transpose2d"], "tiny"):
        masters = variants.make_masters(case, "fp32", 0)
        leaves = [t.requires_grad_(i in case.wanted) for i, t in enumerate(masters)]
        with FlopCounterMode(display=False) as forward:
            output = case.peer(*leaves)
        counted = forward
        if case.wanted:
            with FlopCounterMode(display=False) as counted:
                torch.autograd.grad(output.sum(), [leaves[i] for i in case.wanted])
        assert counted.get_total_flops() == case.flops


# -- turns and noise ---------------------------------------------------------------------------------------------------


def test_contenders_take_turns_down_and_up(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    calls = {name: (lambda name=name: name) for name in "ABC"}
    monkeypatch.setattr(measure, "calls_for", lambda *_: 1)
    monkeypatch.setattr(measure, "seconds_of", lambda call, *_: turns.append(call()) or 1.0)
    measure.alternate(calls, rounds=2, seconds=1, device="cpu")
    assert "".join(turns) == "ABCCBA" * 2


def test_rounds_that_others_disturbed_do_not_count_while_enough_are_quiet() -> None:
    class Load:
        def __init__(self, shares: list[float]) -> None:
            self.shares = iter([0.0, *shares])

        def take(self) -> float:
            return next(self.shares)

    def rounds(shares: list[float]) -> measure.Measured:
        return measure.alternate({"A": lambda: None}, rounds=len(shares), seconds=1e-6, device="cpu", load=Load(shares))  # type: ignore[arg-type]

    quiet = rounds([0.0, 0.5, 0.01, 0.05])
    assert quiet.rounds == [0, 2, 3] and not quiet.noisy
    busy = rounds([0.0, 0.5, 0.5, 0.5])
    assert busy.rounds == [0, 1, 2, 3] and busy.noisy


def test_foreign_load_is_what_others_used_of_our_processors(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    meter = measure.ForeignLoad(stat)
    assert meter.take() is None  # no such file
    meter.processors = {0}
    line = "cpu0 {} 0 0 0 0 0 0 0 0 0\ncpu1 999999 0 0 0 0 0 0 0 0 0\n"
    stat.write_text(line.format(0))
    meter.take()
    stat.write_text(line.format(100_000_000))
    assert meter.take() == 1.0
    assert meter.take() == 0.0


def test_a_difference_within_the_noise_is_a_tie() -> None:
    def entry(samples: list[float], drift: float = 1.0) -> dict:
        return {"samples": samples, "same_against_same": drift}

    ratio, noise = bench.compare(entry([1.2] * 8), entry([1.0] * 8))
    assert ratio == pytest.approx(1.2) and bench.verdict(ratio, noise) == "wins"
    ratio, noise = bench.compare(entry([1.2] * 8), entry([1.0] * 8, drift=0.7))
    assert noise == pytest.approx(0.3) and bench.verdict(ratio, noise) == "ties"
    assert bench.verdict(0.9, 0.02) == "loses"
    assert bench.compare(None, entry([1.0])) == (None, bench.LEAST_NOISE)


# -- command line ------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from genlab.cli import main

    target, picture = tmp_path / "a" / "op.json", tmp_path / "b" / "op.png"
    options = [
        "--shapes",
        "tiny",
        "--rounds",
        "1",
        "--seconds",
        "0.0001",
        "--json",
        str(target),
        "--plot",
        str(picture),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genlab.allocator.keep_freed_memory", lambda: True)
        assert main(["bench", "op", "batch_norm_act", *options]) == 0
    assert len(json.loads(target.read_text())["rows"]) == 2
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    out = capsys.readouterr().out
    assert "batch_norm_act" in out and "ceilings" in out and ("loses" in out or "no row loses" in out)


def test_refused_rows_are_drawn_and_fail_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from genlab.cli import main

    monkeypatch.setattr("genlab.allocator.keep_freed_memory", lambda: True)
    monkeypatch.setattr(ops, "layer_norm_act", lambda input, *_, **__: input + 1)
    options = ["--shapes", "tiny", "--rounds", "1", "--seconds", "0.0001", "--plot", str(tmp_path / "op.png")]
    assert main(["bench", "op", "layer_norm_act", *options]) == 1
    assert "refused: layer_norm_act forward tiny: genlab auto contiguous: error" in capsys.readouterr().out
    assert (tmp_path / "op.png").stat().st_size > 0


def test_a_plot_needs_no_display(result: dict, tmp_path: Path) -> None:
    plot_ops(result, tmp_path / "op.png")
    assert (tmp_path / "op.png").stat().st_size > 1000

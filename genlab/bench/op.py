"""`genlab bench op`: each op of the lab against the best that stock PyTorch offers, in one process and one run.

All contenders of a row take turns under the same allocator and thread settings. A row counts only if every result of
the lab agrees with a float64 reference, before the clock starts and after it stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from genlab.bench import optimizers
from genlab.bench import variants as contenders
from genlab.bench.cases import Case, make_cases
from genlab.bench.measure import (
    TORCH_DTYPES,
    Ceilings,
    ForeignLoad,
    Measured,
    alternate,
    better,
    measure_ceilings,
)
from genlab.bench.step import git_commit, spread
from genlab.bench.variants import TOLERANCE, Rotation, Variant
from genlab.errors import UserError

SCHEMA = 1
LEAST_NOISE = 0.02  # a difference below this is never called one
MOST_COPIES = 16


@dataclass(frozen=True)
class OpSettings:
    """What is measured.

    Attributes:
        names: ops; () means all.
        dtype: "fp32", "tf32" (GPU), "bf16" or "fp16" (GPU).
        shapes: "quick", "full", or "tiny" (a check of the bench itself).
        rounds: each visits every contender twice.
        seconds: length of a visit.
        compiled: torch.compile takes part.
        threads: of torch; None leaves its own choice.
        limit: seconds after which no further case is begun; None for none.
    """

    names: tuple[str, ...] = ()
    dtype: str = "fp32"
    shapes: str = "quick"
    rounds: int = 5
    seconds: float = 0.05
    device: str = "cpu"
    compiled: bool = False
    threads: int | None = None
    limit: float | None = None
    seed: int = 0


def run_op_bench(settings: OpSettings, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Measures and returns everything that the result file holds.

    Args:
        progress: called with (cases done, cases in all).

    Raises:
        UserError: an unknown op, dtype or choice of shapes; a dtype that the device does not have.
    """
    from genlab.doctor import describe_machine

    kind = check_dtype(settings)
    cases = make_cases(list(settings.names), settings.shapes)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    load, started, done = ForeignLoad(), time.monotonic(), 0
    before = gpu_state(kind)
    with numerics(settings.dtype), own_stream(settings.device), torch.no_grad():
        ceilings = _ceilings(settings)
        rows: list[dict[str, Any]] = []
        for case in cases:
            if settings.limit is not None and time.monotonic() - started > settings.limit:
                break
            rows += measure_case(case, settings, load)
            done += 1
            if progress is not None:
                progress(done, len(cases))
        ceilings = better(ceilings, _ceilings(settings))
    for row in rows:
        add_roofline(row, ceilings)
    return {
        "bench": "op",
        "schema": SCHEMA,
        "settings": dataclasses.asdict(settings),
        "machine": {**describe_machine(), "threads": torch.get_num_threads()},
        "commit": git_commit(),
        "command": " ".join(["genlab", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "ceilings": dataclasses.asdict(ceilings),
        "gpu_before": before,
        "gpu_after": gpu_state(kind),
        "left_out": [f"{case.op} {case.direction} {case.label}" for case in cases[done:]],
        "rows": rows,
    }


def check_dtype(settings: OpSettings) -> str:
    """The kind of device. Raises UserError for a dtype that it does not have."""
    kind = torch.device(settings.device).type
    known = tuple(TORCH_DTYPES) if kind == "cuda" else ("fp32", "bf16")
    if settings.dtype not in known:
        raise UserError(f"--dtype: expected one of {', '.join(known)} on {kind}, got {settings.dtype!r}")
    return kind


@contextlib.contextmanager
def numerics(dtype: str) -> Iterator[None]:
    """fp32 means float32 products for both sides; tf32 lets both sides round them. cuDNN may search for its best."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    kept = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = dtype == "tf32"
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = kept


@contextlib.contextmanager
def own_stream(device: str) -> Iterator[None]:
    """On a GPU: a stream of its own, which can be captured."""
    if torch.device(device).type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        yield


def _ceilings(settings: OpSettings) -> Ceilings:
    kind = torch.device(settings.device).type
    size, copied = 2048, 2**28
    if kind == "cuda":
        size, copied = 8192, min(2**32, torch.cuda.get_device_properties(settings.device).total_memory // 8)
    if settings.shapes == "tiny":
        size, copied = 128, 2**20
    return measure_ceilings(settings.dtype, kind, size=size, copied=copied)


def measure_case(case: Case, settings: OpSettings, load: ForeignLoad | None = None) -> list[dict[str, Any]]:
    """The rows of a case: one on the CPU; calls one by one and as a CUDA graph on a GPU."""
    if case.step is not None:
        return [_measure_steps(case, case.step, dataclasses.replace(settings, dtype="fp32"), load)]
    kind = torch.device(settings.device).type
    masters = contenders.make_masters(case, settings.dtype, settings.seed)
    exact = contenders.reference(case, masters, settings.dtype, settings.seed, settings.device)
    copies, allowed = _copies(case, settings), TOLERANCE[settings.dtype] * case.slack
    ready: dict[str, Rotation] = {}
    entries: dict[str, dict[str, Any]] = {}
    for variant in contenders.variants_of(case, masters, settings.dtype, settings.compiled):
        entry = entries[variant.name] = _new_entry(variant)
        try:
            rotation = contenders.prepare(
                case, variant, masters, settings.dtype, settings.device, settings.seed, copies
            )
            _check(entry, rotation, exact, allowed)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            entry["absent"] = str(error).splitlines()[0][:300]
            continue
        if entry["refused"] is None:
            ready[variant.name] = rotation
    modes: dict[str, dict[str, Callable[[], object]]] = {"eager": dict(ready)}
    if kind == "cuda":
        modes["graph"] = _captured(ready, entries)
    # Both modes in one alternation: they are compared with each other too.
    calls = {(mode, name): call for mode, found in modes.items() for name, call in found.items()}
    measured = alternate(calls, rounds=settings.rounds, seconds=settings.seconds, device=kind, load=load)  # type: ignore[arg-type]
    for name, rotation in ready.items():
        _check(entries[name], rotation, exact, allowed)
    return [
        summarize_row(case, settings, mode, {name: dict(entry) for name, entry in entries.items()}, measured, copies)
        for mode in modes
    ]


def _measure_steps(
    case: Case, kind: optimizers.StepKind, settings: OpSettings, load: ForeignLoad | None
) -> dict[str, Any]:
    """The row of an optimiser: calls one by one, each contender on tensors of its own."""
    device, where = settings.device, torch.device(settings.device).type
    masters = tuple(contenders.make_masters(case, "fp32", settings.seed))
    exact = [case.peer(*(t.to(device, torch.float64) for t in masters))]
    entries = {name: _new_entry(Variant(name, impl)) for name, impl in optimizers.contenders_of(kind).items()}
    ready: dict[tuple[str, str], Callable[[], object]] = {}

    def check(name: str) -> None:
        fresh = [t.to(device) for t in masters]
        _check(entries[name], Rotation([lambda: [optimizers.one_step(kind, name, *fresh)]]), exact, TOLERANCE["fp32"])

    for name, entry in entries.items():
        try:
            check(name)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            entry["absent"] = str(error).splitlines()[0][:300]
            continue
        if entry["refused"] is None:
            ready["eager", name] = optimizers.prepare(kind, masters, name, device, torch.float32)
    measured = alternate(ready, rounds=settings.rounds, seconds=settings.seconds, device=where, load=load)  # type: ignore[arg-type]
    for _, name in ready:
        check(name)
    return summarize_row(case, settings, "eager", entries, measured, 1)


def _copies(case: Case, settings: OpSettings) -> int:
    """Copies of the tensors whose sum is three times a GPU's level-2 cache; one on the CPU, as in a training step."""
    if torch.device(settings.device).type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(settings.device).L2_cache_size
    size = case.values * TORCH_DTYPES[settings.dtype].itemsize
    return max(1, min(MOST_COPIES, math.ceil(3 * cache / size)))


def _new_entry(variant: Variant) -> dict[str, Any]:
    return {
        "name": variant.name,
        "ours": variant.ours,
        "impl": variant.impl,
        "layout": variant.layout,
        "error": None,
        "refused": None,
        "absent": None,
    }


def _check(entry: dict[str, Any], rotation: Rotation, exact: list[torch.Tensor], allowed: float) -> None:
    """Puts the error of every copy's results into the entry, and a refusal where it is too large."""
    error = max(contenders.error_of(call(), exact) for call in rotation.calls)
    entry["error"] = max(error, entry["error"] or 0.0)
    if not entry["error"] <= allowed:
        entry["refused"] = f"error {entry['error']:.2g} against float64 exceeds {allowed:g}"


def _captured(ready: dict[str, Rotation], entries: dict[str, dict[str, Any]]) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    for name, rotation in ready.items():
        try:
            found[name] = contenders.capture(rotation)
        except RuntimeError as error:
            entries[name]["graph_absent"] = str(error).splitlines()[0][:300]
            torch.cuda.synchronize()
    return found


def summarize_row(
    case: Case, settings: OpSettings, mode: str, entries: dict[str, dict[str, Any]], measured: Measured, copies: int
) -> dict[str, Any]:
    """Medians, the ratio of the best peer to ours, and the verdict: wins, ties, loses, or refused."""
    calls_per_sample = copies if mode == "graph" else 1
    for name, entry in entries.items():
        samples = measured.samples.get((mode, name))  # type: ignore[call-overload]
        entry["seconds"] = None
        if samples is None or entry["refused"]:
            continue
        values = [value / calls_per_sample for value in samples.kept(measured.rounds)]
        entry["seconds"] = statistics.median(values)
        entry["spread"] = spread(values)
        entry["same_against_same"] = samples.same_against_same(measured.rounds)
        entry["samples"] = values
    best = {
        "auto": _best(entries, lambda e: e["impl"] == "auto"),
        "native": _best(entries, lambda e: e["impl"] == "native"),
        "peer": _best(entries, lambda e: not e["ours"]),
    }
    ratio, noise = compare(best["peer"], best["auto"])
    native_ratio, _ = compare(best["peer"], best["native"])
    refused = [f"{e['name']}: {e['refused']}" for e in entries.values() if e["ours"] and e["refused"]]
    known = [share for share in measured.foreign if share is not None]
    return {
        "op": case.op,
        "direction": case.direction,
        "label": case.label,
        "shape": case.shape,
        "dtype": settings.dtype,
        "device": settings.device,
        "mode": mode,
        "best": {name: None if entry is None else entry["name"] for name, entry in best.items()},
        "seconds": {name: None if entry is None else entry["seconds"] for name, entry in best.items()},
        "ratio": None if refused else ratio,
        "native_ratio": None if refused else native_ratio,
        "noise": noise,
        "verdict": "refused" if refused else verdict(ratio, noise),
        "refused": refused,
        "noisy": measured.noisy,
        "foreign_load": statistics.mean(known) if known else None,
        "rounds_kept": len(measured.rounds),
        "copies": copies,
        "flops": case.flops,
        "bytes": case.values * TORCH_DTYPES[settings.dtype].itemsize,
        "variants": list(entries.values()),
    }


def _best(entries: dict[str, dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    timed = [entry for entry in entries.values() if entry["seconds"] is not None and wanted(entry)]
    return min(timed, key=lambda entry: entry["seconds"], default=None)


def compare(peer: dict[str, Any] | None, ours: dict[str, Any] | None) -> tuple[float | None, float]:
    """(peer's time over ours, visit by visit; how far from 1 is still noise)."""
    if peer is None or ours is None:
        return None, LEAST_NOISE
    ratios = [theirs / mine for theirs, mine in zip(peer["samples"], ours["samples"], strict=True)]
    drift = max(abs(entry["same_against_same"] - 1) for entry in (peer, ours))
    return statistics.median(ratios), max(LEAST_NOISE, drift, spread(ratios))


def verdict(ratio: float | None, noise: float) -> str:
    if ratio is None:
        return "not measured"
    return "wins" if ratio > 1 + noise else "loses" if ratio < 1 - noise else "ties"


def add_roofline(row: dict[str, Any], ceilings: Ceilings) -> None:
    """The least time that the machine's ceilings allow the direct algorithm, and which part of ours that is.

    Above 1 where an algorithm multiplies less than the direct one, or the tensors stay in a cache.
    """
    floor, bound = ceilings.floor(row["dtype"], row["flops"], row["bytes"])
    row["floor_seconds"], row["bound"] = floor, bound
    row["roofline"] = {name: floor / taken if taken else None for name, taken in row["seconds"].items()}


def losing(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows in which the best peer beats what `auto` runs, the worst first."""
    return sorted((row for row in result["rows"] if row["verdict"] == "loses"), key=lambda row: row["ratio"])


def gpu_state(kind: str) -> str | None:
    """Clocks, temperature and power as nvidia-smi gives them; None on the CPU or without that program."""
    if kind != "cuda":
        return None
    query = "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

"""`genlab bench tune`: times native against torch at the shapes of the bench and writes the table that `auto` reads.

A convolution is tried in either layout, alone and with its gradients (autograd takes forward and gradients together, so
they are one choice). A class gets an entry only where the difference exceeds the noise, on a machine that did nothing
else; for the others the rules go on to speak. Native is never chosen where its results are wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.bench import op as bench
from genlab.bench import variants as contenders
from genlab.bench.cases import Case, make_cases
from genlab.bench.measure import TORCH_DTYPES, ForeignLoad, alternate
from genlab.bench.op import OpSettings
from genlab.bench.variants import CHANNELS_LAST, CONTIGUOUS, TOLERANCE, Variant
from genlab.ops import implementation, measured
from genlab.ops.measured import Entry
from genlab.ops.shapes import ConvCall

TUNED = ("conv2d", "conv_transpose2d", "batch_norm_act", "instance_norm_act")


@dataclass(frozen=True)
class Outcome:
    """An entry and how it came about; `noisy` where other processes used the machine meanwhile."""

    entry: Entry
    noisy: bool
    problem: str

    @property
    def conclusive(self) -> bool:
        return bool(self.problem) or abs(self.entry.ratio - 1) > self.entry.noise


def tune(settings: OpSettings, progress: Callable[[int, int], None] | None = None) -> tuple[list[Outcome], list[str]]:
    """Measures every tuned op at the shapes of `settings`.

    Returns:
        What was found, and the cases that `settings.limit` left no time for.

    Raises:
        UserError: an unknown op, dtype or choice of shapes; nothing to choose from without the native kernels.
    """
    names = settings.names or TUNED
    bench.check_dtype(settings)
    # One case per shape: the forward one knows the op, its tensors and its activation.
    cases = [c for c in make_cases(list(names), settings.shapes) if c.direction == "forward" and c.op in TUNED]
    if settings.threads:
        torch.set_num_threads(settings.threads)
    outcomes: dict[tuple, Outcome] = {}
    left_out: list[str] = []
    load, started = ForeignLoad(), time.monotonic()
    with bench.numerics(settings.dtype), bench.own_stream(settings.device):
        for index, case in enumerate(cases):
            if settings.limit is not None and time.monotonic() - started > settings.limit:
                left_out = [f"{case.op} {case.label}" for case in cases[index:]]
                break
            for layout in (CONTIGUOUS, CHANNELS_LAST):
                for training in (False, True):
                    outcome = compare(case, layout, training, settings, load)
                    if outcome is None:
                        continue
                    kept = outcomes.get(outcome.entry.key)
                    # Two layers of one class: native must win at both.
                    if kept is None or outcome.entry.ratio < kept.entry.ratio:
                        outcomes[outcome.entry.key] = outcome
            if progress is not None:
                progress(index + 1, len(cases))
    return list(outcomes.values()), left_out


def compare(case: Case, layout: str, training: bool, settings: OpSettings, load: ForeignLoad) -> Outcome | None:
    """Times one shape, layout and use of an op; None where a rule mixes or multiplies, which the table cannot say."""
    kind = torch.device(settings.device).type
    masters = contenders.make_masters(case, settings.dtype, settings.seed)
    tensors = contenders.place(case, Variant("", None, layout), masters, settings.dtype, settings.device)
    wanted = [i for i in range(len(tensors)) if training and i in ((0, 1) if len(tensors) == 2 else (0, 1, 2))]
    for index in wanted:
        tensors[index].requires_grad_()
    calls: dict[Any, Callable[[], list[Tensor]]] = {}
    with torch.set_grad_enabled(training):
        if implementation.choose(case.op, "auto", tensors[0], *shape_of_call(case, tensors)) in ("matmul", "mixed"):
            return None
        shape_class = class_of_call(case, tensors)
        grad_output = torch.randn_like(case.peer(*tensors)) if training else None
        for impl in ("native", "torch"):
            calls[impl] = _call(case, tensors, impl, [tensors[i] for i in wanted], grad_output)
        problem = _problem(case, tensors, calls, wanted, grad_output, settings.dtype)
        ratio, noise, noisy = 0.0, bench.LEAST_NOISE, False
        if not problem:
            found = alternate(calls, rounds=settings.rounds, seconds=settings.seconds, device=kind, load=load)
            rows = {
                name: {
                    "samples": found.samples[name].kept(found.rounds),
                    "same_against_same": found.samples[name].same_against_same(found.rounds),
                }
                for name in calls
            }
            quicker, noise = bench.compare(rows["torch"], rows["native"])
            ratio, noisy = quicker or 0.0, found.noisy
    entry = Entry(
        case.op, kind, str(TORCH_DTYPES[settings.dtype]).removeprefix("torch."), measured.target_of(kind), shape_class,
        "native" if ratio > 1 + noise else "torch", round(ratio, 3), round(noise, 3),
        measured.machine_of(kind), torch.get_num_threads(), str(torch.__version__),
        time.strftime("%Y-%m-%d", time.gmtime()),
    )  # fmt: skip
    return Outcome(entry, noisy, problem)


def class_of_call(case: Case, tensors: list[Tensor]) -> str:
    """The class that the op asks the table for when it is given these tensors."""
    return measured.shape_class_of(case.op, tensors[0], shape_of_call(case, tensors))


def shape_of_call(case: Case, tensors: list[Tensor]) -> tuple[Any, ...]:
    """What the op tells `implementation.choose` beside its input."""
    layer = case.layer
    if layer is None:
        return ()
    grid = (layer.h, layer.w) if layer.transposed else layer.output
    return (ConvCall(tensors[1], (layer.s,) * 2, (layer.p,) * 2, (1, 1), 1, layer.padding_mode, grid),)


def _call(
    case: Case, tensors: list[Tensor], impl: str, wanted: list[Tensor], grad_output: Tensor | None
) -> Callable[[], list[Tensor]]:
    if grad_output is None:
        return lambda: [case.ours(*tensors, impl=impl)]
    return lambda: list(torch.autograd.grad(case.ours(*tensors, impl=impl), wanted, grad_output))


def _problem(
    case: Case, tensors: list[Tensor], calls: dict, wanted: list[int], grad_output: Tensor | None, dtype: str
) -> str:
    """Why native cannot be chosen whatever its time: it does not run, or its results are wrong."""
    exact = [t.detach().double() for t in tensors]
    for index in wanted:
        exact[index].requires_grad_()
    output = case.peer(*exact)
    if grad_output is None:
        expected = [output]
    else:
        expected = list(torch.autograd.grad(output, [exact[i] for i in wanted], grad_output.double()))
    try:
        error = contenders.error_of(calls["native"](), expected)
    except (RuntimeError, NotImplementedError) as failure:
        return str(failure).splitlines()[0]
    return "" if error <= TOLERANCE[dtype] else f"error {error:.2g} exceeds {TOLERANCE[dtype]:g}"


def save(outcomes: list[Outcome], file: Path, *, accept_noise: bool = False) -> int:
    """Puts the outcomes that say something into a table and lets `auto` read its table again.

    An older entry of a class that was measured now goes in any case.

    Args:
        accept_noise: of a busy machine too.

    Returns:
        How many entries were written.
    """
    measured_now = [outcome for outcome in outcomes if accept_noise or not outcome.noisy]
    fresh = [outcome.entry for outcome in measured_now if outcome.conclusive]
    keys = {outcome.entry.key for outcome in measured_now}
    kept = [entry for entry in measured.read(file) if entry.key not in keys]
    measured.write(file, sorted((*kept, *fresh), key=lambda entry: entry.key))
    measured.forget()
    return len(fresh)

"""What a person sees while a model trains: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlab.cli.console import format_score
from genlab.log_rows import PER_SECOND
from genlab.report.page import describe_event, format_duration
from genlab.trainers.callbacks import Callback
from genlab.trainers.facts import describe_kernels

if TYPE_CHECKING:
    from rich.console import Console

    from genlab.config import RunConfig
    from genlab.trainers.base import Trainer

# Logged beside the losses, shown elsewhere on the line or not at all.
_NOT_SHOWN = {"learning_rate", "diversity_nearest", "margin"}


class TrainingDisplay(Callback):
    """Progress of one training on a console; also writes the report when the training ends, however it ends.

    Attributes:
        report: path of report.html once it is written.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.report: Path | None = None
        self._run_path = Path()
        self._total = 0
        self._bars: Any = None
        self._task: Any = None
        self._side_tasks: dict[str, Any] = {}
        self._announced: set[str] = set()
        self._first_step = 0
        # Moved on by the time of each evaluation: the time left is estimated from training steps alone.
        self._started = time.monotonic()
        self._evaluating_since: float | None = None

    def on_start(self, trainer: Trainer, run_path: Path, total_steps: int) -> None:
        self._run_path, self._total, self._first_step = run_path, total_steps, trainer.step
        self._started = time.monotonic()
        for line in describe_training(trainer, run_path):
            self._print(line)
        if self.console.is_terminal:
            self._bars = make_bars(self.console)
            self._task = self._bars.add_task("train", total=total_steps, completed=trainer.step)
            self._bars.start()

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        if self._bars is not None:
            if metrics:
                self._bars.status = describe_metrics(metrics)
            self._bars.update(self._task, completed=step)
        elif metrics:
            done, left = step - self._first_step, self._total - step
            eta = (time.monotonic() - self._started) / max(1, done) * left
            tail = f"  eta {format_duration(eta)}" if left else ""
            self._print(f"step {step}/{self._total}  {describe_metrics(metrics)}{tail}")

    def on_progress(self, what: str, done: int, total: int | None) -> None:
        """Progress within an evaluation: training the extractor, passing images through it."""
        if self._evaluating_since is None:
            self._evaluating_since = time.monotonic()
        if what.startswith("train ") and what not in self._announced:
            self._announced.add(what)
            name = what.removeprefix("train ")
            self._print(f"evaluation: {name}, the network that judges, is trained first; once, then kept for this data")
        if self._bars is None:
            return
        if what not in self._side_tasks:
            self._side_tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._side_tasks[what], completed=done, total=total)
        if total is not None and done >= total:
            self._bars.remove_task(self._side_tasks.pop(what))

    def on_scores(self, step: int, scores: Sequence[Any]) -> None:
        if self._evaluating_since is not None:
            self._started += time.monotonic() - self._evaluating_since
            self._evaluating_since = None
        text = "  ".join(f"{score.name} {format_score(score.value)}" for score in scores)
        self._print(f"step {step}/{self._total}  {text}")

    def on_event(self, row: dict[str, Any]) -> None:
        if row["event"] != "environment":
            self._print(f"{row['event']}: {describe_event(row)}")

    def on_end(self, trainer: Trainer) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        from genlab.report import write_report

        # The report must not hide the error that ended the training, a full disk among them.
        with contextlib.suppress(OSError):
            self.report = write_report(self._run_path)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def make_bars(console: Console) -> Any:
    """Bars with the time left, and under them a line `status` that a narrow terminal cuts before it cuts a bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class TrainingBars(Progress):
        status = ""

        def get_renderables(self) -> Iterable[Any]:
            yield self.make_tasks_table(self.tasks)
            if self.status:
                yield Text(self.status, no_wrap=True, overflow="ellipsis")

    return TrainingBars(
        TextColumn("{task.description}"),
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("eta"),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        console=console,
        expand=True,
    )


def describe_metrics(metrics: dict[str, float]) -> str:
    """Losses first, then the other numbers of the step, then the speed."""
    speeds = [name for name in metrics if name.endswith(PER_SECOND)]
    shown = (name for name in metrics if name not in {*_NOT_SHOWN, *speeds} and not name.startswith("grad_norm"))
    names = sorted(shown, key=lambda name: not name.startswith("loss"))
    parts = [f"{name} {_number(metrics[name])}" for name in names]
    parts += [f"{metrics[name]:,.0f} {name.removesuffix(PER_SECOND)}/s" for name in speeds]
    return "  ".join(parts)


def _number(value: float) -> str:
    """Three decimals; of a number that they would not show, two digits and its power of ten."""
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def describe_training(trainer: Trainer, run_path: Path) -> list[str]:
    """The lines before the first step: what is trained, on what, with which kernels, and where it is written."""
    import torch

    data, config = trainer.data, trainer.config
    sizes = trainer.batch_description()
    parameters = ", ".join(f"{name} {format_count(count)}" for name, count in sizes["parameters"].items())
    place = (
        f"{trainer.device}, {torch.get_num_threads()} threads" if trainer.device.type == "cpu" else str(trainer.device)
    )
    if trainer.device.type == "cuda":
        place += f" ({torch.cuda.get_device_name(trainer.device)})"
    processes = f", {sizes['processes']} processes" if sizes["processes"] > 1 else ""
    batch = f"batch {sizes['batch_size']}{processes}"
    return [
        f"{config.algorithm} on {data.name} ({data.describe()}), {batch}; weights: {parameters}",
        f"device: {place}, {config.train.precision}",
        f"kernels: {describe_kernels(config, trainer.device.type)}",
        f"settings: {describe_settings(config)}",
        f"run: {run_path}",
    ]


def describe_settings(config: RunConfig) -> str:
    """The settings that are not the defaults of the algorithm; the run's config.yaml has all of them."""
    from genlab.config import flatten

    defaults = flatten(type(config)(algorithm=config.algorithm).model_dump(mode="json"))
    values = flatten(config.model_dump(mode="json"))
    return ", ".join(f"{key}={value}" for key, value in values.items() if defaults.get(key) != value)


def format_count(count: int) -> str:
    """3_576_704 -> "3.58 M", 4_210 -> "4.21 k"."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return str(count)

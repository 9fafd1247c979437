"""What the verbs print with: one console, tables, progress, and the question whether a person is watching."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def is_main_process() -> bool:
    """False in all but one of the processes that torchrun started; those print nothing but errors."""
    return os.environ.get("RANK", "0") == "0"


def make_console() -> Console:
    """A console on stdout.

    Off a terminal it is wide, so that tables are not cut: another program, or a log, takes them whole.
    """
    import rich.console

    class ResultConsole(rich.console.Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `main` knows what to do; rich would exit with 1

    console = ResultConsole(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = ResultConsole(highlight=False, width=200)
    return console


def make_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> Table:
    """A plain table; cells are text (markup characters in them are shown, not read).

    Args:
        right: names of the columns that hold numbers, which are broken last where the terminal is narrow.
        whole: names of other such columns.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        unbroken = name in right or name in whole
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=unbroken)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return table


def print_wide_table(
    console: Console,
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[str] = (),
    keys: int = 1,
) -> None:
    """Prints a table of many short columns; a terminal too narrow for them gets several tables, one below the other.

    Args:
        right: names of the columns that hold numbers.
        keys: so many first columns say what a row is and stand in each of the tables.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) + 3 for column in zip(columns, *cells, strict=True)]  # with the gap to the next
    head, parts = list(range(keys)), [list[int]()]
    for number in range(keys, len(columns)):
        if parts[-1] and sum(widths[k] for k in [*head, *parts[-1], number]) > console.width:
            parts.append([])
        parts[-1].append(number)
    for place, part in enumerate(parts):
        chosen = [*head, *part]
        picked = [[row[k] for k in chosen] for row in cells]
        table = make_table(None if place else title, [columns[k] for k in chosen], picked, right=right)
        console.print(table)


def format_score(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def format_protocol(protocol: dict[str, Any]) -> str:
    """{"dims": 64, "accuracy": 0.98765} -> "dims=64, accuracy=0.9877"."""
    plain = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in protocol.items()}
    return ", ".join(f"{key}={value}" for key, value in plain.items())


@contextmanager
def progress_reporter() -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields progress(what, done, total): a bar on a terminal, nothing elsewhere (a script wants the result)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report

"""report.html of a run: one file that opens from disk without a network and holds everything to judge the run by."""

from __future__ import annotations

from pathlib import Path

from genlab.report.page import render_report


def write_report(run_dir: str | Path) -> Path:
    """Writes `report.html` into a run directory, through a temporary name.

    Args:
        run_dir: the folder of a run, finished or still training.

    Returns:
        Path of the report.

    Raises:
        RunError: the folder does not exist or is no run directory.
    """
    import os

    from genlab.report.collect import read_run

    directory = Path(run_dir)
    text = render_report(read_run(directory))
    target = directory / "report.html"
    temporary = directory / ".report.partial.html"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, target)
    return target


__all__ = ["render_report", "write_report"]

"""Fills the report's template. Every value that comes from a file is escaped; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import math
import re
from collections import Counter
from importlib import resources
from string import Template
from typing import Any

from genlab.log_rows import PER_SECOND, counted
from genlab.report.charts import Chart, Series, format_number, render
from genlab.report.collect import RunRecord, best_and_last, list_measurements, lower_is_better, measurements
from genlab.report.heatmap import HeatMap, render_heat_map

MAX_FRAMES = 32
MAX_SAMPLE_BYTES = 24 * 2**20  # of PNG in one report; beyond that fewer grids are shown
SERIES_PER_CHART = 6


def escape(value: Any) -> str:
    return html.escape(str(value), quote=True)


def format_duration(seconds: float) -> str:
    """3725 -> "1 h 2 min"."""
    total = round(seconds)
    hours, minutes, rest = total // 3600, total % 3600 // 60, total % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def render_report(record: RunRecord) -> str:
    """The whole page as text."""
    template = Template(resources.files("genlab.report").joinpath("template.html").read_text(encoding="utf-8"))
    algorithm = record.config.get("algorithm", "run")
    data = record.config.get("data")
    data_name = data.get("name") if isinstance(data, dict) else None
    title = f"{algorithm} on {data_name}" if data_name else str(algorithm)
    from genlab import __version__

    return template.substitute(
        title=escape(title),
        subtitle=f"run {escape(record.directory.resolve().name)}",
        facts=_facts(record),
        progress=_progress(record),
        events=_events(record),
        samples=_samples(record) + _texts(record),
        scores=_scores(record),
        pictures=_pictures(record),
        curves=_curves(record),
        details=_details(record),
        footer=f"Written by genlab {escape(__version__)} from this run's config, logs and samples.",
    )


def _facts(record: RunRecord) -> str:
    total = record.total_steps
    steps = f"{record.last_step:,}" + (f" of {total:,}" if total else "")
    facts = [("step", steps)]
    if record.rows and isinstance(record.rows[-1].get("time"), (int, float)):
        facts.append(("training time", format_duration(record.rows[-1]["time"])))
    unit = counted(record.rows[-1]) if record.rows else None
    if unit is not None:
        facts.append((f"{unit} seen", f"{record.rows[-1][unit]:,}"))
    for key, label in (("device", "device"), ("precision", "precision"), ("kernels", "kernels"), ("torch", "torch")):
        value = record.environment.get(key)
        if isinstance(value, str) and value:
            facts.append((label, value))
    return "".join(f"<li>{escape(label)} <b>{escape(value)}</b></li>" for label, value in facts)


def _progress(record: RunRecord) -> str:
    if not record.total_steps:
        return ""
    percent = min(100.0, 100.0 * record.last_step / record.total_steps)
    label = f"{percent:.0f} % of the steps"
    return f'<div class="bar" role="img" aria-label="{label}"><i style="width:{percent:.1f}%"></i></div>'


def _events(record: RunRecord) -> str:
    rows = []
    for event in record.events:
        if event["event"] == "classes":
            continue  # drawn among the curves
        rows.append(f"<tr><th>{escape(event['event'])}</th><td>{escape(describe_event(event))}</td></tr>")
    if record.skipped_lines:
        rows.append(f"<tr><th>unreadable lines</th><td>{record.skipped_lines} in the logs, left out</td></tr>")
    return f'<h2>What happened on the way</h2><div class="card"><table>{"".join(rows)}</table></div>' if rows else ""


def describe_event(event: dict[str, Any]) -> str:
    """A row of the log that is no measurement, in words: a note's text, else each fact after its name."""
    if "text" in event:
        place = f"step {event['step']}: " if event["event"] == "diagnosis" and "step" in event else ""
        return place + str(event["text"])
    return ", ".join(f"{key} {_plain(value)}" for key, value in event.items() if key not in {"event", "time"})


def choose_frames(record: RunRecord) -> list[tuple[int, bytes]]:
    """Sample grids for the slider: evenly spaced over the run, the first and the last always among them."""
    available = record.samples
    if not available:
        return []
    largest = max(path.stat().st_size for _, path in available)
    count = max(1, min(len(available), MAX_FRAMES, MAX_SAMPLE_BYTES // max(1, largest)))
    if count == 1:
        picked = [len(available) - 1]
    else:
        picked = sorted({round(i * (len(available) - 1) / (count - 1)) for i in range(count)})
    return [(available[i][0], available[i][1].read_bytes()) for i in picked]


def _samples(record: RunRecord) -> str:
    frames = choose_frames(record)
    if not frames:
        return ""
    images = "".join(
        f'<figure><img class="frame" data-step="{step}" alt="samples at step {step}" src="{_inline(data)}">'
        f"<figcaption>step {step:,}</figcaption></figure>"
        for step, data in frames
    )
    left_out = len(record.samples) - len(frames)
    note = f"the same latent vectors or inputs at every step; {len(frames)} grid{'s' if len(frames) > 1 else ''}" + (
        f" of {len(record.samples)}" if left_out else ""
    )
    controls = (
        '<div class="controls"><button id="frame-play" type="button">▶ play</button>'
        f'<input id="frame-slider" type="range" aria-label="sample grid" min="0" max="{len(frames) - 1}" '
        f'value="{len(frames) - 1}">'
        '<output id="frame-label"></output></div>'
    )
    return (
        f'<section><h2>Samples over time</h2><div class="card samples"><p class="note">{note}</p>'
        f'<div class="frames">{images}</div>{controls}</div></section>'
    )


def _texts(record: RunRecord) -> str:
    """What the model wrote: the last text whole, the ones before it folded away."""
    blocks = []
    for number, (step, path) in enumerate(reversed(record.texts[-MAX_FRAMES:])):
        text = escape(path.read_text(encoding="utf-8", errors="replace").rstrip())
        shown = " open" if number == 0 else ""
        blocks.append(f"<details{shown}><summary>step {step:,}</summary><pre>{text}</pre></details>")
    return f'<section><h2>Written</h2><div class="card">{"".join(blocks)}</div></section>' if blocks else ""


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _pictures(record: RunRecord) -> str:
    """What is shown beside the samples (codes, reconstructions, a classifier's curves and maps), as it was last."""
    figures = "".join(
        f'<figure class="card"><img alt="{escape(name)} at step {step}" src="{_inline(path.read_bytes())}">'
        f"<figcaption>{escape(name)}, step {step:,}</figcaption></figure>"
        for name, (step, path) in record.pictures.items()
    )
    return f'<h2>Pictures of the model</h2><div class="pictures">{figures}</div>' if figures else ""


def _scores(record: RunRecord) -> str:
    summary = best_and_last(record.scores)
    if not summary:
        return ""
    tiles = []
    for name, (best, last) in summary.items():
        direction = "lower is better" if lower_is_better(last) else "higher is better"
        where = f"at step {best['step']:,}" if isinstance(best.get("step"), int) else ""
        lines = f"<p>best, {where or 'checkpoint unknown'} · {direction}</p>"
        if last is not best:
            at = f" at step {last['step']:,}" if isinstance(last.get("step"), int) else ""
            lines += f"<p>last {escape(format_number(last['value']))}{at}</p>"
        protocol = best.get("protocol") if isinstance(best.get("protocol"), dict) else {}
        facts = {"checkpoint": best.get("checkpoint"), **protocol}
        tiles.append(
            f'<div class="card tile"><div class="name">{escape(name)}</div>'
            f'<div class="value">{escape(format_number(best["value"]))}</div>{lines}'
            f"<details><summary>protocol</summary>{_definitions(facts)}</details></div>"
        )
    return f'<section><h2>Scores</h2><div class="tiles">{"".join(tiles)}</div></section>'


def _curves(record: RunRecord) -> str:
    charts = [render(chart) for chart in plan_charts(record)]
    charts += [render_heat_map(heat) for heat in plan_heat_maps(record)]
    return f'<h2>Curves</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def plan_charts(record: RunRecord) -> list[Chart]:
    """Losses first, then what the trainer logs beside them, each score, and at last rates and speed."""
    series = measurements(record.rows)
    charts: list[Chart] = []

    def take(prefixes: tuple[str, ...], title: str, smooth: bool = False) -> None:
        names = [name for name in series if name.startswith(prefixes)]
        for start in range(0, len(names), SERIES_PER_CHART):
            lines = [Series(name, *series.pop(name)) for name in names[start : start + SERIES_PER_CHART]]
            charts.append(Chart(title if start == 0 else f"{title} (more)", lines, smooth=smooth))

    take(("loss",), "losses", smooth=True)
    take(("lr", "learning_rate"), "learning rates")
    speeds = tuple(name for name in series if name.endswith(PER_SECOND))
    take((*speeds, "step_time", "seconds_per", "data_time"), "speed", smooth=True)
    late, charts = charts, []
    for family in families(list(series)):
        for start in range(0, len(family), SERIES_PER_CHART):
            names = family[start : start + SERIES_PER_CHART]
            charts.append(Chart(", ".join(names), [Series(name, *series[name]) for name in names], smooth=True))
    losses = [chart for chart in late if chart.title.startswith("losses")]
    scores = [chart for name in best_and_last(record.scores) if (chart := _score_chart(record, name))]
    return losses + scores + charts + [chart for chart in late if chart not in losses]


def plan_heat_maps(record: RunRecord) -> list[HeatMap]:
    """What rows of the log list (KL of each latent, samples of each class), and the histograms of evaluations."""
    evaluations = [row for row in record.events if row["event"] == "classes" and isinstance(row.get("step"), int)]
    lists = list_measurements(record.rows)
    lists |= {f"{name} at evaluations": found for name, found in list_measurements(evaluations).items()}
    return [HeatMap(name, steps, columns) for name, (steps, columns) in lists.items()]


def families(names: list[str]) -> list[list[str]]:
    """Names that share their last word (real_logit, fake_logit), else their first (d_real, d_fake), belong together."""
    groups: dict[str, list[str]] = {}
    last = Counter(name.rsplit("_", 1)[-1] for name in names if "_" in name)
    for name in names:
        ending = name.rsplit("_", 1)[-1]
        key = f"*_{ending}" if last[ending] > 1 else f"{name.split('_')[0]}_*"
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _score_chart(record: RunRecord, name: str) -> Chart | None:
    rows = [row for row in record.scores if row["name"] == name and isinstance(row.get("step"), int)]
    points = {row["step"]: float(row["value"]) for row in rows}
    if len(points) < 2:
        return None  # a single value stands in its tile; a chart of one dot says no more
    steps = sorted(points)
    note = "lower is better" if lower_is_better(rows[-1]) else "higher is better"
    return Chart(name, [Series(name, steps, [points[s] for s in steps])], note, markers=True)


def _details(record: RunRecord) -> str:
    parts = []
    if record.config_text:
        parts.append(f'<div class="card"><h3>Configuration</h3><pre>{escape(record.config_text.rstrip())}</pre></div>')
    if record.environment:
        rows = "".join(
            f"<tr><th>{escape(k)}</th><td>{escape(_plain(v))}</td></tr>" for k, v in record.environment.items()
        )
        parts.append(f'<div class="card"><h3>Environment</h3><table>{rows}</table></div>')
    return f'<h2>How it was made</h2><div class="two">{"".join(parts)}</div>' if parts else ""


def _definitions(facts: dict[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_plain(v))}</dd>" for k, v in facts.items() if v is not None)
    return f"<dl>{rows}</dl>"


def _plain(value: Any) -> str:
    """A JSON value as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_number(value) if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value)
    text = "none" if value is None else str(value)
    # A digest tells itself apart by its beginning; the whole one is in the run's files.
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{32,}", text) else text

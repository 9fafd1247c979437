"""Line charts as plain SVG text: colours come from the page's CSS variables, so that one file reads in light and dark.

A chart carries its points as JSON in a data attribute; the page's script reads them for the values under the pointer.
Without scripts the chart is still whole: axes, lines, legend.
"""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 26, 12, 40
SMOOTH_FROM = 12  # values of a line; fewer are drawn as they are
SMOOTH_NOTE = "thin: as logged; thick: running mean"
MAX_POINTS = 500  # per line: more would be closer together than a pixel


@dataclass
class Series:
    """One line: values over training steps; a value that is not finite is a gap in the line."""

    name: str
    steps: list[int]
    values: list[float]


@dataclass
class Chart:
    """One picture.

    Args:
        title: what is drawn, with the unit.
        series: the lines, at most eight (the palette's length).
        note: a sentence under the title that says how to read it.
        smooth: draw a running mean over the raw line, for noisy series.
        markers: draw a dot at each value, for sparse series.
    """

    title: str
    series: list[Series]
    note: str = ""
    smooth: bool = False
    markers: bool = False


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that span [low, high].

    Args:
        count: about how many; the result has 2 to 2 * count.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"nice_ticks: expected finite bounds, got {low} and {high}")
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # rounding, which no tick could tell apart
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(1, count)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def format_number(value: float) -> str:
    """A number as short as it stays readable: 12,500 · 0.034 · 2e-4."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e7 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def thin(steps: list[int], values: list[float], limit: int = MAX_POINTS) -> tuple[list[int], list[float]]:
    """At most about `limit` points that keep the outline: the smallest and the largest value of each bucket."""
    if len(steps) <= limit:
        return steps, values
    bucket = math.ceil(len(steps) / (limit // 2))
    kept: list[int] = []
    for start in range(0, len(steps), bucket):
        finite = [i for i in range(start, min(start + bucket, len(steps))) if math.isfinite(values[i])]
        if not finite:
            kept.append(start)
            continue
        kept.extend(sorted({min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}))
    if kept[-1] != len(steps) - 1:
        kept.append(len(steps) - 1)
    return [steps[i] for i in kept], [values[i] for i in kept]


def running_mean(values: list[float], window: int) -> list[float]:
    """Exponential mean with bias correction (the weight of the last `window` values is about 86 %); gaps stay gaps."""
    decay = 1.0 - 2.0 / (window + 1)
    mean = weight = 0.0
    smoothed = []
    for value in values:
        if not math.isfinite(value):
            smoothed.append(math.nan)
            continue
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smoothed.append(mean / weight)
    return smoothed


def _path(xs: list[float], ys: list[float]) -> str:
    """SVG path data; a value that is not finite lifts the pen."""
    commands, pen_down = [], False
    for x, y in zip(xs, ys, strict=True):
        if not math.isfinite(y):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = True
    return "".join(commands)


def _bounds(chart: Chart) -> tuple[float, float, float, float] | None:
    points = [(s, v) for line in chart.series for s, v in zip(line.steps, line.values, strict=True) if math.isfinite(v)]
    if not points:
        return None
    steps, values = [p[0] for p in points], [p[1] for p in points]
    return min(steps), max(steps), min(values), max(values)


def render(chart: Chart) -> str:
    """The chart as an HTML figure with inline SVG; a chart without a finite value says so instead."""
    title = html.escape(chart.title)
    smooth = chart.smooth and any(len(line.values) >= SMOOTH_FROM for line in chart.series)
    notes = ". ".join(filter(None, [chart.note, SMOOTH_NOTE if smooth else ""]))
    note = f'<p class="note">{html.escape(notes)}</p>' if notes else ""
    bounds = _bounds(chart)
    if bounds is None:
        empty = '<p class="empty">no finite value yet</p>'
        return f'<figure class="chart"><figcaption>{title}</figcaption>{note}{empty}</figure>'
    first, last, low, high = bounds
    ticks = nice_ticks(low, high)
    step_ticks = [t for t in nice_ticks(first, last, 6) if first <= t <= last and float(t).is_integer()] or [first]
    span_x, span_y = max(1, last - first), ticks[-1] - ticks[0]

    def to_x(step: float) -> float:
        return LEFT + (step - first) / span_x * (WIDTH - LEFT - RIGHT)

    def to_y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - ticks[0]) / span_y * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{to_y(t):.1f}" y2="{to_y(t):.1f}"/>' for t in ticks
    ]
    parts += [
        f'<text class="tick" x="{LEFT - 8}" y="{to_y(t) + 4:.1f}" text-anchor="end">{format_number(t)}</text>'
        for t in ticks
    ]
    parts += [
        f'<text class="tick" x="{to_x(t):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
        f"{format_number(t)}</text>"
        for t in step_ticks
    ]
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>')
    data = []
    for index, line in enumerate(chart.series):
        steps, values = thin(line.steps, line.values)
        color = f'style="--line:var(--series-{index % 8 + 1})"'
        xs = [to_x(s) for s in steps]
        raw = _path(xs, [to_y(v) for v in values])
        if chart.smooth and len(line.values) >= SMOOTH_FROM:
            mean = running_mean(line.values, max(5, len(line.values) // 25))
            kept = dict(zip(line.steps, mean, strict=True))
            smoothed = [kept[s] for s in steps]
            parts.append(f'<path class="line faint" {color} d="{raw}"/>')
            parts.append(f'<path class="line" {color} d="{_path(xs, [to_y(v) for v in smoothed])}"/>')
        else:
            parts.append(f'<path class="line" {color} d="{raw}"/>')
        if chart.markers or len(steps) == 1:
            parts += [
                f'<circle class="dot" {color} cx="{x:.1f}" cy="{to_y(v):.1f}" r="3.5"/>'
                for x, v in zip(xs, values, strict=True)
                if math.isfinite(v)
            ]
        data.append(
            {
                "name": line.name,
                "steps": steps,
                "values": [float(f"{v:.6g}") if math.isfinite(v) else None for v in values],
            }
        )
    geometry = {"first": first, "span": span_x, "left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH, "series": data}
    legend = "".join(
        f'<span class="key" style="--line:var(--series-{i % 8 + 1})">{html.escape(line.name)}</span>'
        for i, line in enumerate(chart.series)
        if line.name != chart.title  # a single line named in the title needs no key
    )
    described = ", ".join(f"{s.name} ends at {format_number(s.values[-1])}" for s in chart.series if s.values)
    return (
        f'<figure class="chart" data-chart="{html.escape(json.dumps(geometry), quote=True)}">'
        f'<figcaption>{title}<span class="legend">{legend}</span></figcaption>{note}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}: {html.escape(described, quote=True)}">'
        f'{"".join(parts)}<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/></svg>'
        '<div class="readout" aria-hidden="true"></div></figure>'
    )

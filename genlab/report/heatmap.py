"""Heat maps as plain SVG text: lists of numbers over training steps, one column a row of the log."""

from __future__ import annotations

import html
from dataclasses import dataclass

from genlab.report.charts import BOTTOM, LEFT, RIGHT, TOP, WIDTH, format_number, nice_ticks

MOST_CELLS = 2400  # of one map; each is a line of the page
MOST_COLUMNS = 60
LEAST_HEIGHT, CELL = 120, 22


@dataclass
class HeatMap:
    """One picture.

    Args:
        title: what is drawn.
        steps: of the columns, rising.
        columns: a list of as many numbers for each step, none of them negative.
    """

    title: str
    steps: list[int]
    columns: list[list[float]]

    def thinned(self) -> HeatMap:
        """With no more columns than a reader tells apart: evenly spaced, the first and the last among them."""
        most = max(2, min(MOST_COLUMNS, MOST_CELLS // max(1, len(self.columns[0]))))
        count = len(self.steps)
        if count <= most:
            return self
        kept = [round(number * (count - 1) / (most - 1)) for number in range(most)]
        return HeatMap(self.title, [self.steps[k] for k in kept], [self.columns[k] for k in kept])


def render_heat_map(heat: HeatMap) -> str:
    """The map as an HTML figure with inline SVG; darkest is the largest number, and each cell says its own."""
    heat = heat.thinned()
    rows, largest = len(heat.columns[0]), max(max(column) for column in heat.columns)
    height = max(LEAST_HEIGHT, min(CELL, 640 / rows) * rows)
    wide, high = (WIDTH - LEFT - RIGHT) / len(heat.steps), height / rows
    parts = []
    for x, (step, column) in enumerate(zip(heat.steps, heat.columns, strict=True)):
        for y, value in enumerate(column):
            shade = value / largest if largest > 0 else 0.0
            parts.append(
                f'<rect class="cell" x="{LEFT + x * wide:.1f}" y="{TOP + y * high:.1f}" width="{wide:.1f}" '
                f'height="{high:.1f}" fill-opacity="{shade:.3f}"><title>step {step}, {y}: {format_number(value)}'
                "</title></rect>"
            )
    below = TOP + height + 20
    for number in [int(tick) for tick in nice_ticks(0, rows - 1, min(10, rows)) if 0 <= tick < rows and tick % 1 == 0]:
        y = TOP + (number + 0.5) * high + 4
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y:.1f}" text-anchor="end">{number}</text>')
    for place in sorted({0, len(heat.steps) // 2, len(heat.steps) - 1}):
        x, step = LEFT + (place + 0.5) * wide, format_number(heat.steps[place])
        parts.append(f'<text class="tick" x="{x:.1f}" y="{below:.1f}" text-anchor="middle">{step}</text>')
    whole = TOP + height + BOTTOM
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{whole - 4:.1f}" text-anchor="end">step</text>')
    title, most = html.escape(heat.title), format_number(largest)
    last = ", ".join(format_number(value) for value in heat.columns[-1][:20])
    return (
        f'<figure class="chart"><figcaption>{title}</figcaption>'
        f'<p class="note">a row for each number of the list, from 0 on; full colour is {most}</p>'
        f'<svg viewBox="0 0 {WIDTH} {whole:.0f}" role="img" aria-label="{title}: the last column is {last}">'
        f'<rect class="frame-line" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{height:.1f}"/>'
        f"{''.join(parts)}</svg></figure>"
    )

"""Heat maps of a report: which lists of the log are drawn, how many of them, and what a cell says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genlab.report import write_report
from genlab.report.collect import list_measurements
from genlab.report.heatmap import MOST_CELLS, MOST_COLUMNS, HeatMap, render_heat_map


def test_each_cell_says_its_number_and_is_as_dark_as_its_share_of_the_largest():
    text = render_heat_map(HeatMap("kl", [20, 40], [[0.5, 0.0], [1.0, 2.0]]))
    assert text.count('<rect class="cell"') == 4
    for opacity, said in (("0.250", "step 20, 0: 0.5"), ("0.000", "step 20, 1: 0"), ("1.000", "step 40, 1: 2")):
        assert f'fill-opacity="{opacity}"><title>{said}</title>' in text
    assert "full colour is 2" in text


def test_a_list_of_zeros_is_drawn_without_colour():
    assert 'fill-opacity="0.000"' in render_heat_map(HeatMap("kl", [1], [[0.0]]))


@pytest.mark.parametrize(("count", "length"), [(61, 10), (5000, 10), (500, 100), (90, 2000)])
def test_many_rows_are_thinned_and_keep_their_ends(count, length):
    heat = HeatMap("kl", list(range(count)), [[float(step)] * length for step in range(count)]).thinned()
    assert len(heat.steps) <= MOST_COLUMNS and len(heat.steps) * length <= max(MOST_CELLS, 2 * length)
    assert (heat.steps[0], heat.steps[-1]) == (0, count - 1)
    assert [column[0] for column in heat.columns] == heat.steps


def test_only_lists_of_sizes_are_drawn():
    rows = [
        {"step": 1, "kl": [1, 2.5], "words": ["a"], "below": [-1.0], "flags": [True], "empty": [], "loss": 3.0},
        {"step": 2, "kl": [0.0, float("nan")], "counts": [1, 2]},
        {"step": 3, "kl": [3, 4], "counts": [1, 2, 3]},
    ]
    assert list_measurements(rows) == {"kl": ([1, 3], [[1.0, 2.5], [3.0, 4.0]]), "counts": ([3], [[1.0, 2.0, 3.0]])}


def test_the_report_draws_the_lists_of_the_log(tmp_path: Path):
    rows = [{"step": step, "time": 1.0, "loss": 1.0, "kl_per_latent": [0.1, step / 10]} for step in (2, 4)]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    page = write_report(tmp_path).read_text()
    assert "<figcaption>kl_per_latent</figcaption>" in page and "<title>step 4, 1: 0.4</title>" in page

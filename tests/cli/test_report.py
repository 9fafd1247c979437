"""report.html: whole without a network, safe against what is in the files, right in its numbers."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from genlab.errors import RunError
from genlab.images import save_grid
from genlab.report import write_report
from genlab.report.charts import Chart, Series, format_number, nice_ticks, render, running_mean, thin
from genlab.report.collect import best_and_last, read_json_lines, read_run
from genlab.report.page import MAX_FRAMES, choose_frames, families, plan_charts

EVIL = "<script>alert('x')</script>"


class References(HTMLParser):
    """Collects everything a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [
            value or "" for name, value in attributes if name in {"src", "href", "srcset", "data", "poster"}
        ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as a killed training leaves it, with hostile names in it."""
    (tmp_path / "samples").mkdir()
    for step in (0, 100, 200):
        save_grid(torch.rand(4, 1, 8, 8) * 2 - 1, tmp_path / "samples" / f"step_{step:08d}.png")
    (tmp_path / "config.yaml").write_text(f'algorithm: dcgan\ndata: {{name: "{EVIL}"}}\ntrain: {{steps: 400}}\n')
    rows = [{"event": "environment", "device": "cpu", "torch": "2.14", "command": EVIL}]
    for step in range(10, 210, 10):
        facts = {"step": step, "time": step / 10, "images": step * 8}
        rows.append({**facts, "loss_d": 1.0 / step, "loss_g": math.nan, "learning_rate": 2e-4})
    rows.append({"event": "rollback", "step": 100, "metrics": [EVIL]})
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "log.jsonl").write_text(text + '\n{"step": 21')
    scores = [
        {"step": 100, "checkpoint": "a", "name": f"frechet[{EVIL}]", "value": 4.0, "protocol": {"real": {"count": 3}}},
        {"step": 200, "checkpoint": "b", "name": f"frechet[{EVIL}]", "value": 9.0, "protocol": {}},
        {"step": 200, "checkpoint": "b", "name": "is[x]", "value": None, "protocol": {}},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in scores))
    return tmp_path


def test_report_loads_nothing_from_elsewhere(run: Path) -> None:
    page = References()
    text = write_report(run).read_text()
    page.feed(text)
    assert len(page.loaded) == 3
    assert all(reference.startswith("data:image/png;base64,") for reference in page.loaded)
    assert not re.search(r"url\(|@import|https?://|//cdn", text)
    assert {"link", "iframe", "object", "embed"}.isdisjoint(page.tags)


def test_report_escapes_what_comes_from_files(run: Path) -> None:
    page = References()
    text = write_report(run).read_text()
    page.feed(text)
    assert "<script>alert" not in text
    assert page.tags.count("script") == 1
    assert "&lt;script&gt;alert" in text


def test_report_shows_best_and_last_score_with_protocol(run: Path) -> None:
    text = write_report(run).read_text()
    assert '<div class="value">4</div>' in text
    assert "last 9 at step 200" in text
    assert "count: 3" in text


def test_report_shows_the_last_picture_of_every_name(run: Path) -> None:
    for step, name in ((100, "c1"), (200, "c1"), (100, "latents_<i>")):
        save_grid(torch.rand(1, 1, 8, 8), run / "samples" / f"step_{step:08d}_{name}.png")
    text = write_report(run).read_text()
    assert "<figcaption>c1, step 200</figcaption>" in text
    assert "<figcaption>latents_&lt;i&gt;, step 100</figcaption>" in text
    assert text.count("data:image/png") == 3 + 2
    assert [step for step, _ in read_run(run).samples] == [0, 100, 200], "they are no sample grids"


def test_report_of_interrupted_run_says_how_far_it_came(run: Path) -> None:
    text = write_report(run).read_text()
    assert "<b>200 of 400</b>" in text
    assert "1 in the logs, left out" in text


def test_report_of_an_empty_run_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("algorithm: dcgan\n")
    assert "dcgan" in write_report(tmp_path).read_text()


def test_report_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run directory"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        write_report(tmp_path / "absent")


def test_frames_are_spread_over_the_run_with_first_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").mkdir()
    for step in range(100):
        (tmp_path / "samples" / f"step_{step:08d}.png").write_bytes(b"x" * 10)
    (tmp_path / "config.yaml").write_text("algorithm: dcgan\n")
    record = read_run(tmp_path)
    steps = [step for step, _ in choose_frames(record)]
    assert len(steps) == MAX_FRAMES
    assert (steps[0], steps[-1]) == (0, 99)
    gaps = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1
    monkeypatch.setattr("genlab.report.page.MAX_SAMPLE_BYTES", 55)
    assert len(choose_frames(record)) == 5


def test_log_lines_that_a_kill_cut_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n[1]\n{"step": 2}\n\n{"ste')
    assert read_json_lines(path) == ([{"step": 1}, {"step": 2}], 2)


def test_steps_taken_again_after_a_resume_stand_once(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 20, "loss": 1}\n{"step": 10, "loss": 5}\n{"step": 20, "loss": 2}\n')
    assert [(row["step"], row["loss"]) for row in read_run(tmp_path).rows] == [(10, 5), (20, 2)]


def test_best_score_follows_the_direction_of_the_metric() -> None:
    names, values = ("fid", "is", "kid[x]"), {1: 5.0, 2: 3.0, 3: math.inf}
    rows = [{"name": name, "step": step, "value": value} for name in names for step, value in values.items()]
    best = {name: pair[0]["step"] for name, pair in best_and_last(rows).items()}
    assert best == {"fid": 2, "is": 1, "kid[x]": 2}


@pytest.mark.parametrize(
    "low, high",
    [(0, 1), (0.001, 0.0013), (-5, 3), (7, 7), (0, 0), (1e8, 3e8), (-1e-9, 1e-9), (-3e-19, 2e-19), (1e3, 1e3 + 1e-9)],
)
def test_ticks_span_the_values_in_even_steps(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 12
    gaps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-3)


def test_a_curve_of_vanishing_numbers_is_drawn() -> None:
    chart = Chart("critic", [Series("wasserstein", [1, 2, 3], [0.0, 1.6e-18, -2e-19])])
    assert "1e-18" in render(chart)


def test_ticks_refuse_values_without_a_place() -> None:
    with pytest.raises(ValueError, match="finite"):
        nice_ticks(math.nan, 1.0)


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (0.00022, "2.2e-4"), (0.034, "0.034"), (12500, "12,500"), (3e8, "3e8")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_thinning_keeps_peaks_and_ends() -> None:
    values = [0.0] * 10_000
    values[1234], values[5678] = 9.0, -9.0
    steps, kept = thin(list(range(10_000)), values, limit=100)
    assert len(steps) <= 102
    assert (max(kept), min(kept)) == (9.0, -9.0)
    assert (steps[0], steps[-1]) == (0, 9999)


def test_running_mean_of_a_constant_is_the_constant_and_gaps_stay() -> None:
    smoothed = running_mean([2.0, math.nan, 2.0, 2.0], window=3)
    assert smoothed[0] == pytest.approx(2.0) and smoothed[3] == pytest.approx(2.0)
    assert math.isnan(smoothed[1])


def test_chart_lifts_the_pen_at_values_that_are_not_finite() -> None:
    svg = render(Chart("loss", [Series("loss", [1, 2, 3, 4], [1.0, math.nan, 2.0, 3.0])]))
    path = re.search(r'class="line"[^>]* d="([^"]*)"', svg).group(1)
    assert path.count("M") == 2 and path.count("L") == 1
    assert "no finite value yet" in render(Chart("loss", [Series("loss", [1], [math.inf])]))


def test_curves_show_each_measurement_once(run: Path) -> None:
    record = read_run(run)
    names = [series.name for chart in plan_charts(record) for series in chart.series]
    assert sorted(names) == sorted([f"frechet[{EVIL}]", "learning_rate", "loss_d", "loss_g"])


def test_measurements_of_one_kind_share_a_chart() -> None:
    assert families(["real_logit", "fake_logit", "d_real", "d_loss", "penalty"]) == [
        ["real_logit", "fake_logit"],
        ["d_real", "d_loss"],
        ["penalty"],
    ]

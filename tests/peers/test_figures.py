"""Figures 2 and 3 show the numbers of their record, and are the same bytes each time."""

from pathlib import Path

import pytest
import table3

import metrics

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def results():
    return metrics.read_json(RESULTS / "results-ours.json")


def test_figure2_has_a_curve_for_each_encoder(results):
    panel = table3.figure2(results).axes[0]
    assert len(panel.lines) == len(results["alpha"]) == 2
    for line, curve in zip(panel.lines, results["alpha"].values(), strict=True):
        assert line.get_xydata().tolist() == [[point["alpha"], point["ndcg"]] for point in curve]


def test_figure3_has_a_bar_for_each_ranker_in_each_bucket_with_users(results):
    for panel, part in zip(table3.figure3(results).axes, table3.PANELS, strict=True):
        filled = [row for row in results[part] if row["users"]]
        heights = [[bar.get_height() for bar in bars] for bars in panel.containers]
        expected = [[row["ndcg"][name] for row in filled] for name in table3.BUCKET_ROWS]
        assert heights == expected
        labels = [label.get_text() for label in panel.get_xticklabels()]
        assert labels == [f"{row['bucket']} ({row['users']} users)" for row in filled]


@pytest.mark.parametrize("figure", ["figure2", "figure3"])
def test_the_recorded_figures_come_from_the_record_to_the_byte(results, figure, tmp_path):
    for name in ("first.svg", "second.svg"):
        table3.draw(getattr(table3, figure)(results), tmp_path / name)
        assert (tmp_path / name).read_bytes() == (RESULTS / f"{figure}.svg").read_bytes()

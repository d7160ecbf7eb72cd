"""Evidence curves on additions whose every count is known by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from raymedlt.enrichment.evidence import (
    MEASURES,
    Evidence,
    Verdicts,
    against_labels,
    curve,
    denials,
    evidence_of,
    human_floor,
)
from raymedlt.intervals import wilson
from raymedlt.schema import ADDITIONS, EDGES

FILLER = {"variant": 0, "position": 0, "sentence": "", "medoid": "", "sign": "normal", "purity": 1.0,
          "guard": "passed", "seed": 0, "version": ""}  # fmt: skip


def additions(*rows):
    """schema.ADDITIONS of (report, sentence key, cluster, support, confidence, lift, witness)."""
    names = ("report_id", "sentence_key", "cluster_id", "support", "confidence_min", "lift_lower", "witness")
    filled = [{**FILLER, **dict(zip(names, row, strict=True))} for row in rows]
    return pa.Table.from_pylist([{name: row.get(name) for name in ADDITIONS.names} for row in filled], ADDITIONS)


def edges(*rows):
    """schema.EDGES of (source, target, support, confidence, opposite)."""
    names = ("source", "target", "support", "confidence", "opposite")
    filled = [
        {"section": "findings", "lift": 1.0, "lift_lower": 0.5, **dict(zip(names, row, strict=True))} for row in rows
    ]
    return pa.Table.from_pylist(filled, EDGES)


# Cluster 0 is in 100 studies: 40 of them state cluster 8, 10 the opposite. Cluster 1: in 50, 10 and 20.
ARCS = edges((0, 8, 40, 0.4, 10), (1, 8, 10, 0.2, 20), (0, 9, 50, 0.5, 0), (8, 9, 60, 0.6, 90))


def test_share_of_opposites_is_the_mean_over_what_vouches():
    table = additions(
        ("a", "k", 8, 10, 0.2, 0.5, [0, 1, 9]),  # both clusters of the report vouch
        ("a", "k", 9, 50, 0.5, 0.9, [0, 8]),  # 8 was added beside it: it is no witness of the report's
        ("b", "k", 8, 40, 0.4, 0.7, [0, 5]),  # 5 has no arc to 8
        ("c", "k", 8, 0, 0.0, 0.0, []),  # a control
    )
    found = evidence_of(table, ARCS)
    assert found.opposite == pytest.approx([(0.1 + 0.4) / 2, 0.0, 0.1, 1.0])
    assert found.report.tolist() == [0, 0, 1, 2]
    assert found.support.tolist() == [10, 50, 40, 0]
    assert found.confidence == pytest.approx([0.2, 0.5, 0.4, 0])
    assert found.lift_lower == pytest.approx([0.5, 0.9, 0.7, 0])
    assert found.strength("opposite").argmax() == 1 == found.strength("lift_lower").argmax()


def verdicts_of(labels, scheme="openi_mesh", keys=("no pleural effusion", "the lungs are clear")):
    table = additions(*(("a", key, 8, 9, 0.1, 0.1, []) for key in keys))
    found = against_labels(table, {"a": labels}, scheme, {"a": "en"})
    return found.checkable.tolist(), found.wrong.tolist()


def test_labels_contradict_what_they_name():
    assert verdicts_of(["Opacity/lung/base/left", "Cardiomegaly"]) == ([True, True], [False, True])
    assert verdicts_of(["normal"]) == ([True, True], [False, False])
    assert verdicts_of(["Pleural Effusion"], "chexpert") == ([True, True], [True, False])


def test_reports_without_a_verdict_are_not_counted_as_normal():
    assert verdicts_of([]) == ([False, False], [False, False])
    assert verdicts_of(["No Indexing"]) == ([False, False], [False, False])


def test_what_no_label_speaks_of_is_not_checkable():
    assert verdicts_of(["Cardiomegaly"], "nih14", ("no scoliosis", "no pneumothorax")) == (
        [False, True],
        [False, False],
    )
    assert denials("no pneumothorax or effusion in the left lung", "en")


def example():
    """Four reports, five additions, of which one contradicts; the fifth report got none."""
    opposite = np.array([0.1, 0.3, 0.2, 0.4, 0.5])
    evidence = Evidence(np.array([0, 0, 1, 2, 3]), opposite, np.array([5.0, 4, 3, 2, 1]), 1 - opposite, opposite * 10)
    wrong = np.array([False, False, False, True, False])
    return evidence, Verdicts(np.array([True, True, False, True, True]), wrong)


def test_curve_by_hand():
    evidence, verdicts = example()
    points = curve(evidence, 5, verdicts)
    assert [point.limit for point in points] == [0.1, 0.2, 0.4, 0.5]
    assert [point.coverage for point in points] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [point.additions for point in points] == [1, 2, 4, 5]
    assert [point.checked for point in points] == [1, 1, 3, 4]
    assert [point.rate for point in points] == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert (points[-1].low, points[-1].high) == wilson(1, 4)


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_ends_at_the_run_itself(measure):
    evidence, verdicts = example()
    points = curve(evidence, 5, verdicts, measure)
    assert points[-1][1:] == curve(evidence, 5, verdicts)[-1][1:]
    coverages = [point.coverage for point in points]
    assert coverages == sorted(coverages)


def test_without_labels_the_rate_is_the_mean_share_of_opposites():
    evidence, _ = example()
    points = curve(evidence, 5, None)
    assert [point.rate for point in points] == pytest.approx([0.1, 0.15, 0.25, 0.3])
    assert all(math.isnan(point.low) and math.isnan(point.high) for point in points)


def test_ties_are_kept_or_dropped_together():
    same = np.full(100, 0.25)
    evidence = Evidence(np.arange(100), same, same, same, same)
    (point,) = curve(evidence, 200, None)
    assert (point.coverage, point.additions) == (0.5, 100)


def test_number_of_points_is_bounded():
    rising = np.linspace(0, 1, 5000)
    evidence = Evidence(np.arange(5000), rising, rising, rising, rising)
    points = curve(evidence, 5000, None, points=12)
    assert len(points) <= 13
    assert np.diff([point.coverage for point in points]) == pytest.approx(1 / 12, abs=0.001)


def test_nothing_added_gives_no_curve():
    evidence = evidence_of(ADDITIONS.empty_table(), ARCS)
    assert curve(evidence, 5, None) == []
    assert not against_labels(ADDITIONS.empty_table(), {}, "nih14", {}).wrong.any()


def test_human_floor_counts_normal_sentences_of_labelled_reports():
    reports = pa.table(
        {
            "findings": ["The lungs are clear. No effusion. There is cardiomegaly.", "The lungs are clear.", "Clear."],
            "labels": [["Opacity/lung", "Cardiomegaly"], ["No Indexing"], ["normal"]],
            "language": ["en"] * 3,
        }
    )
    wrong, checked = human_floor(reports.slice(0, 2), "openi_mesh")
    assert (wrong, checked) == (1, 2)

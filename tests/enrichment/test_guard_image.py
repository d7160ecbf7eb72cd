"""The second guard that looks: thresholds by split conformal prediction, verdicts, abstention, a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from enrichment_world import BONE, CONFIG, common_reports, learnt, report_table, text

from raymedlt.config import EnrichConfig, GuardConfig
from raymedlt.enrichment.guard.image import (
    ImageGuard,
    Scores,
    load_image_guard,
    read_scores,
    threshold,
    thresholds,
)
from raymedlt.enrichment.guard.second import fingerprints, second_guards
from raymedlt.enrichment.writing import write_reports
from raymedlt.errors import ConfigError, InputError

Row = tuple[str, str, float | None, float]  # image, class, label, probability


def table(rows: Sequence[Row], split: str = "validation", **columns: Sequence[Any]) -> pa.Table:
    image, name, label, probability = zip(*rows, strict=True)
    return pa.table(
        {
            "image_id": image, "patient_id": image, "split": [split] * len(rows), "class": name,
            "label": pa.array(label, pa.float64()), "probability": pa.array(probability, pa.float32()), **columns,
        }
    )  # fmt: skip


# thresholds


@pytest.mark.parametrize(
    ("positives", "alpha", "expected"),
    [
        ([0.9, 0.2, 0.5, 0.7], 0.2, 0.2),  # k = floor(.2 * 5) = 1
        ([0.9, 0.2, 0.5, 0.7], 0.4, 0.5),  # k = 2
        ([0.9, 0.2, 0.5, 0.7], 0.39, 0.2),
        ([0.9, 0.2, 0.5, 0.7], 0.8, 0.9),
        ([0.9, 0.2, 0.5, 0.7], 0.19, None),
        ([], 0.5, None),
        ([0.3] * 8, 0.1, None),  # 9/10 < 1
        ([0.3] * 9, 0.1, 0.3),  # the fewest positives that alpha = .1 can do with
    ],
)
def test_threshold_by_hand(positives: list[float], alpha: float, expected: float | None):
    assert threshold(positives, alpha) == expected


def test_the_rank_is_exact_where_floating_point_is_not():
    assert math.floor(0.29 * 100) == 28
    assert threshold(np.arange(1, 100), 0.29) == 29


def test_at_most_alpha_of_positive_studies_get_the_denial():
    """Over many draws of calibration and test: P(p < t) = k / (n + 1), whatever the distribution."""
    rng = np.random.default_rng(0)
    for n, alpha in ((19, 0.1), (47, 0.1), (30, 0.25)):
        passed = 0.0
        for _ in range(4000):
            limit = threshold(rng.beta(2, 1, n), alpha)
            assert limit is not None
            passed += limit**2  # the share of positives below it: the distribution function of beta(2, 1)
        share, exact = passed / 4000, math.floor(alpha * (n + 1)) / (n + 1)
        assert share == pytest.approx(exact, abs=0.006)  # four standard errors
        assert share <= alpha + 0.006


def test_ties_keep_the_promise():
    """Scores of a coarse classifier: p < t, never p <= t."""
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(2000):
        limit = threshold(rng.integers(1, 4, 29) / 4, 0.1)
        assert limit is not None
        shares.append(np.mean(np.array([0.25, 0.5, 0.75]) < limit))
    assert np.mean(shares) <= 0.1


def test_a_study_is_positive_by_any_image_and_counts_its_largest_probability():
    rows: list[Row] = [
        ("a1", "Mass", 1.0, 0.2), ("a2", "Mass", 0.0, 0.6), ("b1", "Mass", 1.0, 0.8), ("c1", "Mass", 0.0, 0.1),
        ("d1", "Mass", None, 0.01), ("a1", "Hernia", 0.0, 0.1),
    ]  # fmt: skip
    studies = ["a", "a", "b", "c", "d", "a"]
    found = thresholds(table(rows, study_id=studies), 0.4)  # positives a (.6) and b (.8), k = floor(.4 * 3) = 1
    assert found == {"Mass": pytest.approx(0.6), "Hernia": None}
    assert thresholds(table(rows), 0.4) == {"Mass": pytest.approx(0.2), "Hernia": None}  # each image a study


# verdicts

CLASSES = {"pleural_effusion": ("Effusion",), "lung_abnormality": ("Mass", "Nodule"), "rare": ("Hernia",)}
REPORT = {"report_id": "r", "study_id": "s", "image_ids": ["i1", "i2"]}


def guard_of(rows: Sequence[Row], limits: dict[str, float | None], **columns: Sequence[Any]) -> ImageGuard:
    return ImageGuard(Scores.of(table(rows, **columns)), limits, lambda finding: CLASSES.get(finding, ()))


LIMITS = {"Effusion": 0.5, "Mass": 0.5, "Nodule": 0.25, "Hernia": None}


@pytest.mark.parametrize(
    ("rows", "denied", "expected"),
    [
        ([("i1", "Effusion", None, 0.25)], ["pleural_effusion"], "passed"),
        ([("i1", "Effusion", None, 0.5)], ["pleural_effusion"], "image:Effusion"),  # at the threshold
        ([("i1", "Effusion", None, 0.1), ("i2", "Effusion", None, 0.9)], ["pleural_effusion"], "image:Effusion"),
        ([("i1", "Mass", None, 0.6), ("i1", "Nodule", None, 0.6)], ["lung_abnormality"], "image:Nodule"),
        ([("i1", "Mass", None, 0.1), ("i1", "Nodule", None, 0.1)], ["lung_abnormality"], "passed"),
        ([("i1", "Mass", None, 0.1)], ["lung_abnormality"], "abstained:no_score:Nodule"),
        ([("i9", "Effusion", None, 0.9)], ["pleural_effusion"], "abstained:no_score"),
        ([("i1", "Effusion", None, 0.1)], ["bone_abnormality"], "abstained:no_class:bone_abnormality"),
        ([("i1", "Effusion", None, 0.9)], ["bone_abnormality", "pleural_effusion"], "image:Effusion"),
        ([("i1", "Hernia", None, 0.99)], ["rare"], "abstained:few_positives:Hernia"),
    ],
)
def test_verdicts(rows: list[Row], denied: list[str], expected: str):
    assert guard_of(rows, LIMITS).verdict(denied, REPORT) == expected


def test_images_by_id_then_report_then_study():
    rows: list[Row] = [("x", "Effusion", None, 0.9), ("y", "Effusion", None, 0.1), ("i1", "Effusion", None, 0.2)]
    by_id = guard_of(rows, LIMITS, report_id=["r", "q", "q"], study_id=["t", "s", "t"])
    assert by_id.verdict(["pleural_effusion"], REPORT) == "passed"
    assert by_id.verdict(["pleural_effusion"], {**REPORT, "image_ids": []}) == "image:Effusion"
    assert by_id.verdict(["pleural_effusion"], {**REPORT, "image_ids": [], "report_id": "z"}) == "passed"
    nothing = {"image_ids": [], "report_id": "z", "study_id": "z"}
    assert by_id.verdict(["pleural_effusion"], nothing) == "abstained:no_score"


# files


def test_csv_and_parquet_say_the_same(tmp_path: Path):
    made = table([("0001", "Mass", 1.0, 0.25), ("0002", "Mass", None, 0.75)], study_id=["007", "008"])
    pq.write_table(made, tmp_path / "part.parquet")
    pacsv.write_csv(made, tmp_path / "scores.csv")
    (tmp_path / "folder").mkdir()
    pq.write_table(made.slice(0, 1), tmp_path / "folder" / "0.parquet")
    pq.write_table(made.slice(1), tmp_path / "folder" / "1.parquet")
    tables = [read_scores(str(tmp_path / name), "guard.scores") for name in ("part.parquet", "scores.csv", "folder")]
    for each in tables:
        assert each.to_pylist() == tables[0].to_pylist()
    assert tables[1]["image_id"].to_pylist() == ["0001", "0002"]  # ids are text


@pytest.mark.parametrize("wrong", [-0.3, 1.2, math.nan])
def test_cosines_are_not_probabilities(tmp_path: Path, wrong: float):
    pq.write_table(table([("i", "Mass", 1.0, 0.5), ("j", "Mass", 1.0, wrong)]), tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=r"1 of 2 probabilities are null or outside \[0, 1\]"):
        read_scores(str(tmp_path / "scores.parquet"), "guard.scores")


def test_errors_name_key_and_columns(tmp_path: Path):
    pq.write_table(pa.table({"image_id": ["i"], "probability": [0.5]}), tmp_path / "scores.parquet")
    with pytest.raises(
        InputError, match=r"guard\.scores lacks the columns \['patient_id', 'split', 'class', 'label'\]"
    ):
        read_scores(str(tmp_path / "scores.parquet"), "guard.scores")
    with pytest.raises(InputError, match=r"guard\.scores can't be read"):
        read_scores(str(tmp_path / "none.parquet"), "guard.scores")
    with pytest.raises(InputError, match="can't be read"):
        fingerprints(GuardConfig(scores=str(tmp_path / "none.parquet")))
    pq.write_table(table([("i", "Mass", None, 0.5)]), tmp_path / "scores.parquet")
    with pytest.raises(InputError, match="no row has a label"):
        load_image_guard(str(tmp_path / "scores.parquet"), None, 0.1, "nih14")
    with pytest.raises(ConfigError, match=r"guard\.calibration is given without guard\.scores"):
        second_guards(GuardConfig(calibration="somewhere.csv"))


# in a run: NIH's classes, through the real map


def scores_of(reports: pa.Table, effusion: Sequence[float], tmp_path: Path, positives: int = 19) -> GuardConfig:
    """Scores for the reports' images, and a calibration whose threshold for "Effusion" is 0.5 (k = 2 at alpha .1)."""
    rows: list[Row] = [
        (image, "Effusion", None, p)
        for images, p in zip(reports["image_ids"].to_pylist(), effusion, strict=True)
        for image in images
    ]
    pq.write_table(table(rows, split="train"), tmp_path / "scores.parquet")
    probabilities = [0.25, 0.5, *np.linspace(0.6, 0.9, 17)][:positives]
    calibration: list[Row] = [(f"c{n}", "Effusion", 1.0, float(p)) for n, p in enumerate(probabilities)]
    calibration += [(f"n{n}", "Effusion", 0.0, 0.01) for n in range(50)]
    pacsv.write_csv(table(calibration), tmp_path / "calibration.csv")
    return GuardConfig(scores=str(tmp_path / "scores.parquet"), calibration=str(tmp_path / "calibration.csv"))


def configured(guard: GuardConfig) -> EnrichConfig:
    return dataclasses.replace(CONFIG, guard=guard)


def test_a_run_refuses_what_the_image_shows(tmp_path: Path):
    knowledge, _ = learnt(report_table(common_reports(120)))
    images = [["a"], ["b", "c"], ["d"], []]
    reports = report_table([text(BONE[0])] * 4, image_ids=images)
    guard = scores_of(reports, [0.49, 0.5, 0.9, 0.9], tmp_path)
    result = write_reports(knowledge, reports, configured(guard))
    refused = [(row["report_id"], row["cluster_id"], row["reason"]) for row in result.refusals.to_pylist()]
    assert refused == [("r001", 1, "image:Effusion"), ("r002", 1, "image:Effusion")]
    verdicts = {(row["report_id"], row["cluster_id"]): row["guard_image"] for row in result.additions.to_pylist()}
    assert verdicts["r000", 1] == "passed"
    assert verdicts["r003", 1] == "abstained:no_score"
    assert verdicts["r000", 0] == "abstained:no_score:Pneumothorax"  # a class that this table lacks
    assert ("r001", 1) not in verdicts
    assert {row["guard"] for row in result.additions.to_pylist()} == {"passed"}
    assert result.additions["guard_nli"].null_count == result.additions.num_rows


def test_order_and_neighbours_change_nothing(tmp_path: Path):
    knowledge, _ = learnt(report_table(common_reports(60)))
    reports = report_table(common_reports(20, seed=3), image_ids=[[f"i{n}"] for n in range(20)])
    config = configured(scores_of(reports, np.linspace(0, 1, 20).tolist(), tmp_path))
    whole = write_reports(knowledge, reports, config)
    parts = [write_reports(knowledge, reports.slice(n, 1), config) for n in reversed(range(20))][::-1]
    assert pa.concat_tables([part.additions for part in parts]).equals(whole.additions)
    assert pa.concat_tables([part.refusals for part in parts]).equals(whole.refusals)
    assert any(row["reason"].startswith("image:") for row in whole.refusals.to_pylist())


def test_too_few_positives_abstain(tmp_path: Path):
    knowledge, _ = learnt(report_table(common_reports(120)))
    reports = report_table([text(BONE[0])], image_ids=[["a"]])
    result = write_reports(knowledge, reports, configured(scores_of(reports, [0.99], tmp_path, positives=8)))
    verdicts = {row["cluster_id"]: row["guard_image"] for row in result.additions.to_pylist()}
    assert verdicts[1] == "abstained:few_positives:Effusion"


def test_labelled_validation_rows_calibrate_by_default(tmp_path: Path):
    rows: list[Row] = [(f"v{n}", "Mass", 1.0, (n + 1) / 10) for n in range(9)]
    other = table([("t", "Mass", 1.0, 0.01), ("u", "Mass", 1.0, 0.02)], split="train")
    pq.write_table(pa.concat_tables([table(rows), other]), tmp_path / "scores.parquet")
    guard = load_image_guard(str(tmp_path / "scores.parquet"), None, 0.2, "nih14")
    assert guard.limits == {"Mass": pytest.approx(0.2)}  # k = floor(.2 * 10) = 2


def test_the_real_map_names_classes():
    from raymedlt.reports.labels import classes_denied

    assert classes_denied("pleural_effusion", "nih14") == ("Effusion",)
    assert {"Mass", "Nodule"} <= set(classes_denied("lung_abnormality", "nih14"))
    assert classes_denied("acute_bone_abnormality", "nih14") == ()

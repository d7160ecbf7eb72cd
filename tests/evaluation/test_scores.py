from __future__ import annotations

import numpy as np
import pytest
from test_clusters import Dictionary

from raymedlt.errors import InputError
from raymedlt.evaluation.scores import evaluate, generations_table
from raymedlt.schema import GENERATIONS

REFERENCES = ["Left nodule. Heart is normal.", "No pleural effusion.", "Scoliosis.", "Cardiomegaly."]
COMPLETE = [
    "Left nodule. Scoliosis. Heart is normal.",
    "No pleural effusion. Emphysema.",
    "Scoliosis.",
    "Cardiomegaly.",
]
WRITTEN = ["Right nodule. Scoliosis.", "No pleural effusion.", "The heart is normal.", "Heart is normal."]
PATIENTS = ["a", "b", "b", "c"]


def test_every_score_by_hand() -> None:
    found = evaluate(WRITTEN, REFERENCES, PATIENTS, complete=COMPLETE, clusters=Dictionary())
    estimates = {name: found.scores[name].estimate for name in found.scores}
    assert found.per_report["report_f1"].tolist() == pytest.approx([2 / 3, 1, 0, 0])
    assert estimates["report_f1"] == pytest.approx(5 / 12)
    assert found.per_report["false_denials"].tolist() == [0, 0, 0, 1]
    assert found.per_report["words"].tolist() == [3, 3, 4, 3]
    assert found.per_report["sentence_f1"].tolist() == [0, 1, 0, 0]
    assert found.per_report["cluster_f1"].tolist() == [0, 1, 0, 0]
    assert estimates["micro_precision"] == 1 / 2
    assert estimates["micro_recall"] == 1 / 3
    assert estimates["micro_f1"] == pytest.approx(2 / 5)
    assert estimates["micro_f1_sides"] == 0
    assert estimates["macro_f1"] == pytest.approx(1 / 3)  # nodule; scoliosis and the heart are missed
    assert estimates["complete_micro_precision"] == 1
    assert estimates["complete_micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 0 + 3))
    assert found.per_report["complete_report_f1"].tolist() == pytest.approx([1, 0, 0, 0])
    assert [line.split(":")[0] for line in found.absent] == ["BERTScore", "CheXbert F1", "RadGraph F1"]
    by_finding = found.by_finding(complete=True)
    assert by_finding["scoliosis"] == {
        "precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "positives": 2, "claimed": 1,
    }  # fmt: skip
    assert np.isnan(by_finding["emphysema"]["precision"])


def test_intervals_and_two_systems() -> None:
    one = evaluate(REFERENCES * 10, REFERENCES * 10, [str(i) for i in range(40)])
    other = evaluate(WRITTEN * 10, REFERENCES * 10, [str(i) for i in range(40)])
    intervals = other.intervals(resamples=50, seed=0)
    assert set(intervals) == set(other.scores)
    assert intervals["micro_f1"].low < 0.4 < intervals["micro_f1"].high
    assert one.difference(other, "micro_f1", resamples=50, seed=0).estimate == pytest.approx(0.6)
    assert one.randomisation_test(other, "micro_f1", permutations=99, seed=0) == 0.01
    assert "Cluster F1: not computed" in one.absent[-1]
    assert "cluster_f1" not in one.scores


def test_table_of_generations() -> None:
    found = evaluate(WRITTEN, REFERENCES, PATIENTS)
    columns = {
        "report_id": ["1", "2", "3", "4"], "image_id": ["i"] * 4, "patient_id": PATIENTS, "split": ["test"] * 4,
        "reference": REFERENCES, "completion": WRITTEN,
    }  # fmt: skip
    table = generations_table(columns, found.per_report)
    assert table.schema == GENERATIONS
    first = {each["name"]: each["value"] for each in table["metrics"][0].as_py()}
    assert first == {name: pytest.approx(values[0]) for name, values in found.per_report.items()}
    assert generations_table(columns, {})["metrics"].to_pylist() == [[]] * 4


def test_errors() -> None:
    with pytest.raises(InputError, match=r"4 reports with \[4, 3\] references, patients and complete texts"):
        evaluate(WRITTEN, REFERENCES, PATIENTS[:3])
    with pytest.raises(InputError, match="0 reports"):
        evaluate([], [], [])
    found = evaluate(WRITTEN, REFERENCES, PATIENTS)
    with pytest.raises(InputError, match=r"the score 'bluh'. Expected: one of bleu, chrf"):
        found.interval("bluh", resamples=1, seed=0)
    with pytest.raises(InputError, match="give `complete`"):
        found.by_finding(complete=True)
    with pytest.raises(InputError, match="reports of different patients"):
        found.difference(evaluate(WRITTEN, REFERENCES, list("abcd")), "bleu", resamples=1, seed=0)

"""Hide and recover, in a world whose clusters are known by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from enrichment_world import CLUSTERS, CONFIG, common_reports, learnt, report_table, text

from raymedlt.config import ClusteringConfig
from raymedlt.enrichment.audit.recovery import (
    NOT_LINKED,
    NOTHING_LEFT,
    OFFERED,
    SAID,
    Recovery,
    fold_of,
    hide_and_recover,
    score,
)
from raymedlt.errors import InputError
from raymedlt.schema import RECOVERY


def outcomes(findings: str, **columns: list[str]) -> dict[str, str]:
    """Outcome of each hidden sentence of one unseen report."""
    knowledge, _ = learnt(report_table(common_reports()))
    rows = score(knowledge, report_table([findings], **columns), guarded=True).to_pylist()
    return {row["sentence_key"]: row["outcome"] for row in rows}


def test_a_sentence_that_the_others_vouch_for_is_offered():
    assert outcomes(text("no pneumothorax", "heart size is normal")) == {
        "no pneumothorax": OFFERED,
        "heart size is normal": OFFERED,
    }


def test_what_the_rest_says_already_counts_as_recovered():
    found = outcomes(text("no pneumothorax", "heart size is normal"), impression=["No pneumothorax."])
    assert found["no pneumothorax"] == SAID
    twice = outcomes(text("no pneumothorax", "there is no pneumothorax", "heart size is normal"))
    assert twice["no pneumothorax"] == SAID


def test_a_contradiction_with_the_rest_is_a_loss():
    found = outcomes(text("no pneumothorax", "heart size is normal"), impression=["Small pneumothorax."])
    assert found["no pneumothorax"] == "contradicts"
    assert found["heart size is normal"] == OFFERED


def test_a_lonely_sentence_has_nothing_to_vouch_for_it():
    assert outcomes(text("no pneumothorax")) == {"no pneumothorax": NOTHING_LEFT}


def test_without_links_nothing_is_offered():
    knowledge, _ = learnt(report_table(common_reports()))
    knowledge = dataclasses.replace(knowledge, forward=[0] * len(knowledge.forward))
    rows = score(knowledge, report_table([text("no pneumothorax", "heart size is normal")]), guarded=True)
    assert rows["outcome"].to_pylist() == [NOT_LINKED, NOT_LINKED]


def test_figures_leave_out_what_had_no_rest():
    rows = [("r", 0, "k", 0, True, word) for word in (OFFERED, OFFERED, SAID, NOT_LINKED, NOTHING_LEFT)]
    table = pa.table(dict(zip(RECOVERY.names, zip(*rows, strict=True), strict=True)), schema=RECOVERY)
    figures = Recovery(1, 1, table).figures()
    assert figures["hidden"] == 4
    assert (figures["recovered"]["part"], figures["offered"]["part"], figures["already_said"]["part"]) == (3, 2, 1)


def by_group(keys: list[str]) -> np.ndarray:
    """An axis for each cluster of the world."""
    axis = [next(c for c, group in enumerate(CLUSTERS) if key in group) for key in keys]
    return np.eye(len(CLUSTERS), dtype=np.float32)[axis]


NEAR = dataclasses.replace(CONFIG, clustering=ClusteringConfig(method="dbscan", eps=0.1, min_samples=1))


def test_patients_are_never_on_both_sides():
    texts = common_reports(200)
    patients = [f"p{number // 3}" for number in range(200)]
    reports = report_table(texts, patient_id=patients, impression=["No pneumothorax."] * 200)
    found = hide_and_recover(reports, NEAR, by_group)
    held = set(pc.unique(found.table["report_id"]).to_pylist())
    by_report = dict(zip(reports["report_id"].to_pylist(), patients, strict=True))
    assert {fold_of(by_report[report], 5) for report in held} == {0}
    assert found.scored == sum(fold_of(patient, 5) == 0 for patient in patients)
    assert found.fitted + found.scored == 200


def test_one_patient_cannot_be_split():
    with pytest.raises(InputError, match="reports of several patients"):
        hide_and_recover(report_table(common_reports(10), patient_id=["p"] * 10), NEAR, by_group)

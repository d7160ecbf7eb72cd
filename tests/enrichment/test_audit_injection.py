"""Error injection: the audit must see a guard that works, and one that doesn't."""

from __future__ import annotations

import re

import pyarrow.compute as pc
import pytest
from enrichment_world import CLUSTERS, common_reports, learnt, report_table, text

from raymedlt.enrichment import guard
from raymedlt.enrichment.audit.injection import GRAPH_DONOR, OWN_BESIDE, OWN_NORMAL, Injection, inject, verdict
from raymedlt.enrichment.guard import report_claims
from raymedlt.reports.labels import Labelled
from raymedlt.schema import INJECTIONS

SICK = [
    "There is a small left pleural effusion. Heart size is normal.",
    "Cardiomegaly is present. No pneumothorax.",
    "A pacemaker is in place. The aorta is normal.",
    "There is scoliosis. No pleural effusion. Trachea is midline.",
]


def injected(*, seed: int = 0, count: int = 1000, **columns: list[str]) -> Injection:
    findings = common_reports(60) + SICK * 5
    reports = report_table(findings, **columns)
    knowledge, _ = learnt(reports, clusters=[*CLUSTERS])
    return inject(knowledge, reports, count, seed)


def test_the_guard_refuses_known_errors_and_lets_the_truth_pass():
    figures = injected().figures()
    assert figures["reports"] == 80
    assert figures["errors_refused"]["whole"] > 40
    assert figures["errors_refused"]["value"] >= 0.95
    assert figures["good_refused"]["whole"] > 40
    assert figures["good_refused"]["value"] <= 0.1
    assert {OWN_NORMAL, OWN_BESIDE, GRAPH_DONOR} <= set(figures["good_by_kind"])


def test_a_guard_that_sleeps_is_found_out(monkeypatch: pytest.MonkeyPatch):
    awake = injected().figures()["errors_refused"]["value"]
    monkeypatch.setattr(guard, "verdict", lambda *_: None)
    figures = injected().figures()
    assert figures["errors_refused"]["value"] < awake - 0.3
    assert figures["good_refused"]["value"] == 0


def test_a_guard_that_refuses_all_is_found_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "verdict", lambda *_: "contradicts:everything")
    figures = injected().figures()
    assert figures["errors_refused"]["value"] == 1
    assert figures["good_refused"]["value"] == 1


def test_counts_add_up():
    found = injected()
    figures = found.figures()
    errors = found.table.filter(pc.invert(found.table["good"]))
    assert found.table.schema == INJECTIONS
    assert sum(share["whole"] for share in figures["errors_by_kind"].values()) == errors.num_rows
    assert sum(sum(reasons.values()) for reasons in figures["errors_by_reason"].values()) == errors.num_rows
    assert figures["good_refused"]["whole"] + figures["good_restating"]["part"] == figures["good_restating"]["whole"]
    rows = zip(found.table["report_id"].to_pylist(), found.table["kind"].to_pylist(), strict=True)
    assert len(set(rows)) == found.table.num_rows  # a report gets one offer of a kind


def test_a_strange_sentence_is_given_once_and_never_to_its_own_patient():
    reports = report_table(
        [f"There is a nodule number {number}. No mass above {number} mm." for number in range(30)] + common_reports(40),
        patient_id=[f"p{number // 2}" for number in range(70)],
    )
    knowledge, _ = learnt(reports)
    rows = inject(knowledge, reports, 1000, 0).table.to_pylist()
    strange = [row for row in rows if row["kind"] in ("other_patient_abnormal", "other_patient_number")]
    assert len(strange) > 20
    assert len({(row["kind"], row["sentence"]) for row in strange}) == len(strange)
    for row in strange:
        giver = int(re.findall(r"\d+", row["sentence"])[0])
        assert giver // 2 != int(row["report_id"][1:]) // 2


def test_seed_and_reports_decide():
    assert injected().table == injected().table
    assert injected().table != injected(seed=1).table
    assert injected(count=7).reports == 7
    drawn = set(injected(count=30).table["report_id"].to_pylist())
    assert set(injected(count=10).table["report_id"].to_pylist()) <= drawn


def test_the_writer_asks_in_this_order():
    claims = report_claims(["small pleural effusion"], "", "", "en")
    assert verdict("There is an effusion.", claims, "en") == "unfit:says_nothing"
    assert verdict("No left pleural effusion.", claims, "en") == "unfit:one_sided"
    assert verdict("No pleural effusion.", claims, "en") == "contradicts:pleural_effusion"
    assert verdict("No acute bony abnormality.", claims, "en") == ""


def test_what_labels_contradict_is_not_taken_for_true():
    reports = report_table([text("no pleural effusion", "heart size is normal")] * 20 + common_reports(40))
    knowledge, _ = learnt(reports)
    ids = reports["report_id"].to_pylist()[:20]
    labels = dict.fromkeys(ids, frozenset({Labelled("pleural_effusion", "")}))

    def hidden(**more: object) -> set[str]:
        rows = inject(knowledge, reports, 1000, 0, **more).table.to_pylist()  # type: ignore[arg-type]
        return {row["sentence"] for row in rows if row["kind"] == OWN_NORMAL and row["report_id"] in ids}

    assert hidden() == {"No pleural effusion.", "Heart size is normal."}
    assert hidden(labelled=labels) == {"Heart size is normal."}

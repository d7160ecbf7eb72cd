"""What is learnt: votes on signs, purity, second chances, donors, vetoes."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
from enrichment_world import (
    BONE,
    CLUSTERS,
    CONFIG,
    EFFUSION,
    HEART,
    LARGE_HEART,
    common_reports,
    learnt,
    report_table,
    text,
)

from raymedlt.clustering.neighbours import nearest_among
from raymedlt.config import EnrichConfig, GraphConfig
from raymedlt.enrichment.cliques import bits
from raymedlt.enrichment.knowledge import NOISE, SECOND_CHANCE, second_chances
from raymedlt.reports.assertion import judge


def one_cluster(*sentences: tuple[str, int], config: EnrichConfig = CONFIG):
    """The fit of one cluster that holds each sentence so many times."""
    findings = [text(key) for key, count in sentences for _ in range(count)]
    return learnt(report_table(findings), config, [[key for key, _ in sentences]])[1][0]


def test_the_world_is_what_its_tests_think():
    for group in CLUSTERS[:6]:
        assert {judge(key).sign for key in group} == {"normal"}
    assert {judge(key).sign for key in LARGE_HEART} == {"abnormal"}


def test_a_clean_cluster():
    fit = one_cluster(("no pleural effusion", 3), ("no effusion", 2))
    assert (fit.cluster_signs, fit.purity.tolist()) == (["normal"], [1.0])
    assert fit.signs == ["normal", "normal"]


def test_votes_are_weighted_by_occurrences():
    fit = one_cluster(("no pleural effusion", 19), ("there is a pleural effusion", 1))
    assert fit.cluster_signs == ["normal"]
    assert fit.purity[0] == pytest.approx(0.95)


def test_below_the_purity_a_cluster_is_mixed():
    fit = one_cluster(("no pleural effusion", 18), ("there is a pleural effusion", 1))
    assert fit.cluster_signs == ["mixed"]
    assert fit.purity[0] == pytest.approx(18 / 19)
    loose = dataclasses.replace(CONFIG, graph=GraphConfig(min_purity=0.9))
    assert one_cluster(
        ("no pleural effusion", 18), ("there is a pleural effusion", 1), config=loose
    ).cluster_signs == ["normal"]  # fmt: skip


def test_neutral_sentences_abstain():
    fit = one_cluster(("no pleural effusion", 6), ("pleural spaces", 4))
    assert set(fit.signs) == {"normal", "neutral"}
    assert (fit.cluster_signs, fit.purity.tolist()) == (["normal"], [1.0])


def test_unless_there_is_little_else():
    fit = one_cluster(("no pleural effusion", 1), ("pleural spaces", 30))
    assert fit.cluster_signs == ["neutral"]
    assert fit.purity[0] == pytest.approx(30 / 31)


def test_mixed_clusters_donate_nothing():
    findings = [text("no pleural effusion", HEART[0])] * 6 + [text("there is a pleural effusion", HEART[0])] * 4
    knowledge, _ = learnt(
        report_table(findings), CONFIG, [["no pleural effusion", "there is a pleural effusion"], HEART]
    )
    assert knowledge.cluster_signs == ["mixed", "normal"]
    assert list(bits(knowledge.addable)) == [1]
    assert knowledge.donors[0] == ()
    assert not any(forward & 1 for forward in knowledge.forward)


# second chances

VECTORS = np.eye(4, dtype=np.float32)


def chance(cosine: float, sign: str, cluster_sign: str) -> int:
    """The cluster that a sentence at this cosine of a clustered one joins."""
    vectors = np.concatenate([VECTORS, np.array([[cosine, np.sqrt(1 - cosine**2), 0, 0]], np.float32)])
    core = np.array([0, -1, -1, -1, -1], np.int32)
    nearest, distance = nearest_among(vectors, np.array([4]), np.array([0]))
    return int(second_chances([sign], nearest, distance, core, [cluster_sign], 0.8)[0])


@pytest.mark.parametrize(
    ("sign", "cluster_sign", "label"),
    [
        ("normal", "normal", 0),
        ("abnormal", "normal", -1),
        ("neutral", "normal", -1),
        ("normal", "abnormal", -1),
        ("abnormal", "abnormal", 0),
        ("abnormal", "mixed", 0),
    ],
)
def test_a_second_chance_never_crosses_signs(sign: str, cluster_sign: str, label: int):
    assert chance(0.95, sign, cluster_sign) == label


@pytest.mark.parametrize(("cosine", "label"), [(0.81, 0), (0.79, -1)])
def test_a_second_chance_needs_the_cosine(cosine: float, label: int):
    assert chance(cosine, "normal", "normal") == label


def test_second_chances_in_a_fit():
    findings = [*common_reports(), text("no pleural effusion at all"), text("a tiny pleural effusion is there")]
    near = {
        key: ("no pleural effusion", 0.9) for key in ("no pleural effusion at all", "a tiny pleural effusion is there")
    }
    _, (fit, _) = learnt(report_table(findings), CONFIG, CLUSTERS, near)
    of = dict(zip(fit.section.keys, zip(fit.labels.tolist(), fit.assigned, strict=True), strict=True))
    assert of["no pleural effusion at all"] == (1, SECOND_CHANCE)
    assert of["a tiny pleural effusion is there"] == (-1, NOISE)
    paper = dataclasses.replace(CONFIG, policy="paper")
    _, (fit, _) = learnt(report_table(findings), paper, CLUSTERS, near)
    assert SECOND_CHANCE not in fit.assigned


# donors, arcs, vetoes


def test_unfit_members_are_not_donors():
    extra = "no pleural effusion larger than 5 mm"
    findings = [*common_reports(), *[text(extra)] * 3]
    clusters = [[*group, extra] if group is EFFUSION else group for group in CLUSTERS]
    for policy, donated in (("safe", False), ("paper", True)):
        config = dataclasses.replace(CONFIG, policy=policy)
        knowledge, _ = learnt(report_table(findings), config, clusters)
        donors = {knowledge.keys[number] for group in knowledge.donors[1] for number in group.members}
        assert set(EFFUSION) <= donors
        assert (extra in donors) is donated


@pytest.mark.parametrize("policy", ["safe", "strict", "paper"])
def test_members_of_another_sign_are_not_donors(policy: Literal["safe", "strict", "paper"]):
    odd = "there is a pleural effusion"
    findings = [*common_reports(200), text(odd)]
    clusters = [[*group, odd] if group is EFFUSION else group for group in CLUSTERS]
    knowledge, _ = learnt(report_table(findings), dataclasses.replace(CONFIG, policy=policy), clusters)
    assert knowledge.cluster_signs[1] == "normal"
    assert knowledge.label_of[odd] == 1
    donors = {knowledge.keys[number] for group in knowledge.donors[1] for number in group.members}
    assert donors == set(EFFUSION)


def test_arcs_count_studies_not_reports():
    """Eight reports of four studies, each study seen from two sides: support 4, not 8."""
    findings = [text(HEART[0], BONE[0])] * 8
    studies = [f"s{number // 2}" for number in range(8)]
    knowledge, _ = learnt(report_table(findings, study_id=studies), CONFIG, [HEART, BONE])
    assert knowledge.arcs.support.tolist() == [4, 4]
    assert knowledge.arcs.confidence.tolist() == [1.0, 1.0]


def test_forward_linked_and_rows_agree_with_the_arcs():
    knowledge, _ = learnt(report_table(common_reports()))
    arcs = set(zip(knowledge.arcs.source.tolist(), knowledge.arcs.target.tolist(), strict=True))
    assert len(arcs) == 30
    assert (
        {(u, c) for u, targets in enumerate(knowledge.forward) for c in bits(targets)} == arcs == set(knowledge.arc_of)
    )
    for u in range(len(knowledge.linked)):
        assert set(bits(knowledge.linked[u])) == {c for c in range(6) if (u, c) in arcs and (c, u) in arcs}


def test_opposites_are_counted_in_both_sections():
    findings = [text(HEART[0], BONE[0])] * 5 + [text(BONE[0], LARGE_HEART[0])] * 2 + [text(BONE[0])]
    reports = report_table(findings, impression=[""] * 7 + ["Cardiomegaly."])
    knowledge, _ = learnt(reports, CONFIG, [HEART, BONE, LARGE_HEART])
    row = knowledge.arc_of[1, 0]  # bone -> heart
    assert knowledge.arcs.support[row] == 5
    assert knowledge.arcs.opposite[row] == 3


def test_a_missing_arc_is_a_veto_only_where_chance_would_have_shown_the_pair():
    """Heart 20 of 40, bone 10 of 40, never together: chance expects 5. Trachea 3 of 40: it can't tell."""
    findings = [text(HEART[0])] * 20 + [text(BONE[0])] * 10 + [text("the trachea is midline")] * 3 + [text("odd")] * 7
    clusters = [HEART, BONE, ["the trachea is midline"]]
    knowledge, _ = learnt(report_table(findings), CONFIG, clusters)
    assert knowledge.forward == [0, 0, 0]
    own = [1 << u for u in range(3)]
    assert knowledge.veto[0] & ~own[0] == 0b010
    assert knowledge.veto[1] & ~own[1] == 0b001
    assert knowledge.veto[2] & ~own[2] == 0
    for config in (
        dataclasses.replace(CONFIG, graph=GraphConfig(veto_expected=0)),
        dataclasses.replace(CONFIG, policy="strict"),
    ):
        strict, _ = learnt(report_table(findings), config, clusters)
        assert strict.veto[2] & ~own[2] == 0b011

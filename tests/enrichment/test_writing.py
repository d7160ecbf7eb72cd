"""Valid sets, draws, provenance, controls and policies, in a world whose clusters are known."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from enrichment_world import (
    AORTA,
    BONE,
    CLUSTERS,
    CONFIG,
    EFFUSION,
    HEART,
    LARGE_HEART,
    PNEUMOTHORAX,
    TRACHEA,
    common_reports,
    learnt,
    report_table,
    text,
)

from raymedlt.config import EnrichConfig, WritingConfig
from raymedlt.enrichment import writing
from raymedlt.enrichment.cliques import bits, maximal_cliques
from raymedlt.enrichment.guard import Claims
from raymedlt.enrichment.knowledge import Knowledge
from raymedlt.enrichment.text import strip_additions
from raymedlt.enrichment.writing import Written, offer, write_reports
from raymedlt.reports.sentences import sentence_key, split_sentences


def configured(**changes: Any) -> EnrichConfig:
    return dataclasses.replace(CONFIG, **changes)


def written(reports: pa.Table, config: EnrichConfig = CONFIG) -> tuple[Knowledge, Written]:
    knowledge, _ = learnt(reports, config)
    return knowledge, write_reports(knowledge, reports, config)


def rows(table: pa.Table) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = table.to_pylist()
    return result


# the vectors of the specification


def spec_knowledge(policy: str) -> Knowledge:
    """Clusters 0..5 linked 0-1, 0-2, 1-2, 0-3, 1-3, 2-3, 0-4, 1-4, 0-5 by five studies each."""
    links = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (0, 5)]
    findings = [text(CLUSTERS[a][0], CLUSTERS[b][0]) for a, b in links for _ in range(5)]
    return learnt(report_table(findings), configured(policy=policy), CLUSTERS[:6])[0]


@pytest.mark.parametrize("policy", ["strict", "paper"])
def test_spec_vector_valid_sets(policy: str):
    knowledge = spec_knowledge(policy)
    found = offer(knowledge, [CLUSTERS[0][0], CLUSTERS[1][0]], Claims())
    assert list(bits(found.clusters)) == [0, 1]
    assert sorted(found.passing) == [2, 3, 4]
    sets, complete = maximal_cliques(knowledge.linked, found.offered, 100)
    assert complete
    assert [sorted(bits(clique)) for clique in sets] == [[2, 3], [4]]


def test_spec_vector_both_sets_are_drawn_about_equally():
    knowledge = spec_knowledge("strict")
    report = report_table([text(CLUSTERS[0][0], CLUSTERS[1][0])] * 200)
    added = write_reports(knowledge, report, configured(policy="strict")).additions
    drawn: dict[str, set[int]] = {}
    for row in rows(added):
        drawn.setdefault(row["report_id"], set()).add(row["cluster_id"])
    counts = Counter(frozenset(chosen) for chosen in drawn.values())
    assert set(counts) == {frozenset({2, 3}), frozenset({4})}
    assert 70 <= counts[frozenset({4})] <= 130  # uniform over sets, not over clusters: 200/2, four standard deviations


def test_arcs_in_one_direction_link_only_in_the_paper():
    """0 -> 1 without 1 -> 0, as when cluster 1 is so common that 0 is a thousandth of its company."""
    knowledge = spec_knowledge("strict")
    one_way = dataclasses.replace(knowledge, linked=[0] * 6)
    assert [sorted(bits(c)) for c in maximal_cliques(one_way.linked, 0b011100, 9)[0]] == [[2], [3], [4]]


# appending


def test_additions_stand_behind_the_original_and_come_off_again():
    endings = ("", ".", " ", "\n", ". ")
    findings = common_reports() + [f"{HEART[0]}{ending}" for ending in endings]
    _, result = written(report_table(findings))
    assert result.summary["enriched"] > 20
    for row in rows(result.enriched):
        assert row["enriched_findings"].startswith(row["findings"])
        assert strip_additions(row["findings"], row["enriched_findings"]) == row["findings"]
    assert [row["status"] for row in rows(result.enriched)[-5:]] == ["enriched"] * 5


def test_the_tables_tell_the_same_story():
    _, result = written(report_table(common_reports()), configured(variants=2))
    for row in rows(result.enriched):
        own = [
            other for other in rows(result.additions)
            if (other["report_id"], other["variant"]) == (row["report_id"], row["variant"])
        ]  # fmt: skip
        assert [other["position"] for other in own] == list(range(row["added"]))
        behind = row["enriched_findings"][len(row["findings"]) :]
        assert behind.strip() == " ".join(other["sentence"] for other in own)
        assert (row["status"] == "enriched") == (row["added"] > 0) == (row["why_unchanged"] == "")


def test_rows_are_sorted():
    _, result = written(report_table(common_reports()[::-1]), configured(variants=3))
    order = [(row["report_id"], row["variant"]) for row in rows(result.enriched)]
    assert order == sorted(order)
    positions = [(row["report_id"], row["variant"], row["position"]) for row in rows(result.additions)]
    assert positions == sorted(positions)


def test_what_is_added_is_new_normal_and_unrepeated():
    knowledge, result = written(report_table(common_reports()))
    said = {
        row["report_id"]: {knowledge.label_of[sentence_key(s)] for s in split_sentences(row["findings"])}
        for row in rows(result.enriched)
    }
    seen: set[tuple[str, int]] = set()
    for row in rows(result.additions):
        assert row["cluster_id"] not in said[row["report_id"]]
        assert row["sign"] == "normal"
        assert (row["report_id"], row["cluster_id"]) not in seen
        seen.add((row["report_id"], row["cluster_id"]))
        assert knowledge.label_of[row["sentence_key"]] == row["cluster_id"]
        assert sentence_key(row["sentence"]) == row["sentence_key"]


def test_every_donor_of_a_cluster_is_drawn_sooner_or_later():
    knowledge, _ = learnt(report_table(common_reports(200)))
    result = write_reports(knowledge, report_table([text(BONE[0], TRACHEA[0])] * 200), CONFIG)
    drawn = {row["sentence_key"] for row in rows(result.additions)}
    assert set(PNEUMOTHORAX + EFFUSION + HEART + AORTA) == drawn


# provenance


def test_support_and_confidence_are_the_weakest_over_the_reports_clusters():
    findings = common_reports(60)
    knowledge, result = written(report_table(findings))
    sets = {
        f"r{i:03d}": {knowledge.label_of[sentence_key(s)] for s in split_sentences(f)} for i, f in enumerate(findings)
    }
    assert result.additions.num_rows > 30
    for row in rows(result.additions):
        own, c = sets[row["report_id"]], row["cluster_id"]
        together = {u: sum({u, c} <= held for held in sets.values()) for u in own}
        held = {u: sum(u in other for other in sets.values()) for u in own}
        assert min(together.values()) > 3  # every pair of these clusters has an arc
        assert row["support"] == min(together.values())
        assert row["confidence_min"] == pytest.approx(min(together[u] / held[u] for u in own), rel=1e-6)
        assert own <= set(row["witness"])
        assert c not in row["witness"]
        others = {
            other["cluster_id"] for other in rows(result.additions)
            if other["report_id"] == row["report_id"] and other["cluster_id"] != c
        }  # fmt: skip
        assert set(row["witness"]) == own | others
        assert row["guard"] == "passed"
        assert row["purity"] == 1.0
        assert row["medoid"] == knowledge.texts[knowledge.medoids[c]]


# determinism


def test_order_of_reports_changes_nothing():
    reports = report_table(common_reports())
    shuffled = reports.take(np.random.default_rng(0).permutation(reports.num_rows))
    for config in (CONFIG, configured(policy="strict", variants=2), configured(control="random")):
        one, other = written(reports, config)[1], written(shuffled, config)[1]
        assert one.enriched.equals(other.enriched)
        assert one.additions.equals(other.additions)
        assert one.refusals.equals(other.refusals)
        assert one.summary == other.summary


def test_a_report_does_not_depend_on_its_neighbours():
    reports = report_table(common_reports())
    knowledge, whole = written(reports)
    halves = [write_reports(knowledge, part, CONFIG) for part in (reports[::1].slice(0, 17), reports.slice(17))]
    assert pa.concat_tables([half.additions for half in halves]).equals(whole.additions)


def test_the_seed_decides():
    reports = report_table(common_reports())
    first, again, other = (written(reports, configured(seed=seed))[1].enriched for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first["enriched_findings"].equals(other["enriched_findings"])


def test_variants_are_draws_of_their_own():
    reports = report_table(common_reports())
    three = rows(written(reports, configured(variants=3))[1].enriched)
    one = rows(written(reports)[1].enriched)
    assert len(three) == 3 * len(one)
    assert [row for row in three if row["variant"] == 0] == one
    texts = {(row["report_id"], row["variant"]): row["enriched_findings"] for row in three}
    assert sum(texts[f"r{i:03d}", 0] != texts[f"r{i:03d}", 1] for i in range(40)) > 10


# limits


@pytest.mark.parametrize("most", [1, 2])
def test_max_added_keeps_the_strongest(most: int):
    reports = report_table([*common_reports(60), text(BONE[0])])
    whole = rows(written(reports)[1].additions)
    cut = rows(written(reports, configured(writing=WritingConfig(max_added=most)))[1].additions)
    per_report = Counter(row["report_id"] for row in cut)
    assert max(per_report.values()) == most
    assert max(Counter(row["report_id"] for row in whole).values()) > most
    for report_id in per_report:
        supports = sorted((row["support"] for row in whole if row["report_id"] == report_id), reverse=True)
        assert [row["support"] for row in cut if row["report_id"] == report_id] == supports[:most]


def test_reports_cut_off_are_counted_once():
    knowledge = spec_knowledge("strict")
    reports = report_table([text(CLUSTERS[0][0], CLUSTERS[1][0])] * 3 + [text("nothing known")])
    for most, cut in ((1, 3), (2, 0)):
        config = configured(policy="strict", variants=4, writing=WritingConfig(max_cliques=most))
        assert write_reports(knowledge, reports, config).summary["cut_off"] == cut


# what is left alone


def test_only_training_reports_are_enriched():
    splits = ["train"] * 40 + ["validation"] * 5 + ["test"] * 5
    findings = common_reports(40) + common_reports(10, seed=9)
    reports = report_table(findings, split=splits)
    for control in ("semantic", "random", "paraphrase", "none"):
        _, result = written(reports, configured(control=control))
        rest = [row for row in rows(result.enriched) if row["split"] != "train"]
        assert len(rest) == 10
        assert all(row["enriched_findings"] == row["findings"] for row in rest)
        assert {row["why_unchanged"] for row in rest} == {writing.OTHER_SPLIT}
        assert not {row["report_id"] for row in rows(result.additions)} & {row["report_id"] for row in rest}


def test_reports_in_another_language_are_left_alone():
    findings = [*common_reports(40), text(HEART[0]), text(HEART[0])]
    languages = ["en"] * 40 + ["es", "en"]
    _, result = written(report_table(findings, language=languages))
    spanish, english = rows(result.enriched)[-2:]
    assert english["added"] > 0
    assert (spanish["added"], spanish["why_unchanged"]) == (0, writing.OTHER_LANGUAGE)


def test_counts_add_up():
    findings = [*common_reports(40), "", text("odd words"), text(LARGE_HEART[0]), text(*(g[0] for g in CLUSTERS[:6]))]
    splits = ["train"] * 35 + ["test"] * 5 + ["train"] * 4
    reports = report_table(findings, split=splits, impression=["Clear."] * 44)
    for control in ("semantic", "random", "paraphrase", "none"):
        for policy in ("safe", "strict", "paper"):
            _, result = written(reports, configured(control=control, policy=policy, variants=2))
            summary = result.summary
            assert summary["reports"] == 44
            assert summary["enriched"] + sum(summary["unchanged"].values()) == 44
            assert sum(summary["added"].values()) == summary["enriched"]
            first = [row for row in rows(result.enriched) if row["variant"] == 0]
            assert Counter(row["status"] for row in first)["enriched"] == summary["enriched"]
            assert Counter(row["why_unchanged"] for row in first if row["why_unchanged"]) == summary["unchanged"]
            assert sum(row["added"] for row in rows(result.enriched)) == result.additions.num_rows
            assert sum(summary["refused"].values()) == result.refusals.num_rows


def test_reasons():
    findings = [*common_reports(40), "", text("odd words"), text(LARGE_HEART[0]), text(*(g[0] for g in CLUSTERS[:6]))]
    _, result = written(report_table(findings, impression=["Clear."] * 44))
    reasons = [row["why_unchanged"] for row in rows(result.enriched)[-4:]]
    assert reasons == [writing.NO_FINDINGS, writing.ALL_NOISE, writing.NOTHING_FITS, writing.NOTHING_FITS]


# guard and policies


def test_the_guard_refuses_and_says_why():
    findings = [*common_reports(60), text(BONE[0])]
    impressions = [""] * 60 + ["Cardiomegaly. No pneumothorax."]
    _, result = written(report_table(findings, impression=impressions))
    refused = {row["cluster_id"]: row["reason"] for row in rows(result.refusals) if row["report_id"] == "r060"}
    assert refused == {0: "restates:pneumothorax", 2: "contradicts:cardiomegaly"}
    added = {row["cluster_id"] for row in rows(result.additions) if row["report_id"] == "r060"}
    assert added == {1, 4, 5}


def test_the_guard_may_refuse_all():
    impression = "Cardiomegaly. Pneumothorax. Effusion. Tracheal deviation. Tortuous aorta."
    findings = [*common_reports(60), text(BONE[0])]
    _, result = written(report_table(findings, impression=[""] * 60 + [impression]))
    last = rows(result.enriched)[-1]
    assert (last["added"], last["why_unchanged"]) == (0, writing.ALL_REFUSED)


def test_the_paper_has_no_guard_and_skips_reports_with_noise():
    findings = [*common_reports(60), text(BONE[0]), text(BONE[0], "odd words")]
    impressions = [""] * 60 + ["Cardiomegaly."] * 2
    reports = report_table(findings, impression=impressions)
    _, paper = written(reports, configured(policy="paper"))
    clean, noisy = rows(paper.enriched)[-2:]
    assert clean["added"] == 5  # the heart too, though the impression calls it large
    assert (noisy["added"], noisy["why_unchanged"]) == (0, writing.HAS_NOISE)
    assert paper.refusals.num_rows == 0
    assert {row["guard"] for row in rows(paper.additions)} == {"off"}
    _, safe = written(reports)
    # The guard reads "odd words" too, can't, and so lets no general statement ("the aorta is normal") pass beside them.
    assert [row["added"] for row in rows(safe.enriched)[-2:]] == [4, 3]


# controls


def test_control_none_changes_nothing():
    _, result = written(report_table(common_reports()), configured(control="none"))
    assert result.additions.num_rows == 0
    assert result.enriched["findings"].equals(result.enriched["enriched_findings"])
    assert result.summary["unchanged"] == {writing.CONTROL_NONE: 40}


def test_control_random_adds_as_many_sentences_of_any_sign():
    findings = [*common_reports(60), *[text(HEART[0], LARGE_HEART[i % 3]) for i in range(3)]]
    reports = report_table(findings)
    semantic, chance = (written(reports, configured(control=control))[1] for control in ("semantic", "random"))
    assert chance.enriched["added"].equals(semantic.enriched["added"])
    assert {row["cluster_id"] for row in rows(chance.additions)} == set(range(7))
    assert not chance.additions["sentence_key"].equals(semantic.additions["sentence_key"])
    assert {row["guard"] for row in rows(chance.additions)} == {"off"}


def test_control_paraphrase_says_the_same_in_other_words():
    reports = report_table([*common_reports(40), text(HEART[0], "odd words"), text("odd words"), "odd  words"])
    knowledge, result = written(reports, configured(control="paraphrase", variants=2))
    changed = 0
    for row in rows(result.enriched):
        before, after = (
            [knowledge.label_of[sentence_key(s)] for s in split_sentences(row[name])]
            for name in ("findings", "enriched_findings")
        )
        assert before == after
        assert row["added"] == 0
        changed += row["findings"] != row["enriched_findings"]
    assert changed > 40
    assert result.additions.num_rows == 0  # nothing was added, so nothing has a provenance
    untouched = [row for row in rows(result.enriched) if row["report_id"] in ("r041", "r042")]
    assert {row["why_unchanged"] for row in untouched} == {writing.ALL_NOISE}
    assert all(row["findings"] == row["enriched_findings"] for row in untouched)

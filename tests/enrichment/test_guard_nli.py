"""The second guard that reads, with a real (small) model trained here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrichment_world import AORTA, CONFIG, PNEUMOTHORAX, TRACHEA, common_reports, learnt, report_table, text
from nli_world import ABSENT, LABELS, NOUNS, PRESENT, made_up, relabelled, templated, trained

from raymedlt.config import EnrichConfig, GuardConfig
from raymedlt.enrichment import writing
from raymedlt.enrichment.guard.nli import NliGuard, NliModel, Wishes
from raymedlt.enrichment.guard.second import OFF, SecondGuards, fingerprints, second_guards
from raymedlt.enrichment.writing import write_reports
from raymedlt.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("nli"), templated() * 3 + made_up())


@pytest.fixture(scope="module")
def model(folder: str) -> NliModel:
    return NliModel(folder)


def pairs_of_nouns() -> list[tuple[str, str]]:
    return [(PRESENT[0].format(one), ABSENT[1].format(other)) for one in NOUNS for other in NOUNS]


def test_a_contradiction_is_likely_and_another_statement_is_not(model: NliModel):
    found = model.contradiction(pairs_of_nouns())
    same = np.array([one == other for one in NOUNS for other in NOUNS])
    assert found[same].min() > 0.5
    assert found[~same].max() < 0.5


def test_agreement_is_no_contradiction(model: NliModel):
    assert model.contradiction([("no effusion.", "there is no effusion.")])[0] < 0.5


def test_order_matters_to_the_reader_not_to_the_result(model: NliModel):
    pairs = pairs_of_nouns()
    shuffled = np.random.default_rng(0).permutation(len(pairs))
    assert np.array_equal(model.contradiction([pairs[n] for n in shuffled]), model.contradiction(pairs)[shuffled])


def test_bits_do_not_depend_on_the_batch(folder: str, model: NliModel):
    pairs = [*pairs_of_nouns(), ("the trachea is midline.", "no pneumothorax.")]
    whole = model.contradiction(pairs)
    for size in (1, 3):
        assert np.array_equal(NliModel(folder, size).contradiction(pairs), whole)
    assert np.array_equal(np.concatenate([model.contradiction([pair]) for pair in pairs]), whole)


def test_the_worst_sentence_of_the_report_decides(model: NliModel):
    nli = NliGuard(model)
    keys = ["there is a nodule", "a small effusion is seen"]
    alone = [nli.probability([key], "no effusion") for key in keys]
    assert nli.probability(keys, "no effusion") == max(alone) > 0.5 > min(alone)
    assert nli.probability([], "no effusion") == 0.0


def test_what_is_known_is_not_asked_again(folder: str):
    asked: list[int] = []

    class Counting(NliModel):
        def contradiction(self, pairs: Any) -> Any:
            asked.append(len(pairs))
            return super().contradiction(pairs)

    nli = NliGuard(Counting(folder))
    first = nli.probability(["known mass", "known edema"], "no mass")
    nli.compute([("known mass", "no mass"), ("known edema", "no mass"), ("known mass", "no mass"), ("a", "no mass")])
    assert nli.probability(["known mass", "known edema"], "no mass") == first
    assert asked == [2, 1]


# errors


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1", "LABEL_2"), ("entailment", "neutral", "denial")])
def test_unknown_labels_are_refused(folder: str, tmp_path: Path, labels: tuple[str, ...]):
    with pytest.raises(ConfigError, match="contradiction, entailment, neutral, in any case"):
        NliModel(relabelled(folder, tmp_path / "other", labels))


def test_labels_decide_not_their_order(folder: str, tmp_path: Path):
    swapped = NliModel(relabelled(folder, tmp_path / "other", (LABELS[2].upper(), LABELS[1], LABELS[0])))
    assert swapped.contradiction([("there is a mass.", "no mass.")])[0] < 0.5


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"names no folder with a config\.json"):
        NliModel(str(tmp_path))
    (tmp_path / "config.json").write_text('{"id2label": {}}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ConfigError, match="no safetensors"):
        fingerprints(GuardConfig(nli=str(tmp_path)))


# in a run


def configured(folder: str, **changes: Any) -> EnrichConfig:
    return dataclasses.replace(CONFIG, guard=GuardConfig(nli=folder, **changes))


def test_a_refused_donor_is_left_and_another_tried(folder: str):
    knowledge, _ = learnt(report_table(common_reports(120)))
    reports = report_table([text(TRACHEA[0])] * 60)
    before = write_reports(knowledge, reports, CONFIG)
    after = write_reports(knowledge, reports, configured(folder))
    drawn = {row["sentence_key"] for row in before.additions.to_pylist()}
    assert {*PNEUMOTHORAX, *AORTA} <= drawn
    rows = after.additions.to_pylist()
    left = {row["sentence_key"] for row in rows}
    assert not left & {*PNEUMOTHORAX[:2], *AORTA}
    assert sum(row["sentence_key"] == PNEUMOTHORAX[2] for row in rows) == 60  # the third of three tries
    assert left > {PNEUMOTHORAX[2]}


def test_a_cluster_without_a_passing_donor_is_refused_with_its_reason(folder: str):
    knowledge, _ = learnt(report_table(common_reports(120)))
    config = dataclasses.replace(configured(folder), variants=3)
    result = write_reports(knowledge, report_table([text(TRACHEA[0])] * 10), config)
    refused = [(row["report_id"], row["cluster_id"], row["reason"]) for row in result.refusals.to_pylist()]
    assert [each for each in refused if each[2].startswith("nli")] == [
        (f"r{n:03d}", 5, "nli:contradiction") for n in range(10)
    ]
    assert result.summary["refused"]["nli"] == 10
    assert sum(result.summary["refused"].values()) == result.refusals.num_rows


def test_provenance_holds_the_probability(folder: str):
    knowledge, _ = learnt(report_table(common_reports(120)))
    reports = report_table([text(TRACHEA[0])] * 5, impression=["Normal heart size."] * 5)
    off, on = (write_reports(knowledge, reports, config).additions for config in (CONFIG, configured(folder)))
    assert off["guard_nli"].null_count == off.num_rows
    assert set(off["guard_image"].to_pylist()) == {OFF}
    nli = NliGuard(NliModel(folder))
    for row in on.to_pylist():
        said = [TRACHEA[0], "normal heart size"]
        assert row["guard"] == "passed"
        assert row["guard_nli"] == np.float32(nli.probability(said, row["sentence_key"])) < 0.5


def test_off_changes_nothing_and_a_harmless_model_neither(folder: str):
    """A threshold that nothing reaches: the same draws as without the guard."""
    knowledge, _ = learnt(report_table(common_reports(60)))
    reports = report_table(common_reports(30, seed=5))
    off = write_reports(knowledge, reports, CONFIG)
    on = write_reports(knowledge, reports, configured(folder, nli_threshold=1.0))
    assert on.enriched.equals(off.enriched)
    assert on.refusals.equals(off.refusals)


def test_neighbours_and_order_change_nothing(folder: str):
    knowledge, _ = learnt(report_table(common_reports(60)))
    reports = report_table(common_reports(24, seed=5) + [text(TRACHEA[0])] * 4)
    whole = write_reports(knowledge, reports, configured(folder))
    for size in (1, 9):
        guards = SecondGuards(NliGuard(NliModel(folder, size)), None)  # nothing remembered
        parts = [
            write_reports(knowledge, reports.slice(start, size), configured(folder), guards).additions.to_pylist()
            for start in range(0, reports.num_rows, size)
        ]
        assert [row for part in parts for row in part] == whole.additions.to_pylist()


def test_all_refused_is_said(folder: str):
    findings = [text(TRACHEA[n % 2], AORTA[n % 2]) for n in range(12)]
    knowledge, _ = learnt(report_table(findings), clusters=[TRACHEA, AORTA])
    result = write_reports(knowledge, report_table([text(TRACHEA[0])]), configured(folder))
    row = result.enriched.to_pylist()[0]
    assert (row["status"], row["why_unchanged"]) == ("unchanged", writing.ALL_REFUSED)
    assert result.summary["unchanged"] == {writing.ALL_REFUSED: 1}
    assert result.summary["enriched"] == 0


def test_the_model_is_loaded_once_per_process(folder: str):
    config = GuardConfig(nli=folder)
    assert second_guards(config) is second_guards(GuardConfig(nli=folder))


def test_the_first_pass_lets_everything_pass():
    wishes = Wishes()
    assert wishes.probability(["a", "b"], "c") == 0.0
    assert wishes.pairs == {("a", "c"), ("b", "c")}


def test_the_paper_has_no_second_guard(folder: str):
    with pytest.raises(ConfigError, match="safe or strict with a second guard"):
        EnrichConfig(policy="paper", guard=GuardConfig(nli=folder))


def test_the_models_files_are_part_of_the_data(folder: str, tmp_path: Path):
    other = relabelled(folder, tmp_path / "other", LABELS[::-1])
    assert fingerprints(GuardConfig()) == []
    assert fingerprints(GuardConfig(nli=folder)) == fingerprints(GuardConfig(nli=folder))
    assert fingerprints(GuardConfig(nli=folder)) != fingerprints(GuardConfig(nli=other))

"""`enrich` from the outside: what it refuses, and what holds on real reports.

The real ones (OpenI) are read at run time from the torchxrayvision package and never stored.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from enrichment_world import common_reports, report_table

from raymedlt import schema
from raymedlt.config import ClusteringConfig, EmbeddingConfig, EnrichConfig
from raymedlt.enrichment import EnrichmentResult, enrich
from raymedlt.enrichment.memory import common_language, complete
from raymedlt.errors import InputError
from raymedlt.reports.assertion import judge
from raymedlt.reports.sentences import sentence_key, split_sentences

CONFIG = EnrichConfig(embedding=EmbeddingConfig(precision="float32"), workers=2, variants=2)
SMALL = EnrichConfig(
    embedding=EmbeddingConfig(precision="float32"),
    clustering=ClusteringConfig(min_cluster_size=2, min_samples=1),
    workers=1,
)

# completing a table


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"findings": ["x"]}, "report_id, and findings or impression"),
        ({"report_id": ["1"]}, "report_id, and findings or impression"),
        ({"report_id": ["1", "1"], "findings": ["x", "y"]}, "a report_id is given twice"),
        ({"report_id": ["1", None], "findings": ["x", "y"]}, "a report without a report_id"),
        ({"report_id": ["1"], "findings": ["x"], "split": ["holdout"]}, "the column split holds other words"),
    ],
)
def test_tables_that_are_refused(columns: dict[str, list[Any]], message: str):
    with pytest.raises(InputError, match=message):
        enrich(pa.table(columns), SMALL)


def test_error_messages_hold_no_cells():
    table = pa.table({"report_id": ["1"], "findings": ["x"], "split": ["The lungs are clear."]})
    with pytest.raises(InputError) as caught:
        enrich(table, SMALL)
    assert "lungs" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
def test_nothing_to_learn_from(split: str):
    empty = pa.table({"report_id": pa.array([], pa.string()), "findings": pa.array([], pa.string())})
    with pytest.raises(InputError, match="0 reports without a sentence to learn from"):
        enrich(empty, SMALL)
    blank = pa.table({"report_id": ["1"], "findings": [""], "split": [split]})
    with pytest.raises(InputError, match="1 reports without a sentence to learn from"):
        enrich(blank, SMALL)


def test_missing_columns_and_nulls_are_filled():
    table = pa.table(
        {
            "report_id": [7, 8],  # numbers become strings
            "findings": ["Clear lungs.", None],
            "impression": pa.array([None, None], pa.null()),
            "split": [None, "test"],
            "study_id": [None, "s"],
            "views": pa.array([["PA"], None]),
        }
    )
    whole = complete(table)
    assert whole.schema == schema.REPORTS
    assert whole.to_pylist() == [
        {
            "report_id": "7", "study_id": "7", "patient_id": "7", "split": "train", "findings": "Clear lungs.",
            "impression": "", "indication": "", "views": ["PA"], "image_ids": [], "labels": [], "language": "en",
        },
        {
            "report_id": "8", "study_id": "s", "patient_id": "s", "split": "test", "findings": "",
            "impression": "", "indication": "", "views": [], "image_ids": [], "labels": [], "language": "en",
        },
    ]  # fmt: skip


def test_a_report_without_patient_is_a_person_of_its_own():
    reports = report_table(["No effusion."] * 3, patient_id=["", None, "p"], study_id=["", "s", "s"])
    assert reports["patient_id"].to_pylist() == ["r000", "s", "p"]


def test_the_commonest_language():
    assert common_language(report_table(["a"] * 3, language=["es", "en", "es"])) == "es"
    assert common_language(report_table(["a"] * 2, language=["es", "en"])) == "en"


def test_a_language_without_rules_is_named():
    with pytest.raises(InputError, match="no assertion rules for the language 'fr'"):
        enrich(report_table(["Les poumons sont clairs."], language=["fr"]), SMALL)


# small tables, the real encoder


def test_spanish_reports_get_spanish_additions():
    sentences = ["Sin derrame pleural.", "Pulmones limpios.", "Silueta cardiaca normal.", "No se observa neumotorax."]
    findings = [" ".join(np.random.default_rng(i).permutation(sentences)[:3]) for i in range(30)]
    config = EnrichConfig(clustering=ClusteringConfig(method="kmeans", clusters=4))
    result = enrich(report_table(findings, language=["es"] * 30), config)
    assert result.additions.num_rows == 30
    assert set(result.additions["sentence"].to_pylist()) == set(sentences)


def test_impressions_alone_are_enough_to_run():
    table = pa.table({"report_id": [str(i) for i in range(8)], "impression": ["No acute disease."] * 8})
    result = enrich(table, SMALL)
    assert set(result.enriched["why_unchanged"].to_pylist()) == {"no findings"}
    assert result.models["findings"].assign(["Clear lungs."])[0].tolist() == [-1]


def test_one_report():
    result = enrich(pa.table({"report_id": ["1"], "findings": ["The lungs are clear."]}), SMALL)
    assert result.enriched["why_unchanged"].to_pylist() == ["no cluster"]


def test_shuffled_rows_and_workers_give_the_same_tables():
    reports = report_table(common_reports(60))
    one = enrich(reports, SMALL)
    order = np.random.default_rng(1).permutation(60)
    other = enrich(reports.take(order), EnrichConfig(**{**vars_of(SMALL), "workers": 2}))
    assert one.additions.num_rows > 0
    for name in ("enriched", "additions", "refusals", "sentences", "clusters", "edges"):
        assert getattr(one, name).equals(getattr(other, name)), name


def vars_of(config: EnrichConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


# real reports


@pytest.fixture(scope="module")
def openi() -> EnrichmentResult:
    """600 OpenI reports, one in ten of them validation and one in ten test."""
    try:
        distribution("torchxrayvision")
    except PackageNotFoundError:
        pytest.skip("torchxrayvision, which carries the reports, is not installed")
    from raymedlt.reports.readers import open_reader

    reader = open_reader(None, "openi")
    read = pa.concat_tables([table for unit in reader.units() for table in reader.read(unit)])
    reports = read.filter(pc.is_null(read["reason"])).select(schema.REPORTS.names)
    reports = reports.filter(pc.not_equal(reports["findings"], "")).slice(0, 600)
    split = pa.array([{8: "validation", 9: "test"}.get(i % 10, "train") for i in range(600)])
    return enrich(reports.set_column(reports.column_names.index("split"), "split", split), CONFIG)


def clusters_of(result: EnrichmentResult) -> dict[str, int]:
    findings = result.sentences.filter(pc.equal(result.sentences["section"], "findings"))
    return dict(zip(findings["sentence_key"].to_pylist(), findings["cluster_id"].to_pylist(), strict=True))


def held_by(row: dict[str, Any], label_of: dict[str, int]) -> set[int]:
    return {label_of.get(sentence_key(s), -1) for s in split_sentences(row["findings"])} - {-1}


def test_real_tables_have_their_schemas(openi: EnrichmentResult):
    for name in ("enriched", "additions", "refusals", "sentences", "clusters", "edges"):
        assert getattr(openi, name).schema == getattr(schema, name.upper()), name
    assert openi.enriched.num_rows == 1200
    assert openi.additions.num_rows > 300


def test_real_donors_are_fit_for_any_report(openi: EnrichmentResult):
    for row in openi.additions.to_pylist():
        assert not re.search(r"\d|xxx|__|[|=<>]", row["sentence"].lower())
        judgement = judge(row["sentence"])
        assert judgement.sign == row["sign"] == "normal"
        assert not judgement.flags
        assert {mention.side for mention in judgement.mentions} <= {"", "bilateral"}
        assert row["sentence"][0].isupper()
        assert row["sentence"].endswith(".")


def test_real_additions_are_new_to_their_reports(openi: EnrichmentResult):
    label_of = clusters_of(openi)
    own = {row["report_id"]: held_by(row, label_of) for row in openi.enriched.to_pylist()}
    signs = dict(zip(openi.clusters["cluster_id"].to_pylist(), openi.clusters["sign"].to_pylist(), strict=False))
    assert signs
    for row in openi.additions.to_pylist():
        assert row["cluster_id"] not in own[row["report_id"]]
        assert label_of[row["sentence_key"]] == row["cluster_id"]


def test_real_provenance_is_true(openi: EnrichmentResult):
    """Support counted again from the reports themselves."""
    label_of = clusters_of(openi)
    first = [row for row in openi.enriched.to_pylist() if row["variant"] == 0]
    studies: dict[str, set[int]] = {}
    for row in first:
        if row["split"] == "train":
            studies.setdefault(row["study_id"], set()).update(held_by(row, label_of))
    arcs = {(row["source"], row["target"]): row for row in openi.edges.to_pylist()}
    own = {row["report_id"]: held_by(row, label_of) for row in first}
    for row in openi.additions.to_pylist():
        c = row["cluster_id"]
        vouching = [u for u in own[row["report_id"]] if (u, c) in arcs]
        assert vouching
        together = {u: sum({u, c} <= held for held in studies.values()) for u in vouching}
        assert row["support"] == min(together.values()) > 3
        assert all(arcs[u, c]["support"] == together[u] for u in vouching)
        assert own[row["report_id"]] & set(row["witness"]) == set(vouching)  # and none that has no arc
        assert row["purity"] >= 0.95


def test_real_validation_and_test_reports_are_untouched(openi: EnrichmentResult):
    rest = [row for row in openi.enriched.to_pylist() if row["split"] != "train"]
    assert len(rest) == 240
    assert all(row["findings"] == row["enriched_findings"] for row in rest)
    assert all(row["why_unchanged"] == "not training" for row in rest)


def test_real_variants_differ_somewhere(openi: EnrichmentResult):
    texts = {(row["report_id"], row["variant"]): row["enriched_findings"] for row in openi.enriched.to_pylist()}
    assert sum(texts[report, 0] != texts[report, 1] for report, variant in texts if variant == 0) > 50


def test_real_originals_come_back(openi: EnrichmentResult):
    for row in openi.enriched.to_pylist():
        assert row["enriched_findings"].startswith(row["findings"])
        before = [sentence_key(s) for s in split_sentences(row["findings"])]
        after = [sentence_key(s) for s in split_sentences(row["enriched_findings"])]
        assert after[: len(before)] == before
        assert len(after) == len(before) + row["added"]


def test_real_counts_add_up(openi: EnrichmentResult):
    summary = openi.summary
    assert summary["reports"] == 600
    assert summary["enriched"] + sum(summary["unchanged"].values()) == 600
    occurrences = {
        section: sum(row["count"] for row in openi.sentences.to_pylist() if row["section"] == section)
        for section in ("findings", "impression")
    }
    clustered = sum(row["occurrences"] for row in openi.clusters.to_pylist() if row["section"] == "findings")
    noise = sum(
        row["count"] for row in openi.sentences.to_pylist()
        if row["section"] == "findings" and row["assigned"] == "noise"
    )  # fmt: skip
    assert clustered + noise == occurrences["findings"]


def test_real_models_know_their_sentences(openi: EnrichmentResult):
    for model in openi.models.values():
        asked = model.keys[:: max(1, len(model.keys) // 40)]
        expected = [int(model.labels[model.keys.index(key)]) for key in asked]
        assert model.assign(asked)[0].tolist() == expected

"""What training reports teach: the enrichment and its controls; nothing else changes."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from studies_world import cohort_reports, examples_for

from raymedlt.enrichment import enrich
from raymedlt.errors import InputError
from raymedlt.finetuning.config import TextConfig
from raymedlt.finetuning.controls import enriched_variants, phantom_variants
from raymedlt.finetuning.studies import Variants, check_references, in_splits, join, phantom_reports
from raymedlt.images.config import DataConfig, PhantomConfig
from raymedlt.schema import TRAIN

DATA = DataConfig(phantom=PhantomConfig(images=1200, test_images=30, test_positives=0, classes=12))


@pytest.fixture(scope="module")
def reports() -> pa.Table:
    """Enough for clusters and arcs."""
    table = phantom_reports(DATA)
    return in_splits(table, examples_for(table))


def of_training(reports: pa.Table) -> dict[str, dict]:
    return {row["report_id"]: row for row in reports.to_pylist() if row["split"] == TRAIN}


def test_original_reports_teach_themselves():
    assert phantom_variants(cohort_reports(), TextConfig(use="original"), seed=0) == {}


def test_complete_texts_are_the_phantoms():
    taught = phantom_variants(cohort_reports(), TextConfig(use="complete"), seed=0)
    rows = of_training(cohort_reports())
    assert taught == {name: (row["complete_findings"],) for name, row in rows.items()}
    longer = [name for name, (text,) in taught.items() if len(text) > len(rows[name]["findings"])]
    assert len(longer) > 0.5 * len(rows)


@pytest.mark.parametrize("use", ["enriched", "random", "paraphrase"])
def test_the_enrichment_and_its_controls(reports, use):
    taught = phantom_variants(reports, TextConfig(use=use, variants=3), seed=0, workers=1)
    rows = of_training(reports)
    assert taught.keys() == rows.keys()
    assert {len(texts) for texts in taught.values()} == {1, 3}
    assert all(len(set(texts)) > 1 for texts in taught.values() if len(texts) == 3)
    changed = {name for name, texts in taught.items() if texts != (rows[name]["findings"],)}
    assert len(changed) > 0.1 * len(rows)
    kept = all(text.startswith(rows[name]["findings"]) for name, texts in taught.items() for text in texts)
    assert kept == (use != "paraphrase")  # additions stand behind what was there; paraphrases replace it
    examples = examples_for(reports)
    studies = join(reports, examples, taught, "findings", "phantom").studies
    check_references(studies, "findings")
    assert sum(len(texts) > 1 for texts in studies.targets) > 0


def test_a_reports_texts_depend_on_seed_and_training_reports_alone(reports):
    def taught(table: pa.Table, seed: int) -> Variants:
        return phantom_variants(table, TextConfig(use="random"), seed=seed, workers=1)

    other = ["Not a word of radiology."] * reports.num_rows
    held_out = pc.not_equal(reports["split"], TRAIN)
    changed = pc.if_else(held_out, pa.array(other), reports["findings"])
    place = reports.schema.get_field_index("findings")
    ours = taught(reports, 0)
    assert taught(reports.set_column(place, "findings", changed), 0) == ours
    assert taught(reports, 1) != ours


def test_changed_texts_of_held_out_reports_are_refused():
    enriched = enrich(pa.table({"report_id": ["a", "b"], "findings": ["Clear.", "Clear."]})).enriched
    assert enriched_variants(enriched) == {"a": ("Clear.",), "b": ("Clear.",)}
    place = {name: enriched.schema.get_field_index(name) for name in ("split", "enriched_findings")}
    held_out = enriched.set_column(place["split"], "split", pa.array(["train", "test"]))
    assert enriched_variants(held_out) == {"a": ("Clear.",)}
    broken = held_out.set_column(place["enriched_findings"], "enriched_findings", pa.array(["Clear.", "Clear. More."]))
    with pytest.raises(InputError, match="1 validation and test reports whose texts were changed"):
        enriched_variants(broken)

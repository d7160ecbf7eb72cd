"""Reports to distinct sentences: counts, spellings, studies, and independence of the order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from enrichment_world import report_table

from raymedlt.enrichment.corpus import Section, distinct, sentences_of, study_ids, training_rows
from raymedlt.schema import SENTENCES_OF_REPORTS


def sections(reports: pa.Table) -> dict[str, Section]:
    rows = training_rows(reports, sentences_of(reports))
    return {name: distinct(rows, name, study_ids(rows)) for name in ("findings", "impression")}


REPORTS = report_table(
    [
        "Lungs are clear. No effusion.",
        "LUNGS ARE CLEAR. No effusion!",
        "Lungs are clear",
        "Heart is big.",
        "Odd words.",
    ],
    impression=["Clear.", "", "", "Clear.", ""],
    study_id=["s1", "s1", "s2", "s3", "s4"],
    split=["train", "train", "train", "train", "test"],
)


def test_sentences_in_reading_order():
    table = sentences_of(REPORTS)
    assert table.schema == SENTENCES_OF_REPORTS
    first = [row for row in table.to_pylist() if row["report_id"] == "r000"]
    assert [(row["section"], row["position"], row["sentence_key"]) for row in first] == [
        ("findings", 0, "lungs are clear"),
        ("findings", 1, "no effusion"),
        ("impression", 0, "clear"),
    ]


def test_keys_are_sorted_and_counted():
    section = sections(REPORTS)["findings"]
    assert section.keys == ["heart is big", "lungs are clear", "no effusion"]
    assert section.counts.tolist() == [1, 3, 2]


def test_only_training_reports_teach():
    found = sections(REPORTS)
    assert "odd words" not in found["findings"].keys
    assert found["findings"].studies == found["impression"].studies == 3


def test_a_study_counts_once_though_it_has_two_reports():
    section = sections(REPORTS)["findings"]
    assert section.pairs.tolist() == [[0, 1], [0, 2], [1, 1], [2, 0]]


def test_the_commonest_spelling_is_kept_and_the_smaller_on_ties():
    found = sections(report_table(["No Effusion.", "No effusion.", "No effusion.", "NORMAL.", "Normal."]))["findings"]
    assert dict(zip(found.keys, found.texts, strict=True)) == {"no effusion": "No effusion.", "normal": "NORMAL."}


def test_order_of_reports_changes_nothing():
    shuffled = REPORTS.take(np.random.default_rng(3).permutation(REPORTS.num_rows))
    for name, section in sections(REPORTS).items():
        other = sections(shuffled)[name]
        assert (other.keys, other.texts, other.studies) == (section.keys, section.texts, section.studies)
        assert np.array_equal(other.counts, section.counts)
        assert np.array_equal(other.pairs, section.pairs)


def test_an_empty_section():
    section = sections(report_table(["Clear."]))["impression"]
    assert (section.keys, section.counts.tolist(), section.pairs.shape) == ([], [], (0, 2))

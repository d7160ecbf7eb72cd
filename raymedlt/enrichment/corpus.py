"""Reports to sentences: occurrences in reading order, and the distinct keys that are the unit of work.

A key's number is its rank among all sorted keys, so nothing downstream depends on the order in which reports came.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import SENTENCES_OF_REPORTS, TRAIN

SECTIONS = ("findings", "impression")


def sentences_of(reports: pa.Table) -> pa.Table:
    """Split both sections of `reports` (schema.REPORTS) into schema.SENTENCES_OF_REPORTS, in the reports' order."""
    rows: dict[str, list[object]] = {name: [] for name in SENTENCES_OF_REPORTS.names}
    for report_id, *texts in zip(
        reports["report_id"].to_pylist(), *(reports[s].to_pylist() for s in SECTIONS), strict=True
    ):
        for section, text in zip(SECTIONS, texts, strict=True):
            for position, sentence in enumerate(split_sentences(text)):
                rows["report_id"].append(report_id)
                rows["section"].append(section)
                rows["position"].append(position)
                rows["sentence_key"].append(sentence_key(sentence))
                rows["text"].append(sentence)
    return pa.table(rows, schema=SENTENCES_OF_REPORTS)


@dataclass(frozen=True)
class Section:
    """The distinct sentences of one section of the training reports, in canonical order (sorted keys).

    keys, texts: K strings; a key's text is its commonest spelling (the smaller string on ties).
    counts: int32 [K], occurrences. pairs: int64 [P, 2], sorted distinct (study number, key number).
    studies: number of training studies of both sections (see `study_ids`).
    """

    name: str
    keys: list[str]
    texts: list[str]
    counts: npt.NDArray[np.int32]
    pairs: npt.NDArray[np.int64]
    studies: int


def training_rows(reports: pa.Table, sentences: pa.Table) -> pa.Table:
    """The sentences of training reports, with the column study_id. Reports of one study count as one later on."""
    train = reports.filter(pc.equal(reports["split"], TRAIN)).select(["report_id", "study_id"])
    return sentences.join(train, "report_id", join_type="inner")


def study_ids(rows: pa.Table) -> pa.Array:
    """Sorted distinct study ids of `rows` (from `training_rows`); a study's number is its place here."""
    return pa.array(sorted(rows["study_id"].unique().to_pylist()), pa.string())


def distinct(rows: pa.Table, name: str, studies: pa.Array) -> Section:
    """Distinct sentences of section `name` among `rows` (from `training_rows`); O(rows) memory."""
    rows = rows.filter(pc.equal(rows["section"], name))
    spellings = rows.group_by(["sentence_key", "text"]).aggregate([([], "count_all")])
    spellings = spellings.sort_by([("sentence_key", "ascending"), ("count_all", "descending"), ("text", "ascending")])
    spelled = spellings["sentence_key"].to_pylist()
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    for key, text, count in zip(
        spelled, spellings["text"].to_pylist(), spellings["count_all"].to_pylist(), strict=True
    ):
        texts.setdefault(key, text)
        counts[key] = counts.get(key, 0) + count
    keys = sorted(texts)
    number = pc.index_in(rows["sentence_key"], pa.array(keys, pa.string())).to_numpy().astype(np.int64)
    study = pc.index_in(rows["study_id"], studies).to_numpy().astype(np.int64)
    pairs = np.unique(np.column_stack([study, number]), axis=0) if len(number) else np.zeros((0, 2), np.int64)
    return Section(
        name,
        keys,
        [texts[key] for key in keys],
        np.array([counts[key] for key in keys], np.int32),
        pairs,
        len(studies),
    )

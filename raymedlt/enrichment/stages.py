"""What each stage of the job does to one shard. No Ray in here: `distributed` decides who calls it.

Folders of a run: `_work/read` rows as read; `_work/reports` valid reports by id; `_work/sentences` their sentences;
`_work/keys`, `_work/vectors` distinct sentences and their vectors; then the tables that users read.

Every object here is picklable, does one shard when called with its name, commits it and returns its summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.config import EnrichConfig
from raymedlt.embedding.encoder import Precision, load_encoder
from raymedlt.enrichment.corpus import sentences_of
from raymedlt.enrichment.knowledge import Knowledge
from raymedlt.enrichment.writing import write_reports
from raymedlt.ledger import LedgerHandle
from raymedlt.reports.phi import reports_by_kind
from raymedlt.reports.readers import Reader, Unit
from raymedlt.schema import REJECTED, REPORTS, TRAIN
from raymedlt.storage import FileEntry, Storage

READ, ARRANGE, KEYS, EMBED, CLUSTER, LEARN, WRITE, FINISH = (
    "read", "arrange", "keys", "embed", "cluster", "learn", "write", "finish",
)  # fmt: skip
DUPLICATE = "report_id is given twice"
_FEW_ROWS = 500  # rows per group of a sorted file: a range of ids reads few of them


@dataclass(frozen=True)
class ReadShard:
    """Read one unit of the source: valid rows into parts sorted by report id, bad rows into `rejected`."""

    handle: LedgerHandle
    reader: Reader
    units: Mapping[str, Unit]

    def __call__(self, shard: str) -> dict[str, Any]:
        files: list[FileEntry] = []
        storage, rows = self.handle.storage, 0
        reasons: dict[str, int] = {}
        signs: Counter[str] = Counter()
        rejected: list[pa.Table] = []
        for number, batch in enumerate(self.reader.read(self.units[shard])):
            rows += batch.num_rows
            bad = batch.filter(pc.is_valid(batch["reason"]))
            for reason in bad["reason"].to_pylist():
                reasons[reason] = reasons.get(reason, 0) + 1
            rejected.append(bad.select(REJECTED.names))
            good = batch.filter(pc.is_null(batch["reason"])).drop_columns(["reason"]).sort_by("report_id")
            signs.update(_signs_of_phi(good))
            if good.num_rows:
                name = f"_work/read/{shard}/{number:05d}.parquet"
                files.append(storage.write_table(name, good, row_group_rows=_FEW_ROWS))
        files += _rejected(storage, f"read-{shard}", rejected)
        summary = {"rows": rows, "rejected": dict(sorted(reasons.items())), "phi": dict(sorted(signs.items()))}
        self.handle.commit(READ, shard, files, summary)
        return summary


def _signs_of_phi(reports: pa.Table) -> dict[str, int]:
    """Reports by kind of sign, over all their texts."""
    texts = zip(*(reports[name].to_pylist() for name in ("findings", "impression", "indication")), strict=True)
    return reports_by_kind(map("\n".join, texts))


def _rejected(storage: Storage, shard: str, tables: list[pa.Table]) -> list[FileEntry]:
    """The table `rejected` of one shard, if it has any row."""
    rows = pa.concat_tables(tables) if tables else REJECTED.empty_table()
    if not rows.num_rows:
        return []
    return [storage.write_table(f"rejected/{shard}.parquet", rows.cast(REJECTED).sort_by("row_id"))]


@dataclass(frozen=True)
class ArrangeShard:
    """Gather the reports of one range of ids, sorted; split them into sentences; reject second copies of an id.

    Of rows with one id, the first in order of their content stays: which one came first in the input doesn't matter.
    """

    handle: LedgerHandle
    parts: Mapping[str, tuple[str, str]]  # file of the stage `read` -> its first and last id
    ranges: Mapping[str, tuple[str, str]]  # shard -> first and last id

    def __call__(self, shard: str) -> dict[str, Any]:
        storage = self.handle.storage
        first, last = self.ranges[shard]
        wanted = [("report_id", ">=", first), ("report_id", "<=", last)]
        near = [part for part, (least, most) in self.parts.items() if least <= last and most >= first]
        tables = [storage.read_table(part, filters=wanted) for part in near]
        rows = sorted(pa.concat_tables(tables).to_pylist(), key=_content)
        kept: list[dict[str, Any]] = []
        extra: list[dict[str, Any]] = []
        for row in rows:
            (extra if kept and kept[-1]["report_id"] == row["report_id"] else kept).append(row)
        reports = pa.Table.from_pylist(kept, schema=REPORTS)
        sentences = sentences_of(reports)
        files = [
            storage.write_table(f"_work/reports/{shard}.parquet", reports),
            storage.write_table(f"_work/sentences/{shard}.parquet", sentences),
        ]
        second = pa.Table.from_pylist([{**row, "reason": DUPLICATE} for row in extra], schema=REJECTED)
        files += _rejected(storage, f"arrange-{shard}", [second])
        train = pc.equal(reports["split"], TRAIN)
        summary = {
            "reports": len(kept),
            "rejected": {DUPLICATE: len(extra)} if extra else {},
            "training": pc.sum(train).as_py() or 0,
            "with_findings": pc.sum(pc.not_equal(reports["findings"], "")).as_py() or 0,
            "with_impression": pc.sum(pc.not_equal(reports["impression"], "")).as_py() or 0,
            "sentences": sentences.num_rows,
        }
        self.handle.commit(ARRANGE, shard, files, summary)
        return summary


def _content(row: dict[str, Any]) -> tuple[str, str]:
    return row["report_id"], repr([row[name] for name in REPORTS.names] + [row["source"], row["row_id"]])


@dataclass(frozen=True)
class EmbedShard:
    """Embed the distinct sentences of one shard. The encoder is loaded when the first shard needs it."""

    handle: LedgerHandle
    model: str | None
    precision: Precision
    batch_sentences: int
    threads: int
    device: str = "cpu"

    def __call__(self, shard: str) -> dict[str, Any]:
        storage = self.handle.storage
        keys = storage.read_table(f"_work/keys/{shard}.parquet")["sentence_key"].to_pylist()
        encoder = load_encoder(self.model, self.precision, self.batch_sentences, self.device)
        vectors = encoder.encode(keys, self.threads)
        entry = storage.write_table(f"_work/vectors/{shard}.parquet", vectors_table(vectors))
        summary = {"sentences": len(keys)}
        self.handle.commit(EMBED, shard, [entry], summary)
        return summary


def vectors_table(vectors_ND: npt.NDArray[np.float32]) -> pa.Table:
    """One column `vector`, a list of D float32 per row."""
    width = vectors_ND.shape[1]
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), width)})


def vectors_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """float32 [N, D] back from `vectors_table`."""
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return cast(npt.NDArray[np.float32], flat.reshape(len(column), -1))


@dataclass(frozen=True)
class WriteShard:
    """Enrich the reports of one shard."""

    handle: LedgerHandle
    knowledge: Callable[[], Knowledge]
    config: EnrichConfig

    def __call__(self, shard: str) -> dict[str, Any]:
        storage = self.handle.storage
        reports = storage.read_table(f"_work/reports/{shard}.parquet")
        written = write_reports(self.knowledge(), reports, self.config)
        tables = {"enriched": written.enriched, "additions": written.additions, "refusals": written.refusals}
        files = [storage.write_table(f"{name}/{shard}.parquet", table) for name, table in tables.items()]
        self.handle.commit(WRITE, shard, files, written.summary)
        return written.summary

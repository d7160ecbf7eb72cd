"""What the benchmarks share: the real OpenI reports, their vectors, and one way to print."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.corpus import sentences_of
from raymedlt.enrichment.memory import Embedder
from raymedlt.errors import ConsistencyError
from raymedlt.reports.readers import open_reader
from raymedlt.runtime import private_by_default
from raymedlt.schema import REPORTS


def openi_reports() -> pa.Table:
    """The valid OpenI reports (schema.REPORTS); labels are the human MeSH codes."""
    return reports_of("openi")


def reports_of(source: str) -> pa.Table:
    """The valid reports of a packaged source, "openi" or "padchest" (schema.REPORTS)."""
    private_by_default()
    reader = open_reader(None, source)
    rows = pa.concat_tables([batch for unit in reader.units() for batch in reader.read(unit)])
    return rows.filter(pc.is_null(rows["reason"])).select(REPORTS.names)


def labelled_keys(reports: pa.Table, name: str, column: str) -> dict[str, str]:
    """Sentence key -> label of gold/`name`, whose rows name a sentence by its rank among all keys and its key's hash.

    Raises:
        ConsistencyError: a rank and its hash don't fit: other reports, or another splitter than the labels'.
    """
    keys = sorted(set(sentences_of(reports)["sentence_key"].to_pylist()))
    found: dict[str, str] = {}
    with open(Path(__file__).with_name("gold") / name, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            offset = int(row["offset"])
            if not offset < len(keys) or hashlib.sha256(keys[offset].encode()).hexdigest()[:16] != row["sha256"]:
                raise ConsistencyError(
                    f"row with offset {offset} of {name} names another sentence",
                    "rank and hash of the sentence key agree",
                    "use the reports and the sentence splitter that the labels were made with",
                )
            found[keys[offset]] = row[column]
    return found


def remembering(config: EnrichConfig) -> Any:
    """The configured encoder, with a cache in the temporary folder: for benchmarks that don't time embedding."""

    def embed(sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        name = hashlib.sha256("\n".join([repr(config.embedding), *sentences]).encode()).hexdigest()[:24]
        cache = Path(tempfile.gettempdir()) / f"raymedlt-vectors-{name}.npy"
        if not cache.exists():
            np.save(cache, Embedder(config)(sentences))
        return np.load(cache)

    return embed


def share(part: int, whole: int) -> float:
    """part / whole to five digits; 0 for an empty whole."""
    return round(part / whole, 5) if whole else 0.0


def report(name: str, figures: dict[str, Any]) -> None:
    """Print one benchmark's figures as JSON, with the machine they were measured on."""
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    print(json.dumps({"benchmark": name, "machine": machine, **figures}, indent=1))

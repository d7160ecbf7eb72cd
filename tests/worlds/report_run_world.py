"""Six reports, and the folder of a finished run of jobs/enrich.py over them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from raymedlt.config import EnrichConfig, config_hash
from raymedlt.enrichment import EnrichmentResult, enrich
from raymedlt.storage import Storage

REPORTS = pa.table(
    {
        "report_id": ["a", "b", "c", "d", "e", "f"],
        "patient_id": ["1", "2", "3", "4", "5", "6"],
        "split": ["train", "train", "test", "train", "validation", "train"],
        "findings": ["Heart size is normal.", "No effusion.", "Clear.", "Clear lungs.", "Normal.", "Large heart."],
        "impression": ["Normal."] * 6,
        "image_ids": [["no", "one"], ["two.png"], ["deep/three"], [], ["one.jpg"], ["", "six.dcm"]],
    }
)


@functools.cache
def _enriched(**config: Any) -> tuple[EnrichConfig, EnrichmentResult]:
    own = EnrichConfig(**config)
    return own, enrich(REPORTS, own)


def finished(folder: Path, **config: Any) -> str:
    """What `open_run` reads of a run's folder: tables and manifest."""
    own, result = _enriched(**config)
    storage = Storage.of(str(folder))
    entries = [
        storage.write_table("enriched/part.parquet", result.enriched),
        storage.write_table("additions/part.parquet", result.additions),
        storage.write_bytes("model/about.json", b"{}"),
    ]
    words = f"control: {own.control}\nvariants: {own.variants}\n"
    entries.append(storage.write_bytes("config.yaml", words.encode()))
    manifest = {"config_hash": config_hash(own), "files": [entry.to_json() for entry in entries]}
    storage.write_bytes("manifest.json", json.dumps(manifest).encode())
    return str(folder)

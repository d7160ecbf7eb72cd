"""Vectors of real sentences, embedded once; the sentences are read at run time and never stored."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest


@pytest.fixture(scope="session")
def openi_vectors() -> np.ndarray:
    """Unit vectors of 2,000 distinct findings sentences of OpenI."""
    try:
        distribution("torchxrayvision")
    except PackageNotFoundError:
        pytest.skip("torchxrayvision, which carries the reports, is not installed")
    from raymedlt.embedding.encoder import load_encoder
    from raymedlt.enrichment.corpus import sentences_of
    from raymedlt.reports.readers import open_reader
    from raymedlt.schema import REPORTS

    reader = open_reader(None, "openi")
    rows = pa.concat_tables([table for unit in reader.units() for table in reader.read(unit)])
    sentences = sentences_of(rows.filter(pc.is_null(rows["reason"])).select(REPORTS.names))
    findings = sentences.filter(pc.equal(sentences["section"], "findings"))
    keys = sorted(findings["sentence_key"].unique().to_pylist())
    return load_encoder(None, "float32", 64, "cpu").encode(keys[::2][:2000], threads=2)

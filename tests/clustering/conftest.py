"""Vectors of real sentences, embedded once; the sentences are read at run time and never stored."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Many small products: a second thread costs more than it gives, most of all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def warnings_fail() -> Iterator[None]:
    """Warnings are errors; torch, which warns once per process by itself, warns always."""
    import torch

    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(False)


@pytest.fixture(scope="session")
def openi_sentences() -> Counter[str]:
    """Keys of all findings sentences of OpenI and how often each occurs."""
    try:
        distribution("torchxrayvision")
    except PackageNotFoundError:
        pytest.skip("torchxrayvision, which carries the reports, is not installed")
    from raymedlt.enrichment.corpus import sentences_of
    from raymedlt.reports.readers import open_reader
    from raymedlt.schema import REPORTS

    reader = open_reader(None, "openi")
    rows = pa.concat_tables([table for unit in reader.units() for table in reader.read(unit)])
    sentences = sentences_of(rows.filter(pc.is_null(rows["reason"])).select(REPORTS.names))
    return Counter(sentences.filter(pc.equal(sentences["section"], "findings"))["sentence_key"].to_pylist())


@pytest.fixture(scope="session")
def openi_vectors(openi_sentences: Counter[str]) -> np.ndarray:
    """Unit vectors of 2,000 distinct findings sentences of OpenI."""
    from raymedlt.embedding.encoder import load_encoder

    return load_encoder(None, "float32", 64, "cpu").encode(sorted(openi_sentences)[::2][:2000], threads=2)


@pytest.fixture(scope="session")
def openi_counted(openi_sentences: Counter[str], openi_vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of 800 distinct findings sentences of OpenI and how often each occurs (int64)."""
    keys = sorted(openi_sentences)[::2][:800]
    return openi_vectors[:800], np.array([openi_sentences[key] for key in keys])

"""A finished run of jobs/finetune.py as others go on with it: its model, studies and images."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from raymedlt.errors import InputError
from raymedlt.finetuning.arranging import read_studies
from raymedlt.finetuning.config import FinetuneConfig
from raymedlt.finetuning.export import MODEL
from raymedlt.finetuning.feed import Blind
from raymedlt.finetuning.generation import Writer
from raymedlt.finetuning.predictor import open_writer, read_about
from raymedlt.finetuning.studies import Studies
from raymedlt.images.arranging import read_pixels
from raymedlt.images.examples import Pixels
from raymedlt.parsing import parse
from raymedlt.storage import Storage, sha256_of

_CONFIG, _MANIFEST = "config.yaml", "manifest.json"


@dataclass(frozen=True)
class FinishedRun:
    """Small and picklable. Make it with `open_finished`."""

    storage: Storage
    config: FinetuneConfig
    content: str
    """Names everything that the run left: equal outputs, equal names."""

    def writer(self, device: str) -> Writer:
        """The finished model."""
        return open_writer(self.storage.sub(MODEL), device)

    def studies(self) -> Studies:
        """All of its studies."""
        return read_studies(self.storage)

    def pixels(self) -> Pixels:
        """Its prepared images, in memory; rows as the studies count them."""
        if self.config.blind:
            return Blind(self.config.images.size)
        files = tuple(sorted(self.storage.list_files("_work/images")))
        return read_pixels(self.storage, files, self.config.images.size)


def open_finished(folder: str) -> FinishedRun:
    """The finished run of jobs/finetune.py in `folder`, a path or URI.

    Raises:
        InputError: there is none, or it isn't finished.
    """
    storage = Storage.of(folder)
    if not (storage.exists(_CONFIG) and storage.exists(_MANIFEST)):
        raise InputError(
            f"no finished run of jobs/finetune.py in '{storage.uri}'",
            f"its output folder with {_CONFIG} and {_MANIFEST}",
            "give the folder, or run python jobs/finetune.py first and let it finish",
        )
    read_about(storage)
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        Path(file.name).write_bytes(storage.read_bytes(_CONFIG))
        config = parse(FinetuneConfig, ["--config", file.name])
    return FinishedRun(storage, config, sha256_of(storage.read_bytes(_MANIFEST)))

"""The second guards of a run: loaded once per process, from the configuration alone.

Both only refuse what the rules let pass. Switched off they cost nothing; switched on, a verdict follows from the
report, the addition and the files that the keys name, so workers and their order change nothing.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from dataclasses import dataclass

import pyarrow.fs as pafs

from raymedlt.config import GuardConfig
from raymedlt.enrichment.guard.image import ImageGuard, load_image_guard
from raymedlt.enrichment.guard.nli import NliGuard, NliModel, contradiction_label
from raymedlt.errors import ConfigError, InputError
from raymedlt.storage import Storage

OFF = "off"
_LOADING = threading.Lock()  # the threads of a process share one model


@dataclass(frozen=True)
class SecondGuards:
    """None: off."""

    nli: NliGuard | None = None
    image: ImageGuard | None = None


def second_guards(config: GuardConfig) -> SecondGuards:
    """The second guards of `config`; kept for the next call with the same configuration (one per process).

    Raises:
        ConfigError, InputError: see `NliModel` and `load_image_guard`.
    """
    with _LOADING:
        return _load(config)


@functools.lru_cache(maxsize=1)
def _load(config: GuardConfig) -> SecondGuards:
    if config.calibration and not config.scores:
        raise ConfigError("guard.calibration is given without guard.scores", "scores to guard with", "give both")
    nli = NliGuard(NliModel(config.nli, config.nli_batch)) if config.nli else None
    image = (
        load_image_guard(config.scores, config.calibration, config.alpha, config.scheme) if config.scores else None
    )  # fmt: skip
    return SecondGuards(nli, image)


def fingerprints(config: GuardConfig) -> list[str]:
    """Hashes of the files that the keys name, for the hash of a run's data; empty when off. Reads every byte.

    Raises:
        ConfigError: guard.nli is no usable model folder (found here, before any work is done).
        InputError: a file isn't there.
    """
    if config.nli:
        contradiction_label(config.nli)
    return [_hash_of(path) for path in (config.nli, config.scores, config.calibration) if path]


def _hash_of(path: str) -> str:
    storage = Storage.of(path)
    folder = storage.filesystem.get_file_info(storage.path()).type == pafs.FileType.Directory
    digest = hashlib.sha256()
    for name in storage.list_files() if folder else [""]:
        digest.update(f"{name}:{_bytes(storage, name)}:".encode())
    return digest.hexdigest()


def _bytes(storage: Storage, name: str) -> str:
    digest = hashlib.sha256()
    try:
        with storage.filesystem.open_input_file(storage.path(name)) as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise InputError(
            f"a file that guard.* names can't be read ({type(error).__name__})",
            "a readable file",
            "check --guard.nli, --guard.scores and --guard.calibration",
        ) from None
    return digest.hexdigest()

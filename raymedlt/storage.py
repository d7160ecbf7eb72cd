"""One place that turns a path or URI into files: atomic writes, deterministic Parquet, content hashes.

Everything a job leaves behind goes through a `Storage`. A file appears whole or not at all: on a local disk it is
written under a temporary name, flushed to the disk and renamed; on an object store it is one put, or an upload in parts
that nobody sees before the last of them. What a killed writer leaves behind starts with "_tmp" and is invisible to
every reader here; the parts of an upload that it left are the bucket's to delete (a lifecycle rule).

A store that is slow or answers with errors is asked again for about a minute, then StorageError says what failed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raymedlt.connection import connection, put, trouble
from raymedlt.errors import InputError
from raymedlt.parquetbytes import parquet_bytes

TEMPORARY = "_tmp"
"""Start of the names of files that aren't finished."""

ROW_GROUP_ROWS = 16_384
"""Rows in a Parquet row group: fixed, since the bytes of a file follow from it."""

_ABOUT_NAMES = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What callers ask about and handle: no trouble of the storage."""


def sha256_of(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def content_hash(*parts: str | int | bytes) -> str:
    """A short stable name (16 hexadecimal digits, 64 bits) for a sequence of parts.

    Type and length of each part count: ("ab", "c"), ("a", "bc") and ("a", "b", "c") differ, and so do 1 and "1".
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(f"{type(part).__name__}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A written file as the ledger and the manifest keep it."""

    name: str
    """Relative to the output folder."""
    sha256: str
    bytes: int
    rows: int = 0
    """Rows of a table; 0 for anything else."""

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        return {"name": self.name, "sha256": self.sha256, "bytes": self.bytes, "rows": self.rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FileEntry:
        """The inverse of `to_json`."""
        return cls(str(value["name"]), str(value["sha256"]), int(value["bytes"]), int(value["rows"]))


@dataclass(frozen=True, slots=True, repr=False)
class Storage:
    """A folder on a local disk or an object store. Small and picklable: connections are opened where it is used."""

    location: str
    """Absolute local path, or the URI that the file system is made of (may hold credentials: print `uri` instead)."""
    folder: str = ""
    """Folder below `location`, "/"-separated."""

    @classmethod
    def of(cls, path_or_uri: str) -> Storage:
        """The folder at a local path, or at a URI: file://, s3://, gs://, abfs:// (what pyarrow.fs knows).

        Nothing is created or contacted yet, but that an s3:// URI without region and endpoint asks AWS for the region.

        Raises:
            InputError: an empty path, or a URI that pyarrow can't use.
            StorageError: AWS doesn't tell the bucket's region.
        """
        if not path_or_uri or "\0" in path_or_uri:
            raise InputError("an empty or unreadable path", "a folder or a URI such as s3://bucket/folder")
        if "://" not in path_or_uri:
            return cls(os.path.abspath(os.path.expanduser(path_or_uri)))
        if path_or_uri.startswith("file://"):
            return cls(os.path.abspath(connection(path_or_uri)[1]))
        connection(path_or_uri)
        return cls(path_or_uri)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"  # without credentials

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a disk of this machine (or mounted like one)."""
        return "://" not in self.location

    @property
    def uri(self) -> str:
        """The folder's path or URI for people and cards: without password and query, which may hold secrets."""
        if self.is_local:
            return posixpath.join(self.location, self.folder).rstrip("/") or "/"
        parts = urlsplit(self.location)
        user, at, host = parts.netloc.rpartition("@")
        if parts.scheme == "s3" or ":" in user:  # there the user name is an access key
            user, at = "", ""
        return posixpath.join(f"{parts.scheme}://{user}{at}{host}{parts.path}", self.folder).rstrip("/")

    @property
    def address(self) -> str:
        """What `of` makes the same storage of: as `uri`, with the connection's settings (print `uri` instead)."""
        return below(self.location, self.folder) if self.folder else self.location

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system, for readers that take one beside `path(name)` (Ray Data, pyarrow.dataset)."""
        return _LOCAL if self.is_local else connection(self.location)[0]

    def path(self, name: str = "") -> str:
        """The path of `name` inside `filesystem`.

        Raises:
            InputError: `name` is absolute or would leave the folder.
        """
        root = self.location if self.is_local else connection(self.location)[1]
        return posixpath.join(root, self.folder, _checked(name) if name else "").rstrip("/") or "/"

    def sub(self, name: str) -> Storage:
        """The folder `name` inside this one."""
        return Storage(self.location, posixpath.join(self.folder, _checked(name)))

    # Reading

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder `name`; "" asks for the folder itself."""
        with self._reading(name):
            return bool(self.filesystem.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def size(self, name: str) -> int | None:
        """Bytes of the file `name`; None if there is no such file."""
        with self._reading(name):
            info = self.filesystem.get_file_info(self.path(name))
        return int(info.size) if info.type == pafs.FileType.File else None

    def open_input(self, name: str) -> pa.NativeFile:
        """The file `name`, open for reading and seeking.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._reading(_checked(name)):
            return self.filesystem.open_input_file(self.path(name))

    def read_bytes(self, name: str) -> bytes:
        """All of the file `name`. Raises FileNotFoundError."""
        with self._reading(name), self.open_input(name) as file:
            return bytes(file.read())

    def read_table(self, name: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """The Parquet file `name`, or some of its columns, or rows (as pyarrow filters). Raises FileNotFoundError."""
        with self._reading(name), self.open_input(name) as file:
            return pq.read_table(file, columns=columns, filters=filters)

    def read_rows(self, name: str, start: int, count: int) -> pa.Table:
        """Rows `start` to `start + count` of the Parquet file `name`; only the row groups that hold them are read."""
        with self._reading(name), self.open_input(name) as file:
            parquet = pq.ParquetFile(file)
            sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            wanted = [n for n, end in enumerate(ends) if end > start and end - sizes[n] < start + count]
            if not wanted:
                return parquet.schema_arrow.empty_table()
            return parquet.read_row_groups(wanted).slice(start - (ends[wanted[0]] - sizes[wanted[0]]), count)

    def read_tables(self, names: Iterable[str], columns: list[str] | None = None) -> pa.Table:
        """The Parquet files `names`, which share one schema, one below the other.

        Raises:
            InputError: no names.
            FileNotFoundError: one of the files isn't there.
        """
        tables = [self.read_table(name, columns) for name in names]
        if not tables:
            raise InputError(
                f"no Parquet files to read in '{self.uri}'", "at least one", "run the stage that writes it"
            )
        return pa.concat_tables(tables)

    def read_folder(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Every *.parquet below the folder `name`, in the order of the names.

        Raises:
            InputError: the folder holds none.
        """
        names = [file for file in self.list_files(name) if file.endswith(".parquet")]
        if not names:
            raise InputError(f"no *.parquet in '{self.uri}/{name}'", "a folder of Parquet files")
        return self.read_tables(names, columns)

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """The folder on a disk of this machine; a remote one is copied for as long as it is needed."""
        if self.is_local:
            yield Path(self.path())
            return
        with tempfile.TemporaryDirectory() as copy:
            for name in self.list_files():
                target = Path(copy, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.read_bytes(name))
            yield Path(copy)

    def list_files(self, folder: str = "") -> list[str]:
        """Names of the files below `folder` at any depth, sorted, relative to this storage.

        Hidden files (".x") and unfinished ones ("_tmp...") are left out, and so is what lies in folders so named.
        A folder that isn't there has no files.
        """
        return [name for name in self._names(folder, recursive=True) if not _ignored(name)]

    def sizes(self, folder: str = "") -> list[tuple[str, int]]:
        """Names (as `list_files`) and bytes of the files below `folder`, sorted; one listing, no request per file."""
        root = self.path()
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
        with self._reading(folder):
            found = [info for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
        named = ((posixpath.relpath(info.path, root), int(info.size)) for info in found)
        return sorted((name, size) for name, size in named if not _ignored(name))

    def entries(self, folder: str = "") -> list[str]:
        """Names of everything directly in `folder`: files and folders, hidden and unfinished ones too, sorted."""
        return self._names(folder, recursive=False)

    def _names(self, folder: str, *, recursive: bool) -> list[str]:
        root = self.path()
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True, recursive=recursive)
        with self._reading(folder):
            found = self.filesystem.get_file_info(selector)
        kept = (info for info in found if not recursive or info.type == pafs.FileType.File)
        return sorted(posixpath.relpath(info.path.rstrip("/"), root) for info in kept)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """A store that can't be read isn't a file that can't: only for the latter readers reject rows."""
        try:
            yield
        except _ABOUT_NAMES:
            raise
        except OSError as error:
            if self.is_local:
                raise
            raise trouble(f"'{posixpath.join(self.uri, name)}' can't be read", error) from None

    # Writing

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise trouble(f"'{posixpath.join(self.uri, name)}' can't be written", error) from None

    def write_bytes(self, name: str, data: bytes, rows: int = 0) -> FileEntry:
        """Write the file `name` whole or not at all; an existing one is replaced.

        Local: temporary file in the same folder, flushed to disk, renamed. Object store: one put, or one upload.

        Raises:
            StorageError: the disk is full, the store is away, or writing isn't allowed.
        """
        _checked(name)
        with self._writing(name):
            if self.is_local:
                _write_local(self.path(name), data)
            else:
                # Not in this thread: a signal that raises between opening and writing would close the stream, and
                # closing puts what is there so far.
                with ThreadPoolExecutor(1) as aside:
                    aside.submit(put, self.filesystem, self.path(name), data).result()
        return FileEntry(name, sha256_of(data), len(data), rows)

    def write_table(self, name: str, table: pa.Table, *, row_group_rows: int = ROW_GROUP_ROWS) -> FileEntry:
        """Write `table` as Parquet (zstd), atomically, with bytes that follow from schema and values alone.

        However the table was cut into chunks, and whatever pandas noted about it, equal tables give equal bytes
        (for one version of pyarrow). Dictionary columns are stored as plain values: the order of a dictionary
        depends on how the table came about. Use fewer `row_group_rows` for rows of many kilobytes (images).

        Memory: the file is assembled in memory, so one shard must fit.
        """
        data = parquet_bytes(table, row_group_rows)
        return self.write_bytes(name, data, rows=table.num_rows)

    def delete(self, name: str) -> None:
        """Remove the file `name`; it may be gone already."""
        path = self.path(_checked(name))
        with self._writing(name), suppress(FileNotFoundError):
            self.filesystem.delete_file(path)

    def delete_folder(self, name: str) -> None:
        """Remove the folder `name` with all it holds; it may be gone already."""
        path = self.path(_checked(name))
        with self._writing(name), suppress(FileNotFoundError):
            if self.is_local:
                shutil.rmtree(path)
            else:
                self.filesystem.delete_dir(path)

    def delete_unfinished(self) -> int:
        """Remove what killed writers left behind; the number of files removed."""
        names = [name for name in self._names("", recursive=True) if posixpath.basename(name).startswith(TEMPORARY)]
        for name in names:
            self.delete(name)
        return len(names)


_LOCAL = pafs.LocalFileSystem()


def below(folder: str, name: str) -> str:
    """The path or URI of `name` in a folder; what follows a URI's "?" are settings of the connection."""
    place, mark, settings = folder.partition("?") if "://" in folder else (folder, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{settings}"


def beside(folder: str, name: str) -> str:
    """The path or URI of `name` in the folder that holds `folder`. Raises InputError if that is a whole bucket."""
    place, mark, settings = folder.partition("?") if "://" in folder else (folder, "", "")
    parent, slash, _ = place.rstrip("/").rpartition("/")
    if parent.endswith(":/"):
        raise InputError(f"'{folder}', a whole bucket, which nothing lies beside", "a folder in a bucket")
    return f"{parent}{slash}{name}{mark}{settings}"


def folder_and_name(path_or_uri: str) -> tuple[Storage, str]:
    """The folder of the file at a path or URI, and the file's name in it. Raises as `Storage.of`."""
    storage = Storage.of(path_or_uri)
    if storage.is_local:
        folder, name = posixpath.split(storage.location)
        return Storage(folder), name
    place, mark, settings = path_or_uri.partition("?")
    return Storage.of(place.rstrip("/").rpartition("/")[0] + mark + settings), posixpath.basename(storage.path())


def _checked(name: str) -> str:
    """`name` if it is a plain relative name."""
    parts = name.split("/")
    if not name or name.startswith("/") or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise InputError(
            f"the file name {name[:200]!r}", "a name relative to the folder, without '..', '.' and empty parts"
        )
    return name


def _ignored(name: str) -> bool:
    return any(part.startswith((".", TEMPORARY)) for part in name.split("/"))


def _write_local(path: str, data: bytes) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # the user's umask applies
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    descriptor = os.open(folder, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

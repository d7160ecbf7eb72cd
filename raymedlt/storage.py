"""One place that turns a path or URI into files: atomic writes, deterministic Parquet, content hashes.

Everything a job leaves behind goes through a `Storage`. A file appears whole or not at all: on a local disk it is
written under a temporary name, flushed to the disk and renamed; on an object store it is one put. What a killed writer
leaves behind starts with "_tmp" and is invisible to every reader here.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raymedlt.errors import InputError

TEMPORARY = "_tmp"
"""Start of the names of files that aren't finished."""

ROW_GROUP_ROWS = 16_384
"""Rows in a Parquet row group: fixed, since the bytes of a file follow from it."""

# Their folders are only prefixes of names: making one would leave an empty marker object behind.
_OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})


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

        Nothing is created or contacted yet.

        Raises:
            InputError: an empty path, or a URI that pyarrow can't use.
        """
        if not path_or_uri or "\0" in path_or_uri:
            raise InputError("an empty or unreadable path", "a folder or a URI such as s3://bucket/folder")
        if "://" not in path_or_uri:
            return cls(os.path.abspath(os.path.expanduser(path_or_uri)))
        if path_or_uri.startswith("file://"):
            return cls(os.path.abspath(_connect(path_or_uri)[1]))
        _connect(path_or_uri)
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
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system, for readers that take one beside `path(name)` (Ray Data, pyarrow.dataset)."""
        return _LOCAL if self.is_local else _connect(self.location)[0]

    def path(self, name: str = "") -> str:
        """The path of `name` inside `filesystem`.

        Raises:
            InputError: `name` is absolute or would leave the folder.
        """
        root = self.location if self.is_local else _connect(self.location)[1]
        return posixpath.join(root, self.folder, _checked(name) if name else "").rstrip("/") or "/"

    def sub(self, name: str) -> Storage:
        """The folder `name` inside this one."""
        return Storage(self.location, posixpath.join(self.folder, _checked(name)))

    # Reading

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder `name`; "" asks for the folder itself."""
        return bool(self.filesystem.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def size(self, name: str) -> int | None:
        """Bytes of the file `name`; None if there is no such file."""
        info = self.filesystem.get_file_info(self.path(name))
        return int(info.size) if info.type == pafs.FileType.File else None

    def open_input(self, name: str) -> pa.NativeFile:
        """The file `name`, open for reading and seeking.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.filesystem.open_input_file(self.path(_checked(name)))

    def read_bytes(self, name: str) -> bytes:
        """All of the file `name`. Raises FileNotFoundError."""
        with self.open_input(name) as file:
            return bytes(file.read())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The Parquet file `name`, or some of its columns. Raises FileNotFoundError."""
        with self.open_input(name) as file:
            return pq.read_table(file, columns=columns)

    def read_rows(self, name: str, start: int, count: int) -> pa.Table:
        """Rows `start` to `start + count` of the Parquet file `name`; only the row groups that hold them are read."""
        with self.open_input(name) as file:
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
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
        named = ((posixpath.relpath(info.path, root), int(info.size)) for info in found)
        return sorted((name, size) for name, size in named if not _ignored(name))

    def entries(self, folder: str = "") -> list[str]:
        """Names of everything directly in `folder`: files and folders, hidden and unfinished ones too, sorted."""
        return self._names(folder, recursive=False)

    def _names(self, folder: str, *, recursive: bool) -> list[str]:
        root = self.path()
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True, recursive=recursive)
        found = self.filesystem.get_file_info(selector)
        kept = (info for info in found if not recursive or info.type == pafs.FileType.File)
        return sorted(posixpath.relpath(info.path.rstrip("/"), root) for info in kept)

    # Writing

    def write_bytes(self, name: str, data: bytes, rows: int = 0) -> FileEntry:
        """Write the file `name` whole or not at all; an existing one is replaced.

        Local: temporary file in the same folder, flushed to disk, renamed. Object store: one put.
        """
        _checked(name)
        if self.is_local:
            _write_local(self.path(name), data)
        else:
            if self.filesystem.type_name not in _OBJECT_STORES:
                self.filesystem.create_dir(posixpath.dirname(self.path(name)), recursive=True)
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(data)
        return FileEntry(name, sha256_of(data), len(data), rows)

    def write_table(self, name: str, table: pa.Table, *, row_group_rows: int = ROW_GROUP_ROWS) -> FileEntry:
        """Write `table` as Parquet (zstd), atomically, with bytes that follow from schema and values alone.

        However the table was cut into chunks, and whatever pandas noted about it, equal tables give equal bytes
        (for one version of pyarrow). Dictionary columns are stored as plain values: the order of a dictionary
        depends on how the table came about. Use fewer `row_group_rows` for rows of many kilobytes (images).

        Memory: the file is assembled in memory, so one shard must fit.
        """
        data = _parquet_bytes(_canonical(table), row_group_rows)
        return self.write_bytes(name, data, rows=table.num_rows)

    def delete(self, name: str) -> None:
        """Remove the file `name`; it may be gone already."""
        path = self.path(_checked(name))
        try:
            self.filesystem.delete_file(path)
        except FileNotFoundError:
            return

    def delete_folder(self, name: str) -> None:
        """Remove the folder `name` with all it holds; it may be gone already."""
        path = self.path(_checked(name))
        try:
            if self.is_local:
                shutil.rmtree(path)
            else:
                self.filesystem.delete_dir(path)
        except FileNotFoundError:
            return

    def delete_unfinished(self) -> int:
        """Remove what killed writers left behind; the number of files removed."""
        names = [name for name in self._names("", recursive=True) if posixpath.basename(name).startswith(TEMPORARY)]
        for name in names:
            self.delete(name)
        return len(names)


_LOCAL = pafs.LocalFileSystem()


@lru_cache(maxsize=16)
def _connect(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `uri` and the path of its folder in it."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ImportError, ValueError) as error:
        scheme = uri.split("://", 1)[0]  # the rest may hold credentials
        raise InputError(
            f"a '{scheme}://' URI that can't be used ({type(error).__name__})",
            "file://, s3://, gs:// or abfs://, with blanks written as %20",
            "check the spelling, or give a local path",
        ) from None
    return filesystem, path.rstrip("/")


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


def _canonical(table: pa.Table) -> pa.Table:
    metadata = {key: value for key, value in sorted((table.schema.metadata or {}).items()) if key != b"pandas"}
    fields = [field.with_type(_canonical_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields)).replace_schema_metadata(metadata or None)


def _canonical_type(kind: pa.DataType) -> pa.DataType:
    """Plain values for dictionaries; one name for what lists hold ("item" when made here, "element" when read back)."""
    if pa.types.is_dictionary(kind):
        return _canonical_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_canonical_type(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = kind.value_field.with_name("element").with_type(_canonical_type(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(element, kind.list_size)
        return pa.large_list(element) if pa.types.is_large_list(kind) else pa.list_(element)
    return kind


def _parquet_bytes(table: pa.Table, row_group_rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", compression_level=3) as writer:
        # Page borders follow the chunks that the writer is given, so each row group is made one chunk first.
        for start in range(0, table.num_rows, row_group_rows):
            writer.write_table(table.slice(start, row_group_rows).combine_chunks(), row_group_size=row_group_rows)
    return bytes(sink.getvalue())

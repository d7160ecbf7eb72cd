"""Rows of table-like files: CSV, JSON lines, one JSON document, Parquet.

A row that can't be read is yielded with the reason instead of its values; only a file that can't be used at all raises.
Bytes that aren't UTF-8 come out as lone surrogates (PEP 383), which `records` finds and rejects with their row.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raymedlt.errors import MAX_NAME_CHARS, InputError, names_to_show
from raymedlt.reports.readers.files import BROKEN, damaged, empty, open_binary
from raymedlt.reports.records import NOT_UTF8, NUL_BYTES
from raymedlt.storage import Storage

MAX_CELL_CHARS = 16 * 2**20
"""Longest CSV row, JSON line or JSON entry that is read at all, in characters (a JSON line: bytes). What is longer is
skipped without being held in memory."""

TOO_LONG = "a line of more than 16 MB"

_SKIPPED_CHARS = 2**20

_PARQUET_ROWS = 4_096
_JSON_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a table-like file: its number (from 1) and its values by column, or the reason why there are none."""

    number: int
    values: dict[str, Any]
    reason: str | None = None


# CSV


def _csv(storage: Storage, name: str) -> Iterator[tuple[list[str], int]]:
    """Cells and number of lines of each row, the header included; no cells where the csv module gives up."""
    csv.field_size_limit(MAX_CELL_CHARS)
    tab = name.lower().removesuffix(".gz").endswith(".tsv")
    with open_binary(storage, name) as binary:
        text = io.TextIOWrapper(io.BufferedReader(cast(Any, binary)), "utf-8-sig", "surrogateescape", newline="")
        lines = _BoundedRows(text)
        cells = csv.reader(lines, delimiter="\t" if tab else ",")
        while True:
            before, lines.left = cells.line_num, MAX_CELL_CHARS
            try:
                row = next(cells)
            except StopIteration:
                return
            except csv.Error:
                yield [], cells.line_num - before
                continue
            except BROKEN as error:
                raise damaged(name, error) from None
            if row:
                yield row, cells.line_num - before


class _BoundedRows:
    """The lines of a CSV file for the csv module, which would hold a row of any length in memory."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.text = text
        self.left = MAX_CELL_CHARS  # characters that the row being read may still have

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.text.readline(self.left + 1)
        self.left -= len(line)
        if self.left < 0:
            while line and line[-1] not in "\r\n":  # the rest of the line is no row of its own
                line = self.text.readline(_SKIPPED_CHARS)
            raise csv.Error
        if not line:
            raise StopIteration
        return line


def csv_columns(storage: Storage, name: str) -> list[str]:
    """The header of a CSV (".tsv": tab-separated) file.

    Raises:
        InputError: no header, no row below it, a column that comes twice, or a header that isn't UTF-8.
    """
    rows = _csv(storage, name)
    header = [column.strip() for column in next(rows, ([], 0))[0]]
    if not any(header):
        raise empty(name)
    if any("\0" in column or not column.isprintable() for column in header):
        raise InputError(f"the header of '{name}' isn't UTF-8 text", "a CSV file with a header", "convert it to UTF-8")
    _refuse_doubles(name, header)
    if next(rows, None) is None:
        raise empty(name, "has a header and no rows")
    rows.close()  # type: ignore[attr-defined]
    return header


def _refuse_doubles(name: str, columns: Sequence[str]) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1 and column]
    if twice:
        raise InputError(f"'{name}' has the columns {names_to_show(twice)} twice", "each column once", "rename them")


def read_csv(storage: Storage, name: str, wanted: Collection[str] | None = None) -> Iterator[SourceRow]:
    """The rows of a CSV file with a header. Quoted line breaks are part of a cell; blank lines aren't rows.

    Args:
        wanted: the columns to keep; all by default.
    """
    rows = _csv(storage, name)
    header = [column.strip() for column in next(rows, ([], 0))[0]]
    kept = [(i, column) for i, column in enumerate(header) if column and (wanted is None or column in wanted)]
    for number, (cells, lines) in enumerate(rows, 1):
        if len(cells) != len(header):
            reason = f"has {len(cells)} cells, expected {len(header)}" if cells else "CSV cannot be parsed"
            yield SourceRow(number, {}, reason + f" (over {lines} lines: is a quote left open?)" * (lines > 1))
        else:
            yield SourceRow(number, {column: cells[i] for i, column in kept})


# JSON


def read_jsonl(storage: Storage, name: str) -> Iterator[SourceRow]:
    """The rows of a JSON-lines file: one object a line. Blank lines aren't rows."""
    number = 0
    with open_binary(storage, name) as file:
        try:
            lines = io.BufferedReader(cast(Any, file))
            while line := lines.readline(MAX_CELL_CHARS + 1):
                if len(line) > MAX_CELL_CHARS:
                    number += 1
                    yield SourceRow(number, {}, TOO_LONG)
                    while line and not line.endswith(b"\n"):
                        line = lines.readline(_SKIPPED_CHARS)
                elif line.strip():
                    number += 1
                    yield _json_row(number, line)
        except BROKEN as error:
            raise damaged(name, error) from None


def _json_row(number: int, line: bytes) -> SourceRow:
    if b"\0" in line:
        return SourceRow(number, {}, NUL_BYTES)
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        return SourceRow(number, {}, NOT_UTF8)
    except (ValueError, RecursionError):
        return SourceRow(number, {}, "JSON cannot be parsed")
    return SourceRow(number, value) if isinstance(value, dict) else SourceRow(number, {}, "JSON is not an object")


def read_json(storage: Storage, name: str, key: str) -> Iterator[SourceRow]:
    """The entries of a JSON file that is one list of objects, or one object of objects, without loading it whole.

    Args:
        key: the column that gets the outer object's key, where the entry has none of that name.

    Raises:
        InputError: the file isn't such JSON; after an unreadable entry there is no telling where the next one starts.
    """
    decoder = json.JSONDecoder()
    number = 0
    with open_binary(storage, name) as binary:
        text = io.TextIOWrapper(io.BufferedReader(cast(Any, binary)), "utf-8-sig", "surrogateescape")
        buffer = _Buffer(text)
        try:
            opening = buffer.skip(" \t\r\n")
            if opening not in ("{", "["):
                raise ValueError
            buffer.take(1)
            while (character := buffer.skip(" \t\r\n,")) not in ("}", "]"):
                outer = ""
                if opening == "{":
                    outer = str(buffer.decode(decoder))
                    if buffer.skip(" \t\r\n") != ":":
                        raise ValueError
                    buffer.take(1)
                    character = buffer.skip(" \t\r\n")
                if not character:
                    raise ValueError
                value = buffer.decode(decoder)
                number += 1
                if isinstance(value, dict):
                    yield SourceRow(number, {key: outer, **value} if outer else value)
                else:
                    yield SourceRow(number, {}, "JSON is not an object")
        except BROKEN as error:
            raise damaged(name, error) from None
        except (ValueError, RecursionError):
            raise InputError(
                f"the JSON file '{name}' can't be read behind entry {number}",
                "one list of objects, or one object of objects",
                "check the file; one object a line is the format 'jsonl'",
            ) from None


class _Buffer:
    """A window over a text stream that JSON values are cut from."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.stream, self.text, self.at = stream, "", 0

    def more(self) -> bool:
        left = len(self.text) - self.at
        if left > MAX_CELL_CHARS:
            raise ValueError
        chunk = self.stream.read(max(_JSON_CHUNK, left))  # doubling: linear in the file's length
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def skip(self, characters: str) -> str:
        """Step over `characters`; the first other one, "" at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in characters:
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def take(self, count: int) -> None:
        self.at += count

    def decode(self, decoder: json.JSONDecoder) -> Any:
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
                if end == len(self.text) and self.more():
                    continue  # a number may go on
            except ValueError:
                if not self.more():
                    raise
                continue
            self.at = end
            return value


# Parquet


def read_parquet(storage: Storage, name: str, wanted: Collection[str] | None = None) -> Iterator[SourceRow]:
    """The rows of a Parquet file. Texts are decoded here, since Parquet writers don't all check that they are UTF-8."""
    number = 0
    with storage.open_input(name) as file:
        try:
            parquet = pq.ParquetFile(file)
            columns = [c for c in parquet.schema_arrow.names if wanted is None or c in wanted]
            for batch in parquet.iter_batches(_PARQUET_ROWS, columns=columns):
                lists = [_python_values(batch.column(c)) for c in columns]
                for values in zip(*lists, strict=True):
                    number += 1
                    yield SourceRow(number, dict(zip(columns, values, strict=True)))
            if number != parquet.metadata.num_rows:
                raise EOFError
        except (pa.ArrowException, *BROKEN) as error:
            raise damaged(name, error) from None


def parquet_columns(storage: Storage, name: str) -> tuple[list[str], int]:
    """Columns and number of rows of a Parquet file.

    Raises:
        InputError: no Parquet file, or one without rows.
    """
    if storage.size(name) == 0:
        raise empty(name)
    with storage.open_input(name) as file:
        try:
            parquet = pq.ParquetFile(file)
            names = list(parquet.schema_arrow.names)
        except (pa.ArrowException, UnicodeDecodeError, *BROKEN) as error:
            raise damaged(name, error) from None
        _refuse_doubles(name, names)
        if parquet.metadata.num_rows == 0:
            raise empty(name, "has no rows")
        return names, int(parquet.metadata.num_rows)


def _python_values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.large_binary())
    elif pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        column = column.cast(pa.list_(pa.binary()))
    try:
        return list(column.to_pylist())  # records.as_text decodes the bytes
    except _NO_VALUE:
        return [_python_value(scalar) for scalar in column]


_NO_VALUE = (ValueError, OverflowError, KeyError, pa.ArrowException)
"""What Arrow raises for dates that Python doesn't have, unknown time zones, and texts in structs that aren't UTF-8."""


def _python_value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except _NO_VALUE:
        return scalar  # which isn't text: its row is rejected


# All


def first_columns(rows: Iterable[SourceRow], name: str, limit: int = 100) -> list[str]:
    """The columns of the first `limit` rows of a format without a header, in order of appearance.

    Raises:
        InputError: no rows, or none of the first ones can be read.
    """
    found: dict[str, None] = {}
    number = 0
    for number, row in enumerate(rows, 1):
        found.update(dict.fromkeys(row.values))
        if number >= limit:
            break
    if not number:
        raise empty(name)
    return list(found)


def require(name: str, found: Sequence[str], expected: Sequence[str], fix: str) -> None:
    """Raise an InputError that names found, expected and the nearest names, unless `found` has all of `expected`."""
    missing = [column for column in expected if column not in found]
    if not missing:
        return
    by_lower = {column.lower(): column for column in found if 0 < len(column) <= MAX_NAME_CHARS}
    near = {
        column: [by_lower[match] for match in difflib.get_close_matches(column.lower(), list(by_lower), 3, 0.5)]
        for column in missing
    }
    nearest = "; ".join(f"nearest to '{column}': {', '.join(names)}" for column, names in near.items() if names)
    raise InputError(
        f"'{name}' lacks the columns {missing}; it has {names_to_show(found)}",
        f"{list(expected)}" + f" ({nearest})" * bool(nearest),
        fix,
    )


def grouped(rows: Callable[[], Iterator[SourceRow]], key: Callable[[SourceRow], str]) -> Iterator[list[SourceRow]]:
    """Rows of one report together (image tables hold a row per image), each group as soon as its last row is read.

    `rows` is read twice: first to count each report's rows, then to collect them. Memory: one count per report and the
    rows of reports that are still open. Unreadable rows, and rows without a key, come alone.
    """
    left = Counter(key(row) for row in rows() if row.reason is None)
    waiting: dict[str, list[SourceRow]] = {}
    for row in rows():
        name = key(row) if row.reason is None else ""
        if not name:
            yield [row]
            continue
        waiting.setdefault(name, []).append(row)
        left[name] -= 1
        if not left[name]:
            del left[name]
            yield waiting.pop(name)

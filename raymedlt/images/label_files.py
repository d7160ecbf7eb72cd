"""Label tables as they lie on disk: CSV (also .tsv, .gz) and Parquet, every cell as text, and the rows that break."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raymedlt.errors import InputError, names_to_show
from raymedlt.reports.readers.files import BROKEN, open_binary
from raymedlt.storage import Storage, folder_and_name

NOT_UTF8 = "not UTF-8 text"
LINE_BREAK = "a line break inside a cell (is a quote left open?)"

_HEADER_BYTES = 2**20
_BLOCK_BYTES = 16 * 2**20  # at least a row's length
_FIX = "check --labels.path"


class Cells(NamedTuple):
    """Some columns of a table, without the rows that can't be cut into cells."""

    columns: dict[str, pa.Array]
    """[N] strings each, without outer blanks; "" where there is no value."""
    numbers: NDArray[np.int64]
    """[N] numbers of the rows in the file, from 1, the header not counted."""
    reasons: NDArray[np.object_]
    """[N] why a row can't be used: a cell isn't UTF-8, or goes over several lines; else None."""
    skipped: list[tuple[int, str]]
    """The rows that aren't here: number and reason."""


def locate(path: str) -> tuple[Storage, str]:
    """The folder and the name of the file at a path or URI.

    Raises:
        InputError: there is no such file.
    """
    storage, name = folder_and_name(path)
    if storage.size(name) is None:
        raise InputError(f"no file '{storage.uri}/{name}'", "a CSV (.csv, .csv.gz, .tsv) or Parquet file", _FIX)
    return storage, name


def column_names(storage: Storage, name: str) -> list[str]:
    """The columns of the table, without outer blanks; "" for one without a name.

    Raises:
        InputError: no table, or two columns of one name.
    """
    try:
        if _is_parquet(name):
            with storage.open_input(name) as file:
                names = list(pq.read_schema(file).names)
        else:
            names = _header(storage, name)
    except (pa.ArrowException, UnicodeDecodeError, *BROKEN) as error:
        raise _damaged(name, error) from None
    twice = [column for column, count in Counter(names).items() if count > 1 and column]
    if twice:
        raise InputError(f"'{name}' has the columns {names_to_show(twice)} twice", "each column once", "rename them")
    return names


def read_cells(storage: Storage, name: str, wanted: Sequence[str]) -> Cells:
    """The columns `wanted` of a table; all of them are there (see `column_names`). Memory: these columns, as text.

    Raises:
        InputError: the file is damaged, or has no rows.
    """
    try:
        cells = _read_parquet(storage, name, wanted) if _is_parquet(name) else _read_csv(storage, name, wanted)
    except (pa.ArrowException, *BROKEN) as error:
        raise _damaged(name, error) from None
    if not len(cells.numbers) and not cells.skipped:
        raise InputError(f"the label table '{name}' has a header and no rows", "a row for each image", _FIX)
    return cells


def _is_parquet(name: str) -> bool:
    return name.lower().endswith((".parquet", ".pq"))


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(  # the library's message may quote a row
        f"the label table '{name}' can't be read ({type(error).__name__})",
        "a whole CSV file (quotes closed, rows below 16 MB) or Parquet file",
        f"{_FIX}, or copy the file again",
    )


# CSV


def _delimiter(name: str) -> str:
    return "\t" if name.lower().removesuffix(".gz").endswith(".tsv") else ","


def _header(storage: Storage, name: str) -> list[str]:
    with open_binary(storage, name) as stream:
        start = bytes(stream.read(_HEADER_BYTES)).decode("utf-8-sig", "surrogateescape")
    cells = csv.reader(io.StringIO(start, newline=""), delimiter=_delimiter(name))
    try:
        names = [column.strip() for column in next(cells, [])]
    except csv.Error as error:
        raise _damaged(name, error) from None
    if not any(names):
        raise InputError(f"the label table '{name}' is empty", "a header and a row for each image", _FIX)
    if any("\0" in column or not column.isprintable() for column in names):
        raise InputError(f"the header of '{name}' isn't UTF-8 text", "a CSV file with a header", "convert it to UTF-8")
    return names


def _read_csv(storage: Storage, name: str, wanted: Sequence[str]) -> Cells:
    header = _header(storage, name)
    unique = [column or f"\0{number}" for number, column in enumerate(header)]
    skipped: list[tuple[int, str]] = []

    def skip(row: pacsv.InvalidRow) -> str:
        # Numbers are known in a reader without threads only; the header is row 1.
        skipped.append((row.number - 1, f"has {row.actual_columns} cells, expected {row.expected_columns}"))
        return "skip"

    with open_binary(storage, name) as stream:
        table = pacsv.read_csv(
            stream,
            # As Latin-1, in which every byte means something: in UTF-8 one bad row of another length ends it all.
            pacsv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=unique,
                skip_rows_after_names=1,
                encoding="latin1",
            ),
            pacsv.ParseOptions(delimiter=_delimiter(name), newlines_in_values=True, invalid_row_handler=skip),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.binary()), include_columns=list(wanted), strings_can_be_null=False
            ),
        )
    everything = np.arange(1, table.num_rows + len(skipped) + 1)
    numbers = np.setdiff1d(everything, [number for number, _ in skipped])
    return _cells({column: _original(table[column]) for column in wanted}, numbers, skipped)


def _original(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The file's bytes, of cells that were read as Latin-1."""
    if pc.all(pc.string_is_ascii(column.cast(pa.string()))).as_py() is not False:
        return column
    return pa.chunked_array([pa.array([cell.decode().encode("latin-1") for cell in column.to_pylist()], pa.binary())])


# Parquet


def _read_parquet(storage: Storage, name: str, wanted: Sequence[str]) -> Cells:
    table = storage.read_table(name, list(wanted))
    columns = {column: _as_binary(table[column]) for column in wanted}
    return _cells(columns, np.arange(1, table.num_rows + 1), [])


def _as_binary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_binary(column.cast(kind.value_type))
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        raise InputError(
            "a column of the label table holds lists", "one text per cell, labels separated by labels.separator", _FIX
        )
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        column = column.cast(pa.large_string())
    return column.cast(pa.binary())


# Both


def _cells(columns: dict[str, pa.ChunkedArray], numbers: NDArray[np.int64], skipped: list[tuple[int, str]]) -> Cells:
    reasons: NDArray[np.object_] = np.full(len(numbers), None, dtype=object)
    texts = {name: _as_text(column.combine_chunks(), reasons) for name, column in columns.items()}
    return Cells(texts, numbers, reasons, skipped)


def _as_text(column: pa.Array, reasons: NDArray[np.object_]) -> pa.Array:
    """The column as strings; rows that aren't UTF-8 get a reason and an empty cell.

    No cell that is read here (ids, names of labels) holds a line break; an open quote swallows the rows that follow.
    """
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    try:
        texts = column.cast(pa.string())
    except pa.ArrowInvalid:
        values: list[str] = []
        for number, value in enumerate(column.to_pylist()):
            try:
                values.append((value or b"").decode())
            except UnicodeDecodeError:
                values.append("")
                reasons[number] = NOT_UTF8
        texts = pa.array(values, pa.string())
    texts = pc.utf8_trim_whitespace(pc.fill_null(texts, ""))
    reasons[pc.match_substring(texts, "\n").to_numpy(zero_copy_only=False).astype(bool)] = LINE_BREAK
    return texts

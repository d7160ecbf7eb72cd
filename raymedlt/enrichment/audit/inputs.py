"""CSV files that a person gives to the audit: a label table, a filled-in sheet."""

from __future__ import annotations

import csv
import io
import posixpath

from raymedlt.errors import InputError
from raymedlt.storage import folder_and_name


def read_file(path: str, key: str) -> bytes:
    """A local file or URI.

    Args:
        key: the option that named it, for the message.

    Raises:
        InputError: it can't be read.
    """
    try:
        storage, name = folder_and_name(path)
        return storage.read_bytes(name)
    except OSError as error:
        raise InputError(
            f"the file of --{key} can't be read ({type(error).__name__})", "a file", f"check --{key}"
        ) from None


def read_csv(path: str, key: str) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file in UTF-8, with "," or ";" or tab between the cells (as spreadsheets save it).

    Missing cells are "". The names are stripped.

    Raises:
        InputError: it can't be read, or is no text in UTF-8.
    """
    try:
        text = read_file(path, key).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"the file of --{key} is not UTF-8", "a CSV file in UTF-8", "save it as CSV UTF-8") from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    csv.field_size_limit(10_000_000)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:
        raise InputError(f"the file of --{key} is no CSV table", "cells between commas", "save it as CSV") from None
    if not rows:
        return [], []
    columns = [name.strip() for name in rows[0]]
    return columns, [dict(zip(columns, row + [""] * len(columns), strict=False)) for row in rows[1:] if any(row)]


def name_of(path: str) -> str:
    """The file's own name."""
    return posixpath.basename(path)

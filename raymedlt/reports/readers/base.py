"""What every reader is: fixed units of input, and the rows of a unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Unit:
    """A fixed piece of input. Its name and content identify a shard of a run."""

    name: str
    """Unique in a reader; relative to what the user gave."""
    fingerprint: str
    """Hash of the content as far as it can be told without reading it: names, sizes and modification times."""
    rows_hint: int | None = None
    """Number of rows where it is known beforehand."""
    files: tuple[str, ...] = ()
    """The unit's files, relative to the reader's root."""


class Reader(Protocol):
    """Reads one format. Readers are small frozen dataclasses: they are pickled and sent to workers."""

    def units(self) -> list[Unit]:
        """All of the input, in canonical order (sorted names).

        Raises:
            InputError: the input as a whole can't be used (empty file, wrong columns).
        """
        ...

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        """The unit's rows, good and rejected, as tables of `schema.READ_ROWS` with at most `records.BATCH_ROWS` rows.

        The rows are in the source's order, and their `row_id` is unique in the run. Equal report ids are not looked
        for: they may be in different units.

        Raises:
            InputError: a file turns out to be damaged on the way.
        """
        ...

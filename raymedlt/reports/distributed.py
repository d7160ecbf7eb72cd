"""Reports as a Ray Data source: one read task per unit of a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raymedlt.reports.readers import Reader, Unit, open_reader
from raymedlt.schema import READ_ROWS

Produce = Callable[[Reader, Unit], Iterator[pa.Table]]


def read_unit(reader: Reader, unit: Unit) -> Iterator[pa.Table]:
    """What a read task does by default. A job passes a function of its own that goes through the run's ledger."""
    return reader.read(unit)


class ReportSource(Datasource):  # type: ignore[misc]
    """The units of a reader as read tasks that yield tables of `schema.READ_ROWS`.

    Args:
        reader: travels to the workers with each task.
        units: what to read; a job that goes on leaves out what is done.
        produce: makes the tables of one unit on the worker.

    There are as many tasks as units, whatever parallelism Ray asks for, since a shard follows from its content alone.
    """

    def __init__(self, reader: Reader, units: Sequence[Unit], produce: Produce = read_unit) -> None:
        super().__init__()
        self._reader, self._units, self._produce = reader, list(units), produce

    def get_name(self) -> str:
        """The operator's name on the dashboard."""
        return "Reports"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before reading."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task per unit, in the reader's order; `parallelism` is not looked at."""
        return [self._task(unit, per_task_row_limit) for unit in self._units]

    def _task(self, unit: Unit, per_task_row_limit: int | None) -> ReadTask:
        reader, produce = self._reader, self._produce  # not self: a task carries its own unit only

        def read() -> Iterator[pa.Table]:
            blocks = 0
            for blocks, table in enumerate(produce(reader, unit), 1):  # noqa: B007
                yield table
            if not blocks:
                yield READ_ROWS.empty_table()

        metadata = BlockMetadata(num_rows=unit.rows_hint, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(read, metadata, schema=READ_ROWS, per_task_row_limit=per_task_row_limit)


def read_reports(path: str | None = None, format: str = "openi", **options: Any) -> ray.data.Dataset:
    """Reports as a Ray Dataset with the columns of `schema.READ_ROWS`: good rows (reason null) and rejected ones.

    Args:
        path, format, options: see `readers.open_reader`; without any, the packaged OpenI reports.

    The order of the blocks is Ray's own; sort by `row_id` where order matters. Equal report ids are not looked for.

    Raises:
        ConfigError, InputError: see `readers.open_reader` and `Reader.units`.
    """
    reader = open_reader(path, format, **options)
    units = reader.units()
    return ray.data.read_datasource(ReportSource(reader, units), override_num_blocks=len(units))

"""Reports through Ray Data: the same rows as the reader's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from raymedlt.reports.readers import Reader, Unit, open_reader
from raymedlt.reports.records import make_row, tables
from raymedlt.schema import READ_ROWS

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("local_ray")


def collected(dataset: ray.data.Dataset) -> pa.Table:
    blocks = [ray.get(reference) for reference in dataset.to_arrow_refs()]
    return pa.concat_tables([block.cast(READ_ROWS) for block in blocks if block.num_rows]).sort_by("row_id")


def test_openi_equals_the_readers_own_rows() -> None:
    from raymedlt.reports.distributed import read_reports

    found = collected(read_reports())
    assert len(set(found["report_id"].to_pylist())) == found.num_rows == 3_955
    counts = {c: sum(map(bool, found[c].to_pylist())) for c in ("findings", "impression", "indication")}
    assert counts == {"findings": 3_425, "impression": 3_921, "indication": 3_865}
    reader = open_reader()
    own = pa.concat_tables([table for unit in reader.units() for table in reader.read(unit)]).sort_by("row_id")
    assert found.equals(own)


def test_one_task_per_unit_and_options_reach_the_reader(tmp_path: Path) -> None:
    from raymedlt.reports.distributed import ReportSource, read_reports

    for i in range(3):
        (tmp_path / f"{i}.csv").write_text(f"uid,findings\nr{i},Clear lungs.\nx{i},\n")
    columns = {"report_id": "uid"}
    reader = open_reader(str(tmp_path), "csv", columns)
    tasks = ReportSource(reader, reader.units()).get_read_tasks(parallelism=64)
    assert len(tasks) == 3
    found = collected(read_reports(str(tmp_path), "csv", columns=columns))
    assert found["report_id"].to_pylist() == ["r0", "x0", "r1", "x1", "r2", "x2"]
    assert found["reason"].to_pylist() == [None, "no findings and no impression"] * 3


def test_a_job_can_pass_its_own_produce() -> None:
    from raymedlt.reports.distributed import ReportSource

    def made_up(reader: Reader, unit: Unit) -> Iterator[pa.Table]:
        if unit.name == "b":
            return tables([])
        return tables([make_row(row_id=unit.name, source="s", report_id=unit.fingerprint, findings="Clear.")])

    units = [Unit("a", "1"), Unit("b", "2"), Unit("c", "3")]
    source = ReportSource(open_reader(), units, made_up)
    found = collected(ray.data.read_datasource(source, override_num_blocks=3))
    assert found["report_id"].to_pylist() == ["1", "3"]

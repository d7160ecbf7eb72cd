"""The tables' contract: columns that users and independent checks rely on, and `conform`."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raymedlt import schema
from raymedlt.errors import InputError

# What interfaces promise; a table may have more columns, never fewer.
PROMISED = {
    "ENRICHED": "report_id study_id patient_id split findings enriched_findings impression indication views image_ids "
    "language added status variant",
    "ADDITIONS": "report_id variant position sentence sentence_key cluster_id sign support confidence_min lift_lower "
    "purity guard witness seed version",
    "REFUSALS": "report_id cluster_id sentence_key reason",
    "SENTENCES": "section sentence_key text count cluster_id probability assigned sign",
    "CLUSTERS": "section cluster_id size occurrences sign purity medoid persistence",
    "EDGES": "section source target support confidence lift lift_lower opposite",
    "REJECTED": "row_id source reason",
}


@pytest.mark.parametrize("name", PROMISED)
def test_promised_columns_are_there(name: str):
    assert set(PROMISED[name].split()) <= set(getattr(schema, name).names)


def test_read_rows_are_reports_with_a_verdict():
    assert schema.READ_ROWS.names == [*schema.REPORTS.names, "row_id", "source", "reason"]


def test_ids_are_strings():
    assert {schema.REPORTS.field(name).type for name in ("report_id", "study_id", "patient_id")} == {pa.string()}


def test_conform_orders_and_casts():
    table = pa.table({"reason": ["r"], "extra": [1], "row_id": pa.array([7]), "source": ["s"]})
    result = schema.conform(table, schema.REJECTED, "rejected")
    assert result.schema == schema.REJECTED
    assert result.to_pylist() == [{"row_id": "7", "source": "s", "reason": "r"}]


def test_conform_names_what_is_missing():
    with pytest.raises(InputError, match=r"table 'rejected' lacks the columns \['source'\]; it has \['row_id', 'rea"):
        schema.conform(pa.table({"row_id": ["1"], "reason": ["r"]}), schema.REJECTED, "rejected")

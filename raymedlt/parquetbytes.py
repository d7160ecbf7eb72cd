"""Parquet files whose bytes follow from schema and values alone, for one version of pyarrow."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table, row_group_rows: int) -> bytes:
    """`table` as a Parquet file (zstd); see `Storage.write_table`."""
    table = _canonical(table)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", compression_level=3) as writer:
        # Page borders follow the chunks that the writer is given, so each row group is made one chunk first.
        for start in range(0, table.num_rows, row_group_rows):
            writer.write_table(table.slice(start, row_group_rows).combine_chunks(), row_group_size=row_group_rows)
    return bytes(sink.getvalue())


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

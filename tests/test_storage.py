"""Storage: names stay inside, writes are whole or absent, Parquet bytes follow from the values alone."""

import hashlib
import os
import pickle
import signal
import stat
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymedlt.errors import InputError, StorageError
from raymedlt.storage import FileEntry, Storage, beside, content_hash, sha256_of


def example_table():
    vectors = np.arange(48, dtype=np.float32).reshape(12, 4)
    return pa.table(
        {
            "key": [f"lungs are clear {i}" if i != 3 else None for i in range(12)],
            "count": pa.array(range(12), pa.int32()),
            "views": [["PA", "LATERAL"][: i % 3] for i in range(12)],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4),
            "image": pa.array([{"bytes": bytes([i]), "path": f"{i}.png"} for i in range(12)]),
            "probability": pa.array([float("nan"), -0.0, None] + [0.5] * 9, pa.float32()),
        }
    )


def test_bytes_round_trip(storage):
    entry = storage.write_bytes("a/b.bin", b"\0one")
    assert entry == FileEntry("a/b.bin", hashlib.sha256(b"\0one").hexdigest(), 4, 0)
    assert storage.read_bytes("a/b.bin") == b"\0one"
    storage.write_bytes("a/b.bin", b"two")
    assert storage.read_bytes("a/b.bin") == b"two"
    assert storage.size("a/b.bin") == 3
    assert storage.exists("a/b.bin")
    assert not storage.exists("a/c.bin")
    assert storage.size("a") is None
    assert storage.size("a/c.bin") is None
    with storage.open_input("a/b.bin") as file:
        file.seek(1)
        assert file.read() == b"wo"
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("a/c.bin")


def test_list_and_delete(storage):
    assert storage.list_files() == []
    for name in ("b/2.txt", "b/10.txt", "a.txt", "b/c/d.txt", "b/_tmp.123", "b/.hidden", ".git/config", "_tmp.x/y"):
        storage.write_bytes(name, b"x")
    assert storage.list_files() == ["a.txt", "b/10.txt", "b/2.txt", "b/c/d.txt"]
    assert storage.list_files("b") == ["b/10.txt", "b/2.txt", "b/c/d.txt"]
    assert storage.sub("b").list_files() == ["10.txt", "2.txt", "c/d.txt"]
    assert storage.entries() == [".git", "_tmp.x", "a.txt", "b"]
    assert storage.entries("b") == ["b/.hidden", "b/10.txt", "b/2.txt", "b/_tmp.123", "b/c"]
    assert storage.delete_unfinished() == 1
    assert not storage.exists("b/_tmp.123")
    storage.delete("a.txt")
    storage.delete("a.txt")
    storage.delete_folder("b")
    storage.delete_folder("b")
    assert storage.list_files() == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "a\0b", "a/"])
def test_names_stay_inside(storage, name):
    for call in (storage.read_bytes, storage.delete, storage.delete_folder, storage.sub):
        with pytest.raises(InputError, match="name relative to the folder"):
            call(name)
    with pytest.raises(InputError, match="name relative to the folder"):
        storage.write_bytes(name, b"")


def test_table_round_trip(storage):
    table = example_table()
    entry = storage.write_table("t/part.parquet", table)
    data = storage.read_bytes("t/part.parquet")
    assert (entry.rows, entry.bytes, entry.sha256) == (12, len(data), sha256_of(data))
    back = storage.read_table("t/part.parquet")
    assert back.schema == table.schema
    assert back.drop(["probability"]).equals(table.drop(["probability"]))
    assert str(back["probability"]) == str(table["probability"])
    assert storage.read_table("t/part.parquet", ["count"]).column_names == ["count"]


def test_read_folder_in_order_of_names(storage):
    for name, values in (
        ("t/b.parquet", [3]),
        ("t/a.parquet", [1, 2]),
        ("t/_tmp.c.parquet", [9]),
        ("u/d.parquet", [7]),
    ):
        storage.write_table(name, pa.table({"x": values}))
    storage.write_bytes("t/README.md", b"not a table")
    assert storage.read_folder("t")["x"].to_pylist() == [1, 2, 3]
    assert storage.read_tables(["u/d.parquet", "t/a.parquet"])["x"].to_pylist() == [7, 1, 2]
    with pytest.raises(InputError, match=r"no \*\.parquet in .*/missing'"):
        storage.read_folder("missing")
    with pytest.raises(InputError, match="at least one"):
        storage.read_tables([])


@pytest.mark.parametrize("row_group_rows", [5, 16_384])
def test_equal_tables_give_equal_bytes(tmp_path, row_group_rows):
    storage = Storage.of(str(tmp_path))
    table = example_table()
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 6), table.slice(7, 0), table.slice(7)])
    padded = pa.concat_tables([table.slice(5), table, table]).slice(7, 12)  # same values at an offset
    noted = table.replace_schema_metadata({"pandas": '{"index_columns": []}'})
    first, *others = (
        storage.write_table(f"{i}.parquet", t, row_group_rows=row_group_rows).sha256
        for i, t in enumerate([table, pieces, padded, noted, storage_round_trip(storage, table)])
    )
    assert padded.drop(["probability"]).equals(table.drop(["probability"]))
    assert others == [first] * 4
    changed = table.set_column(1, "count", pa.array([*range(11), 99], pa.int32()))
    assert storage.write_table("x.parquet", changed, row_group_rows=row_group_rows).sha256 != first
    assert pq.ParquetFile(tmp_path / "0.parquet").num_row_groups == -(-12 // row_group_rows)


def storage_round_trip(storage, table):
    storage.write_table("round.parquet", table)
    return storage.read_table("round.parquet")


def test_large_chunked_table_gives_equal_bytes(tmp_path):
    # More rows than a row group and than a Parquet write batch, with repeats and a dictionary that overflows.
    storage = Storage.of(str(tmp_path))
    rng = np.random.default_rng(0)
    texts = [f"sentence {i} " + "x" * int(rng.integers(0, 80)) for i in rng.integers(0, 30_000, 40_000)]
    table = pa.table({"text": texts, "vector": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(80_000)), 2)})
    cut = pa.concat_tables([table.slice(i, 777) for i in range(0, 40_000, 777)])
    assert cut["text"].num_chunks > 50
    assert storage.write_table("a.parquet", table).sha256 == storage.write_table("b.parquet", cut).sha256
    assert storage.read_table("b.parquet").equals(table)


def test_dictionary_columns_are_stored_as_values(tmp_path):
    storage = Storage.of(str(tmp_path))
    plain = pa.table({"split": ["train", "test", "train"]})
    one = pa.table({"split": pa.array(["train", "test", "train"]).dictionary_encode()})
    two = pa.table({"split": pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array(["test", "train"]))})
    names = {storage.write_table(f"{i}.parquet", t).sha256 for i, t in enumerate([plain, one, two])}
    assert len(names) == 1


def test_tables_from_pandas_and_other_metadata(tmp_path):
    storage = Storage.of(str(tmp_path))
    frame = pd.DataFrame({"x": [1, 2]}, index=["a", "b"])
    storage.write_table("p.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    assert b"pandas" not in (storage.read_table("p.parquet").schema.metadata or {})
    kept = pa.table({"x": [1]}).replace_schema_metadata({"huggingface": "{}"})
    storage.write_table("h.parquet", kept)
    assert storage.read_table("h.parquet").schema.metadata == {b"huggingface": b"{}"}


def test_empty_table_keeps_its_schema(storage):
    entry = storage.write_table("e.parquet", example_table().slice(0, 0))
    assert entry.rows == 0
    assert storage.read_folder("").schema == example_table().schema


def test_of_paths_and_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Storage.of("runs/x").uri == str(tmp_path / "runs/x")
    assert Storage.of("~/x").uri == str(tmp_path / "home/x")
    assert Storage.of("a/../b/").uri == str(tmp_path / "b")
    assert Storage.of("file:///data/my%20runs").path("a") == "/data/my runs/a"
    assert Storage.of("file:///data").is_local
    s3 = Storage.of("s3://bucket/run?region=eu-west-1").sub("model")
    assert (s3.uri, s3.path("a.json"), s3.is_local) == ("s3://bucket/run/model", "bucket/run/model/a.json", False)
    azure = Storage.of("abfs://box@account.dfs.core.windows.net/run")
    assert azure.uri == "abfs://box@account.dfs.core.windows.net/run"
    for bad in ("", "a\0b"):
        with pytest.raises(InputError, match="an empty or unreadable path"):
            Storage.of(bad)


def test_credentials_are_not_shown():
    storage = Storage.of("s3://AKIAKEY:hushhush@bucket/run?region=eu-west-1").sub("model")
    assert storage.uri == "s3://bucket/run/model"
    assert "hushhush" not in repr(storage)
    with pytest.raises(InputError, match="a 's9://' URI that can't be used") as caught:
        Storage.of("s9://AKIAKEY:hushhush@bucket/run")
    assert "hushhush" not in str(caught.value)


def test_storage_is_small_to_pickle(storage):
    storage.write_bytes("a", b"1")
    data = pickle.dumps(storage)
    assert len(data) < 300
    assert pickle.loads(data).read_bytes("a") == b"1"


def test_umask_decides_the_mode(tmp_path):
    before = os.umask(0o027)
    try:
        Storage.of(str(tmp_path)).write_bytes("a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()  # a folder stands where the file should go
    with pytest.raises(StorageError, match=rf"'{tmp_path}/a' can't be written \(.*directory.*free space, or check"):
        Storage.of(str(tmp_path)).write_bytes("a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_killed_writer_leaves_the_old_file(tmp_path):
    storage = Storage.of(str(tmp_path))
    storage.write_bytes("a.txt", b"old")
    code = (
        "import os, signal, sys\n"
        "from raymedlt.storage import Storage\n"
        "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"  # the last moment before the rename
        "Storage.of(sys.argv[1]).write_bytes('a.txt', b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert storage.read_bytes("a.txt") == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    assert storage.list_files() == ["a.txt"]
    assert storage.delete_unfinished() == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_content_hash():
    assert content_hash("a", 1, b"c") == "343c790451ce8d76"
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("1",), (1,), (b"1",), (), ("",), ("", "")]
    assert len({content_hash(*p) for p in parts}) == len(parts)
    assert content_hash("\ud800")  # a lone surrogate is no error


@pytest.mark.parametrize(("start", "count"), [(0, 5), (3, 4), (4, 4), (7, 3), (0, 10), (9, 5), (12, 1)])
def test_rows_are_read_by_group(tmp_path, start, count):
    storage = Storage.of(str(tmp_path))
    table = pa.table({"n": list(range(10))})
    storage.write_table("t.parquet", table, row_group_rows=4)
    assert storage.read_rows("t.parquet", start, count)["n"].to_pylist() == list(range(10))[start : start + count]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("runs/align", "runs/finetune"),
        ("align/", "finetune"),
        ("/runs/a/", "/runs/finetune"),
        ("s3://bucket/align", "s3://bucket/finetune"),
        ("s3://bucket/runs/align/?region=us-east-1", "s3://bucket/runs/finetune?region=us-east-1"),
    ],
)
def test_beside(folder: str, expected: str):
    assert beside(folder, "finetune") == expected


@pytest.mark.parametrize("bucket", ["s3://bucket", "s3://bucket/", "gs://bucket?x=1"])
def test_nothing_lies_beside_a_bucket(bucket: str):
    with pytest.raises(InputError, match="a folder in a bucket"):
        beside(bucket, "finetune")

"""Ledger: a shard counts once, a folder has one run and one driver, and nobody's own files are touched."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from raymedlt import driverlock
from raymedlt.errors import ConsistencyError, InputError, RunConflictError
from raymedlt.ledger import Ledger, flatten
from raymedlt.storage import Storage
from raymedlt.versions import versions_here


@pytest.fixture
def local(tmp_path):
    return Storage.of(str(tmp_path / "out"))


def start(storage, *, config=None, config_hash="c0", data_hash="d0", job="", restart=False):
    config = {"seed": 0} if config is None else config
    return Ledger.open(storage, config_hash=config_hash, config=config, data_hash=data_hash, job=job, restart=restart)


def work(ledger, stage, shard, value=1):
    """A shard's work as stages do it: write the file, then mark."""
    entry = ledger.storage.write_table(f"{stage}/{shard}.parquet", pa.table({"x": [value]}))
    ledger.commit(stage, shard, [entry], {"rows": 1})
    return entry


# Shards


def test_done_after_commit_and_across_runs(storage):
    with start(storage) as ledger:
        assert ledger.pending("embed", ["s2", "s1", "s3"]) == ["s2", "s1", "s3"]
        assert ledger.done("embed", "s1") is None
        entry = work(ledger, "embed", "s1")
        assert ledger.done("embed", "s1") == {"rows": 1}
        assert ledger.done("read", "s1") is None
    with start(storage) as ledger:
        assert ledger.pending("embed", ["s2", "s1", "s3"]) == ["s2", "s3"]
        marker = ledger.shards("embed")["s1"]
        assert (marker.stage, marker.shard, marker.files, marker.summary) == ("embed", "s1", (entry,), {"rows": 1})


def test_commit_twice_is_once(storage):
    with start(storage) as ledger:
        work(ledger, "embed", "s1")
        before = storage.read_bytes("_ledger/embed/s1.json")
        work(ledger, "embed", "s1")
        assert storage.read_bytes("_ledger/embed/s1.json") == before
        assert len(ledger.shards("embed")) == 1
        assert len(ledger.manifest()) == 1


def test_marker_does_not_depend_on_order(storage):
    with start(storage) as ledger:
        files = [storage.write_bytes(name, name.encode()) for name in ("b", "a")]
        ledger.commit("stage", "s", files, {"x": 1, "a": 2})
        first = storage.read_bytes("_ledger/stage/s.json")
        storage.delete("_ledger/stage/s.json")
        ledger.commit("stage", "s", reversed(files), {"a": 2, "x": 1})
        assert storage.read_bytes("_ledger/stage/s.json") == first


def test_unmarked_and_lost_files_are_pending(storage):
    with start(storage) as ledger:
        storage.write_table("embed/s0.parquet", pa.table({"x": [1]}))  # written, never marked
        for shard in ("s1", "s2", "s3"):
            work(ledger, "embed", shard)
        storage.delete("embed/s1.parquet")
        storage.write_bytes("embed/s2.parquet", b"cut off")
        assert ledger.pending("embed", ["s0", "s1", "s2", "s3"]) == ["s0", "s1", "s2"]
        assert list(ledger.shards("embed")) == ["s3"]
        assert [entry.name for entry in ledger.manifest()] == ["embed/s3.parquet"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"files": [{}], "summary": {}}', b'{"files": 3}'])
def test_damaged_marker_is_done_again(storage, damage):
    with start(storage) as ledger:
        work(ledger, "embed", "s1")
        storage.write_bytes("_ledger/embed/s1.json", damage)
        assert ledger.pending("embed", ["s1"]) == ["s1"]
        work(ledger, "embed", "s1")
        assert ledger.pending("embed", ["s1"]) == []


def test_commit_refuses_files_that_are_not_there(storage):
    with start(storage) as ledger:
        entry = storage.write_bytes("a", b"123")
        storage.write_bytes("a", b"12")
        with pytest.raises(ConsistencyError, match=r"embed/s1: file 'a' has 2 bytes. Expected: 3 bytes"):
            ledger.commit("embed", "s1", [entry], {})
        storage.delete("a")
        with pytest.raises(ConsistencyError, match="has None bytes"):
            ledger.commit("embed", "s1", [entry], {})
        assert ledger.done("embed", "s1") is None


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "_x", "a b", "x" * 201])
def test_names_of_stages_and_shards(local, name):
    with start(local) as ledger:
        for stage, shard in ((name, "s"), ("embed", name)):
            with pytest.raises(InputError, match="stage or shard name"):
                ledger.commit(stage, shard, [], {})
            with pytest.raises(InputError, match="stage or shard name"):
                ledger.done(stage, shard)


def test_summary_must_be_json(local):
    with start(local) as ledger, pytest.raises(InputError, match="isn't JSON"):
        ledger.commit("embed", "s", [], {"x": object()})


def test_verify_and_manifest(storage):
    with start(storage) as ledger:
        entries = [work(ledger, "embed", f"s{i}", i) for i in range(3)]
        entries.append(work(ledger, "cluster", "all"))
        assert ledger.stages() == ["cluster", "embed"]
        assert ledger.manifest() == sorted(entries, key=lambda entry: entry.name)
        assert (ledger.verify("embed"), ledger.verify("cluster"), ledger.verify("none")) == (3, 1, 0)
        data = bytearray(storage.read_bytes("embed/s1.parquet"))
        data[10] ^= 1  # same size, other content
        storage.write_bytes("embed/s1.parquet", bytes(data))
        with pytest.raises(ConsistencyError, match=r"1 of 3 files of 'embed' .* first 'embed/s1.parquet'"):
            ledger.verify("embed")


def test_one_owner_per_file(local):
    with start(local) as ledger:
        entry = local.write_bytes("a", b"1")
        ledger.commit("one", "s", [entry], {})
        ledger.commit("two", "s", [local.write_bytes("a", b"2")], {})
        with pytest.raises(ConsistencyError, match="two shards wrote 'a', last 'two/s'"):
            ledger.manifest()


def test_worker_handle(local):
    with start(local) as ledger:
        data = pickle.dumps(ledger.worker())
        assert len(data) < 400
        work(pickle.loads(data), "embed", "s1")
        assert ledger.done("embed", "s1") == {"rows": 1}


# Runs


def test_other_configuration_is_refused_with_the_keys_that_differ(storage):
    start(storage, config={"embedding": {"batch": 64, "gone": True}, "seed": 0, "path": ("a", "b")}).close()
    with pytest.raises(RunConflictError) as caught:
        start(storage, config_hash="c1", config={"embedding.batch": 32, "seed": 0, "path": ["a", "b"], "new": "x"})
    message = str(caught.value)
    assert 'embedding.batch: 64 -> 32; embedding.gone: true -> (unset); new: (unset) -> "x"' in message
    assert "seed" not in message
    assert "--restart" in message
    assert "--output" in message
    start(storage, config={"seed": 0}).close()  # the refused one left no lock; the hash decides, not the wording


def test_other_data_and_other_version_are_refused(storage):
    start(storage).close()
    with pytest.raises(RunConflictError, match="other input data"):
        start(storage, data_hash="d1")
    run = json.loads(storage.read_bytes("_ledger/run.json"))
    run["versions"]["raymedlt"] = "0.0.1"
    storage.write_bytes("_ledger/run.json", json.dumps(run).encode())
    with pytest.raises(RunConflictError, match=r'another version: raymedlt: "0.0.1" -> "'):
        start(storage)


@pytest.mark.parametrize("restart", [False, True])
def test_another_jobs_run_is_refused_and_untouched(storage, restart):
    with start(storage, job="enrich") as ledger:
        work(ledger, "embed", "s1")
    before = storage.list_files()
    with pytest.raises(RunConflictError, match="a run of another job, enrich"):
        start(storage, job="classify", restart=restart)
    assert storage.list_files() == before
    with start(storage, job="enrich") as ledger:
        assert ledger.done("embed", "s1") == {"rows": 1}


def test_other_versions_go_on_with_a_word_and_are_kept(storage, monkeypatch, caplog):
    with start(storage) as ledger:
        work(ledger, "embed", "s1")
    first = versions_here()
    monkeypatch.setattr("raymedlt.ledger.versions_here", lambda: first | {"torch": "9.9"})
    for _ in range(2):
        with start(storage) as ledger:
            assert ledger.done("embed", "s1") == {"rows": 1}
    assert caplog.text.count(f"torch {first['torch']} and 9.9") == 1
    assert json.loads(storage.read_bytes("_ledger/run.json"))["computed_with"] == [first, first | {"torch": "9.9"}]


@pytest.mark.parametrize("folder", ["file", "file/run", "file/a/b"])
def test_an_output_that_can_not_be_a_folder(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"can't be the output folder.*give another --output"):
        start(Storage.of(str(tmp_path / folder)))
    assert (tmp_path / "file").read_text() == "mine"


def test_restart_deletes_what_the_run_made(storage):
    with start(storage) as ledger:
        work(ledger, "embed", "s1")
        storage.write_bytes("report.html", b"page")
        storage.write_bytes("embed/deep/_tmp.1", b"cut off")
        storage.write_bytes(".notes/mine.txt", b"hidden files are the user's")
    with start(storage, config_hash="c1", data_hash="d1", restart=True) as ledger:
        assert storage.list_files() == ["_ledger/driver.json", "_ledger/run.json"]
        assert not storage.exists("embed")
        assert storage.read_bytes(".notes/mine.txt")
        assert ledger.pending("embed", ["s1"]) == ["s1"]
        work(ledger, "embed", "s1")
    with start(storage, config_hash="c1", data_hash="d1") as ledger:
        assert ledger.pending("embed", ["s1"]) == []


@pytest.mark.parametrize("restart", [False, True])
def test_folder_of_somebody_else_is_refused_and_untouched(storage, restart):
    storage.write_bytes("thesis.tex", b"years of work")
    with pytest.raises(RunConflictError, match=r"files of somebody else \(1 entries, first 'thesis.tex'\)"):
        start(storage, restart=restart)
    assert storage.entries() == ["thesis.tex"]


def test_restart_in_an_empty_folder(storage):
    storage.write_bytes(".DS_Store", b"")
    start(storage, restart=True).close()
    assert storage.exists("_ledger/run.json")


def test_killed_during_restart(local, monkeypatch):
    with start(local) as ledger:
        work(ledger, "embed", "s1")
    monkeypatch.setattr(Storage, "delete_folder", lambda self, name: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start(local, config_hash="c1", restart=True)
    monkeypatch.undo()
    with start(local, config_hash="c1", restart=True) as ledger:  # still known as a run
        assert ledger.pending("embed", ["s1"]) == ["s1"]


def test_unfinished_files_are_removed_on_resume(local):
    start(local).close()
    local.write_bytes("embed/_tmp.1234", b"x")
    start(local).close()
    assert not local.exists("embed/_tmp.1234")


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}
    assert flatten(flatten({"a": {"b": 1}})) == {"a.b": 1}


# Drivers

_DRIVER = """
import sys, time
from raymedlt.errors import RunConflictError
from raymedlt.ledger import Ledger
from raymedlt.storage import Storage
try:
    ledger = Ledger.open(Storage.of(sys.argv[1]), config_hash="c0", config={"seed": 0}, data_hash="d0")
except RunConflictError:
    print("refused", flush=True)
    sys.exit()
print("open", flush=True)
sys.stdin.readline()
"""


def driver(storage):
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, storage.location], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def end(*processes):
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_second_driver_is_refused_while_the_first_lives(storage):
    with start(storage), pytest.raises(RunConflictError) as caught:
        start(storage)
    assert f"process {os.getpid()} on host" in str(caught.value)
    assert not storage.exists("_ledger/driver.json")  # closed: free
    start(storage).close()


def test_killed_driver_is_taken_over_at_once(local):
    other = driver(local)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RunConflictError, match=f"process {other.pid} on host"):
            start(local)
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, but still a zombie
        start(local).close()
    finally:
        end(other)


def test_of_many_drivers_one_gets_a_dead_drivers_folder(local):
    dead = driver(local)
    assert dead.stdout.readline() == "open\n"
    end(dead)
    assert local.exists("_ledger/driver.json")
    many = [driver(local) for _ in range(4)]
    try:
        assert sorted(process.stdout.readline() for process in many) == ["open\n", *["refused\n"] * 3]
    finally:
        end(*many)


def holder(storage, **changes):
    """Write a lock as if held by somebody else."""
    start(storage).close()
    value = {
        "host": "elsewhere",
        "machine": "m",
        "pid": os.getpid(),
        "started": "1",
        "id": "other",
        "heartbeat": time.time(),
    }
    storage.write_bytes("_ledger/driver.json", json.dumps(value | changes).encode())


def test_driver_on_another_host(storage):
    holder(storage, heartbeat=time.time() - 50)
    with pytest.raises(RunConflictError, match=r"on host elsewhere, heard of 5\d s ago"):
        start(storage)
    holder_since(storage, 61)
    start(storage).close()


def holder_since(storage, seconds):
    value = json.loads(storage.read_bytes("_ledger/driver.json"))
    storage.write_bytes("_ledger/driver.json", json.dumps(value | {"heartbeat": time.time() - seconds}).encode())


def test_reused_process_id_is_not_the_driver(local):
    with start(local):
        mine = json.loads(local.read_bytes("_ledger/driver.json"))
    local.write_bytes("_ledger/driver.json", json.dumps(mine | {"started": mine["started"] + "0"}).encode())
    start(local).close()
    local.write_bytes("_ledger/driver.json", json.dumps(mine).encode())
    with pytest.raises(RunConflictError):
        start(local)


def test_heartbeat_goes_on_and_a_lost_lock_is_noticed(storage, monkeypatch):
    monkeypatch.setattr(driverlock, "HEARTBEAT_EVERY", 0.02)
    with start(storage) as ledger:
        first = json.loads(storage.read_bytes("_ledger/driver.json"))
        deadline = time.time() + 20
        while json.loads(storage.read_bytes("_ledger/driver.json"))["heartbeat"] == first["heartbeat"]:
            assert time.time() < deadline
            time.sleep(0.01)
        work(ledger, "embed", "s1")
        ledger._lock._stop.set()  # hold still, so that the take-over isn't written over by a beat under way
        ledger._lock._thread.join()
        storage.write_bytes("_ledger/driver.json", json.dumps(first | {"id": "other", "host": "elsewhere"}).encode())
        assert not ledger._lock._refresh()
        with pytest.raises(RunConflictError, match="on host elsewhere"):
            work(ledger, "embed", "s2")
        with pytest.raises(RunConflictError, match="one driver per output folder"):
            ledger.check_lock()
    assert json.loads(storage.read_bytes("_ledger/driver.json"))["id"] == "other"  # not ours to remove

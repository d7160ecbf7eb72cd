"""What an object store does otherwise than a disk: uploads in parts, pages of a listing, no locks, and bad days.

What both must do is tested for both in test_storage.py and test_ledger.py.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from s3_world import FAULTS, SECRET, bad_store, environment_of

from raymedlt import connection, driverlock
from raymedlt.driverlock import DriverLock
from raymedlt.errors import RunConflictError, StorageError
from raymedlt.ledger import Ledger
from raymedlt.storage import Storage, below, folder_and_name, sha256_of

MEGABYTE = 1 << 20


def child(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def open_ledger(storage: Storage) -> Ledger:
    return Ledger.open(storage, config_hash="c0", config={"seed": 0}, data_hash="d0")


# Whole or not at all

_WRITE_A_SHARD = """
import sys
from raymedlt.ledger import Ledger
from raymedlt.storage import Storage
storage = Storage.of(sys.argv[1])
ledger = Ledger.open(storage, config_hash="c0", config={"seed": 0}, data_hash="d0")
entry = storage.write_bytes("images/s1.bin", bytes(range(256)) * (64 * 4096))
ledger.commit("images", "s1", [entry], {"rows": 1})
"""


def test_killed_in_the_middle_of_an_upload(s3, s3_port, monkeypatch):
    with bad_store(s3_port) as store:
        store.hold = lambda request: request.startswith("PUT") and "partNumber=4&" in request
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        writer = child(_WRITE_A_SHARD, s3)
        assert store.held.wait(120)
        parts = [request for request in store.requests if "partNumber" in request]
        assert len(parts) >= 2  # others were on their way, or are there
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(s3_port)["AWS_ENDPOINT_URL"])
    storage = Storage.of(s3)
    assert storage.list_files() == ["_ledger/driver.json", "_ledger/run.json"]
    assert storage.size("images/s1.bin") is None
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("images/s1.bin")
    with open_ledger(storage) as ledger:  # the dead driver's lock is free at once
        assert ledger.pending("images", ["s1"]) == ["s1"]
    again = child(_WRITE_A_SHARD, s3)
    again.communicate(timeout=240)
    assert again.returncode == 0
    storage.delete("_ledger/driver.json")
    with open_ledger(storage) as ledger:
        assert ledger.pending("images", ["s1"]) == []
        assert ledger.verify("images") == 1
    assert storage.size("images/s1.bin") == 64 * MEGABYTE


def test_a_large_object_is_replaced_at_once(s3):
    """A reader beside a writer sees one of the two, never a mixture or a part."""
    storage = Storage.of(s3)
    old, new = b"a" * (11 * MEGABYTE), b"b" * (12 * MEGABYTE)
    storage.write_bytes("x", old)
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(storage.size("x"))

    reader = threading.Thread(target=read)
    reader.start()
    storage.write_bytes("x", new)
    done.set()
    reader.join()
    assert seen <= {len(old), len(new)}
    assert sha256_of(storage.read_bytes("x")) == sha256_of(new)


_STOPPED_WHILE_WRITING = """
import os, signal, sys, time
from raymedlt import storage
from raymedlt.errors import InterruptedRun
from raymedlt.runtime import graceful_stop

def put(filesystem, path, data):
    with filesystem.open_output_stream(path) as stream:
        os.kill(os.getpid(), signal.SIGTERM)  # the worst moment: closing puts what is there so far, which is nothing
        time.sleep(0.3)
        stream.write(data)

storage.put = put
where = storage.Storage.of(sys.argv[1])
try:
    with graceful_stop():
        where.write_bytes("x", b"whole")
except InterruptedRun:
    print("stopped", flush=True)
"""


def test_a_stopped_writer_leaves_no_empty_object(s3):
    told, _ = child(_STOPPED_WHILE_WRITING, s3).communicate(timeout=120)
    assert told == "stopped\n"
    assert Storage.of(s3).read_bytes("x") == b"whole"


def test_a_small_file_is_one_request(s3, s3_port, monkeypatch):
    with bad_store(s3_port) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        storage = Storage.of(f"{s3}/one")
        storage.write_bytes("a/marker.json", b"{}")
        storage.write_bytes("a/empty", b"")
        assert [request.split()[0] for request in store.requests] == ["PUT", "PUT"]


# Listings


def test_more_files_than_a_page_of_the_listing_holds(s3):
    storage = Storage.of(s3)
    names = [f"many/{number:04d}" for number in range(1010)]  # S3 lists, and deletes, 1,000 at a time
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write_bytes(name, b"x"), names))
    storage.write_bytes("other", b"y")
    assert storage.list_files("many") == names
    assert len(storage.entries("many")) == 1010
    assert len(storage.sizes()) == 1011
    storage.delete_folder("many")
    assert storage.list_files() == ["other"]


# Two drivers


def test_of_two_drivers_that_write_at_the_same_moment_one_goes_on(s3, s3_port, monkeypatch):
    storage = Storage.of(f"{s3}/first")
    with bad_store(s3_port) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        late = Storage.of(f"{s3}/first?region=us-east-1")  # another connection, through the proxy
        store.hold = lambda request: request.startswith("PUT")
        ends: dict[str, Any] = {}

        def take(name: str, where: Storage) -> None:
            try:
                ends[name] = DriverLock.acquire(where, "driver.json")
            except RunConflictError as error:
                ends[name] = error

        second = threading.Thread(target=take, args=("second", late))
        second.start()
        assert store.held.wait(60)  # it has looked, found nobody, and its lock is on the way
        monkeypatch.setattr(driverlock, "SETTLES_AFTER", 5.0)
        first = threading.Thread(target=take, args=("first", storage))
        first.start()
        while not storage.exists("driver.json"):
            time.sleep(0.05)
        store.release.set()
        first.join()
        second.join()
    assert isinstance(ends["first"], RunConflictError)
    assert f"process {os.getpid()} on host" in str(ends["first"])
    ends["second"].check()
    ends["second"].release()
    assert not storage.exists("driver.json")


def test_the_heartbeat_is_kept_and_a_loss_is_noticed(s3, monkeypatch):
    monkeypatch.setattr(driverlock, "HEARTBEAT_EVERY", 0.1)
    monkeypatch.setattr(driverlock, "SETTLES_AFTER", 0.0)
    storage = Storage.of(s3)
    lock = DriverLock.acquire(storage, "driver.json")
    first = json.loads(storage.read_bytes("driver.json"))
    later = first
    ends = time.monotonic() + 30
    while later["heartbeat"] == first["heartbeat"] and time.monotonic() < ends:
        later = json.loads(storage.read_bytes("driver.json"))
    assert later["heartbeat"] > first["heartbeat"]
    lock.check()
    while not lock._lost.is_set() and time.monotonic() < ends:  # a beat under way may still write over the other's lock
        storage.write_bytes("driver.json", json.dumps(first | {"host": "elsewhere", "id": "other"}).encode())
        time.sleep(0.3)
    with pytest.raises(RunConflictError, match="on host elsewhere"):
        lock.check()
    lock.release()
    assert json.loads(storage.read_bytes("driver.json"))["id"] == "other"


# Bad days


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_now_and_then_is_tried_again(s3, s3_port, monkeypatch, fault):
    with bad_store(s3_port, rate=0.3, seed=3, faults=(fault,)) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        storage = Storage.of(f"{s3}/{fault}")
        for number in range(4):
            storage.write_bytes(f"{number}", bytes(1000 * number))
        assert [len(storage.read_bytes(name)) for name in storage.list_files()] == [0, 1000, 2000, 3000]
        assert store.injected[fault] >= 2


def test_a_store_that_is_away_is_an_error_that_says_so(s3, s3_port, monkeypatch):
    monkeypatch.setattr(connection, "_S3_ATTEMPTS", 2)
    with bad_store(s3_port, faults=("error", "busy", "reset")) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        storage = Storage.of(f"{s3}/away")
        storage.write_bytes("x", b"old")
        store.rate = 1.0
        calls = {
            "written": (lambda: storage.write_bytes("x", b"new"), lambda: storage.delete("x")),
            "read": (
                lambda: storage.read_bytes("x"), lambda: storage.size("x"), lambda: storage.exists("x"),
                storage.list_files, storage.sizes, lambda: storage.read_table("x"),
            ),
        }  # fmt: skip
        for verb, functions in calls.items():
            for function in functions:
                with pytest.raises(StorageError, match=rf"'s3://.*' can't be {verb} \(.*same command again") as caught:
                    function()
                assert SECRET not in str(caught.value)
                assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        store.rate = 0.0
        assert storage.read_bytes("x") == b"old"


def test_a_part_that_never_arrives_leaves_no_object(s3, s3_port, monkeypatch):
    monkeypatch.setattr(connection, "_S3_ATTEMPTS", 2)
    with bad_store(s3_port, faults=("error",)) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        storage = Storage.of(f"{s3}/parts")
        whole = store.fault
        monkeypatch.setattr(store, "fault", lambda request: "error" if "partNumber=2&" in request else whole(request))
        with pytest.raises(StorageError, match="can't be written"):
            storage.write_bytes("x", bytes(25 * MEGABYTE))
        assert storage.list_files() == []


# Addresses


def test_an_endpoint_in_the_uri_reaches_every_folder(s3, s3_port, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    storage = Storage.of(f"{s3}/run?endpoint_override=127.0.0.1:{s3_port}&scheme=http")
    storage.write_bytes("model/a.json", b"1")
    assert storage.uri == f"{s3}/run"
    below_it = Storage.of(storage.sub("model").address)
    assert below_it.read_bytes("a.json") == b"1"
    assert below(storage.address, "model") == storage.sub("model").address
    folder, name = folder_and_name(below(storage.address, "model/a.json"))
    assert (folder.read_bytes(name), name) == (b"1", "a.json")
    with storage.on_disk() as copy:
        assert (copy / "model/a.json").read_bytes() == b"1"


def test_credentials_of_the_environment_are_nowhere(s3):
    storage = Storage.of(s3)
    storage.write_bytes("x", b"1")
    for data in (pickle.dumps(storage), pickle.dumps(storage.filesystem), repr(storage).encode()):
        assert SECRET.encode() not in data
    assert pickle.loads(pickle.dumps(storage.filesystem)).get_file_info(storage.path("x")).size == 1

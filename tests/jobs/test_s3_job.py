"""jobs/enrich.py from and to an S3 server on loopback: a good one, a bad one, and one that goes away."""

from __future__ import annotations

import hashlib

import pytest
from runs import TABLES, arguments_of, inside, tables_of, undisturbed
from s3_world import SECRET, bad_store, environment_of

from raymedlt import connection, driverlock
from raymedlt.storage import Storage


@pytest.fixture
def source(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The reports of `undisturbed`, on the server."""
    monkeypatch.setattr(driverlock, "SETTLES_AFTER", 0.0)
    Storage.of(s3).write_bytes("small.csv", undisturbed().source.read_bytes())
    return f"{s3}/small.csv"


def tables_at(output: str) -> dict[str, str]:
    """As `tables_of`, of a run on the server."""
    storage = Storage.of(output)
    names = [name for table in TABLES for name in storage.list_files(table)]
    return {name: hashlib.sha256(storage.read_bytes(name)).hexdigest() for name in names}


def test_the_same_bytes_as_on_a_disk(s3, source, capfd):
    output = f"{s3}/run"
    assert inside(*arguments_of(source, output, "--workers", "2")) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"{output}/report.html"
    assert tables_at(output) == tables_of(undisturbed().output)
    assert not Storage.of(output).exists("_ledger/driver.json")
    before = {name: Storage.of(output).read_bytes(name) for name in Storage.of(output).list_files()}
    assert inside(*arguments_of(source, output, "--workers", "2")) == 0
    assert "already done" in capfd.readouterr().err
    assert {name: Storage.of(output).read_bytes(name) for name in Storage.of(output).list_files()} == before
    assert not any(SECRET.encode() in data for data in before.values())


@pytest.mark.slow
def test_a_bad_store_changes_nothing(s3, s3_port, source, monkeypatch, capfd):
    with bad_store(s3_port, rate=0.08, seed=1) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        output = f"{s3}/bad"
        code = inside(*arguments_of(source, output, "--workers", "4"))
        assert code == 0, capfd.readouterr().err[-2000:]
        store.rate = 0.0
        assert tables_at(output) == tables_of(undisturbed().output)
        assert sum(store.injected.values()) >= 10
        assert len(store.injected) >= 4


@pytest.mark.slow
def test_a_store_that_goes_away_ends_the_run_and_the_same_command_goes_on(s3, s3_port, source, monkeypatch, capfd):
    monkeypatch.setattr(connection, "_S3_ATTEMPTS", 2)
    with bad_store(s3_port, faults=("error", "reset")) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_of(store.port)["AWS_ENDPOINT_URL"])
        output = f"{s3}/away"
        storage = Storage.of(output)

        def embedded(request: str) -> bool:
            """From the second finished shard of the embedding on, nothing works."""
            if sum("PUT" in each and "/_ledger/embed/" in each for each in store.requests) >= 2:
                store.rate = 1.0
            return False

        store.hold = embedded
        assert inside(*arguments_of(source, output, "--workers", "2")) == 1
        told = capfd.readouterr().err
        assert "StorageError: 's3://bucket/" in told
        assert "give the same command again: finished work is kept" in told
        assert "Traceback" not in told
        store.hold, store.rate = lambda request: False, 0.0
        storage.delete(
            "_ledger/driver.json"
        )  # as if its process had ended; that it takes over then is tested elsewhere
        finished = [name for name in storage.list_files("_ledger") if name.count("/") == 2]
        assert any("/embed/" in name for name in finished)
        store.requests.clear()
        assert inside(*arguments_of(source, output, "--workers", "2")) == 0
        assert tables_at(output) == tables_of(undisturbed().output)
        written = [each for each in store.requests if each.startswith("PUT")]
        assert [name for name in finished if any(each.endswith(name) for each in written)] == []

"""Runtime: shards count once whatever dies, errors arrive as they were raised, signals leave a run that resumes."""

import contextlib
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
from ray.util import placement_group_table

from raymedlt.errors import ConsistencyError, InputError, InterruptedRun, RaymedltError
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.progress import Progress
from raymedlt.replicas import _release, run_replicas
from raymedlt.runtime import (
    connect,
    graceful_stop,
    private_by_default,
    run_shards,
    run_shards_locally,
)
from raymedlt.shards import answer
from raymedlt.storage import Storage

SHARDS = [f"s{i}" for i in range(6)]


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(Storage.of(str(tmp_path / "out")), config_hash="c", config={}, data_hash="d") as opened:
        yield opened


@pytest.fixture
def notes(tmp_path):
    """A folder in which the workers leave notes for the test."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def make(ledger, notes, before=lambda shard: None):
    """A stage's function: notes each execution, calls `before`, then writes, commits and returns the summary."""
    handle, folder = ledger.worker(), str(notes)

    def function(shard):
        with open(f"{folder}/{shard}", "a") as file:
            file.write(f"{os.getpid()}\n")
        before(shard)
        summary = {"shard": shard, "omp": os.environ.get("OMP_NUM_THREADS"), "hub": os.environ.get("HF_HUB_OFFLINE")}
        handle.commit("work", shard, [handle.storage.write_bytes(f"work/{shard}", shard.encode())], summary)
        return summary

    return function


def run(kind, ledger, function, shards=SHARDS, **more):
    """The three ways to run a stage."""
    options = {"progress": Progress(io.StringIO()), "workers": 2, "ledger": ledger} | more
    if kind == "threads":
        return run_shards_locally("work", shards, function, **options)
    if kind == "actors":
        return run_shards("work", shards, None, actor_factory=lambda: function, **options)
    return run_shards("work", shards, function, **options)


def executions(notes):
    return {path.name: len(path.read_text().split()) for path in notes.iterdir() if path.name in SHARDS}


each_kind = pytest.mark.parametrize("kind", ["tasks", "actors", "threads"])
in_processes = pytest.mark.parametrize("kind", ["tasks", "actors"])


@each_kind
def test_every_shard_once_and_nothing_the_second_time(kind, local_ray, ledger, notes):
    stream = io.StringIO()
    progress = Progress(stream)
    summaries = run(kind, ledger, make(ledger, notes), progress=progress, unit="rows", units=lambda name: 10)
    assert list(summaries) == SHARDS
    assert [summary["shard"] for summary in summaries.values()] == SHARDS
    assert executions(notes) == dict.fromkeys(SHARDS, 1)
    assert progress.counts == {"work": 60}
    assert ledger.verify("work") == 6

    again = run(kind, ledger, make(ledger, notes), progress=progress)
    assert again == summaries
    assert executions(notes) == dict.fromkeys(SHARDS, 1)
    assert "work: already done, 6 shards" in stream.getvalue()

    ledger.storage.delete("work/s4")
    run(kind, ledger, make(ledger, notes), progress=progress)
    assert executions(notes) == dict.fromkeys(SHARDS, 1) | {"s4": 2}
    assert "work: 5 of 6 shards already done" in stream.getvalue()


@in_processes
def test_killed_worker(kind, local_ray, ledger, notes):
    folder = str(notes)

    def die_once(shard):
        if shard == "s3" and not os.path.exists(f"{folder}/died"):
            with open(f"{folder}/died", "w"):
                os.kill(os.getpid(), signal.SIGKILL)

    summaries = run(kind, ledger, make(ledger, notes, die_once))
    assert (notes / "died").exists()
    assert list(summaries) == SHARDS
    assert executions(notes)["s3"] == 2
    assert len(ledger.shards("work")) == 6
    assert [ledger.storage.read_bytes(f"work/{shard}").decode() for shard in SHARDS] == SHARDS


def test_worker_killed_after_its_commit_does_not_work_again(local_ray, ledger, notes):
    folder, function = str(notes), make(ledger, notes)

    def die_after(shard):
        summary = function(shard)
        if shard == "s3" and not os.path.exists(f"{folder}/died"):
            with open(f"{folder}/died", "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return summary

    run("tasks", ledger, die_after)
    assert (notes / "died").exists()
    assert executions(notes)["s3"] == 1


@each_kind
def test_errors_arrive_in_their_own_class(kind, local_ray, ledger, notes):
    def refuse(shard):
        if shard == "s2":
            raise InputError("column 'findings' is missing", "the columns of REPORTS", "give --reports.columns")

    with pytest.raises(InputError) as caught:
        run(kind, ledger, make(ledger, notes, refuse))
    assert type(caught.value) is InputError
    assert caught.value.fix == "give --reports.columns"
    assert ledger.done("work", "s2") is None
    assert len(run(kind, ledger, make(ledger, notes))) == 6  # and the run goes on from there


@in_processes
def test_messages_of_other_exceptions_are_kept_back(kind, local_ray, ledger, notes, capfd):
    def break_down(shard):
        raise ValueError("could not read: there is a secret mass in the left lung")

    with pytest.raises(RaymedltError) as caught:
        run(kind, ledger, make(ledger, notes, break_down), shards=["s1"])
    assert "work/s1 failed with ValueError at " in str(caught.value)
    assert "test_runtime.py" in str(caught.value)
    out, err = capfd.readouterr()
    assert "secret" not in str(caught.value) + out + err


def test_factory_is_called_once_per_worker_and_its_errors_arrive(local_ray, ledger, notes):
    folder, function = str(notes), make(ledger, notes)

    def factory():
        with open(f"{folder}/made", "a") as file:
            file.write(f"{os.getpid()}\n")
        return function

    run_shards("work", SHARDS, None, progress=Progress(io.StringIO()), workers=2, ledger=ledger, actor_factory=factory)
    made = (notes / "made").read_text().split()
    assert len(made) == len(set(made)) <= 2

    def broken():
        raise InputError("no such model", "a folder", "give --embedding.model")

    with pytest.raises(InputError, match="no such model"):
        run_shards(
            "work", ["s9"], None, progress=Progress(io.StringIO()), workers=2, ledger=ledger, actor_factory=broken
        )


@each_kind
def test_function_must_commit(kind, local_ray, ledger):
    with pytest.raises(ConsistencyError, match="work/s0 ended without a commit"):
        run(kind, ledger, lambda shard: {"rows": 1}, shards=["s0"])


@each_kind
def test_at_most_so_many_at_a_time(kind, local_ray, ledger, notes):
    folder = str(notes)

    def wait(shard):
        began = time.time()
        time.sleep(0.15)
        with open(f"{folder}/{shard}.times", "w") as file:
            file.write(f"{began} {time.time()}")

    run(kind, ledger, make(ledger, notes, wait))
    times = [tuple(map(float, (notes / f"{shard}.times").read_text().split())) for shard in SHARDS]
    most = max(sum(began <= at < ended for began, ended in times) for at, _ in times)
    assert most <= 2


@in_processes
def test_workers_have_one_thread_and_stay_offline(kind, local_ray, ledger, notes):
    summaries = run(kind, ledger, make(ledger, notes), shards=["s0"])
    assert summaries["s0"] == {"shard": "s0", "omp": "1", "hub": "1"}


def test_threads_that_fail_do_not_start_the_rest(ledger, notes):
    def fail(shard):
        if shard == "s0":
            raise InputError("bad", "good", "fix")
        time.sleep(0.05)

    many = [f"s{i}" for i in range(200)]
    with pytest.raises(InputError):
        run("threads", ledger, make(ledger, notes, fail), shards=many)
    assert len(list(notes.iterdir())) < 20


# Replicas


def replicas(worker, folder):
    run_replicas(
        worker, name="training", replicas=1, gpu=False, threads=1, storage=Storage.of(str(folder)), checkpoints="ck"
    )


def test_deaths_of_replicas_do_not_count_where_there_is_a_new_checkpoint(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr("raymedlt.replicas.ATTEMPTS", 1)
    latest = tmp_path / "ck" / "latest.json"
    latest.parent.mkdir()
    latest.write_text("0")

    def worker():
        step = int(latest.read_text()) + 1
        latest.write_text(str(step))
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    replicas(worker, tmp_path)
    assert latest.read_text() == "2"


def reserved():
    """Placement groups that hold something."""
    return [each for each in placement_group_table().values() if each["state"] != "REMOVED"]


def test_a_training_goes_on_after_its_controller_was_killed(local_ray, tmp_path):
    def worker():
        if (tmp_path / "killed").exists():
            return
        (tmp_path / "killed").touch()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = stat.read_text().rpartition(")")[2].split()[1]  # of this Ray's processes
                if int(parent) == os.getppid() and b"TrainController" in (stat.parent / "cmdline").read_bytes():
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        time.sleep(60)  # it ends with its controller

    replicas(worker, tmp_path)
    assert (tmp_path / "killed").exists()
    assert reserved() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_training_at_once(number, local_ray, tmp_path):
    """Ray's waiting drops most exceptions of signal handlers; its own handler of Ctrl-C ends with exit code 0."""

    def worker():
        (tmp_path / "at work").touch()
        time.sleep(60)
        (tmp_path / "over").touch()

    def interrupt():
        while not (tmp_path / "at work").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(InterruptedRun, match=f"stopped by {number.name}"), graceful_stop():
            replicas(worker, tmp_path / "run")
    finally:
        _release()  # a job ends here, and its replicas with it
    assert not (tmp_path / "over").exists()
    assert signal.getsignal(signal.SIGINT) == before


def test_replicas_that_die_without_a_new_checkpoint_end_the_training(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr("raymedlt.replicas.ATTEMPTS", 1)
    with pytest.raises(RaymedltError, match="gave up after 1 attempts without a new checkpoint"):
        replicas(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path)
    assert reserved() == []  # or the next attempts would wait for ever


def test_what_a_replica_raises_is_told_without_its_message(local_ray, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("raymedlt.replicas.ATTEMPTS", 1)

    def worker():
        raise ValueError("cannot parse 'Rounded nodule.'")

    with pytest.raises(
        RaymedltError, match=r"a replica failed with ValueError at .*test_runtime.py:\d+ .worker."
    ) as told:
        replicas(worker, tmp_path)
    assert "Rounded" not in "".join(traceback.format_exception(told.value))
    time.sleep(1)  # Ray prints what its workers say a little later
    assert "Rounded" not in "".join(capfd.readouterr())
    assert quoted_in_logs(b"Rounded nodule") == []


def quoted_in_logs(text):
    """Files of this Ray's logs that hold a text."""
    from ray._private.worker import global_worker

    files = [path for path in Path(global_worker.node.get_logs_dir_path()).rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if text in path.read_bytes()]


# Connections


def test_connect_starts_ray_with_room_to_spare(local_ray):
    assert local_ray.started
    assert local_ray.cpus >= 4
    assert local_ray.nodes == 1
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_connect_uses_the_ray_that_is_there_and_leaves_it(local_ray):
    import ray

    with connect(64) as cluster:
        assert not cluster.started
        assert cluster.cpus == local_ray.cpus
    assert ray.is_initialized()


def test_connect_to_the_cluster_that_ray_address_names(local_ray):
    import ray

    code = "from raymedlt.runtime import connect\nwith connect(2) as c: print(c.started, c.nodes, c.cpus)"
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"False 1 {local_ray.cpus}\n"
    assert ray.cluster_resources()["CPU"] == local_ray.cpus


def test_the_users_own_settings_stay(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")
    private_by_default()
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_a_worker_that_does_not_see_the_run_says_so(tmp_path):
    """As on a cluster whose nodes have disks of their own."""
    row = answer("work", "s1", LedgerHandle(Storage.of(str(tmp_path / "elsewhere"))), lambda shard: {})
    with pytest.raises(InputError, match=r"does not see the run in .*s3://, gs://, abfs:// or a shared disk"):
        raise pickle.loads(row["error"])
    assert not (tmp_path / "elsewhere").exists()


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_interrupts(number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedRun) as caught, graceful_stop():  # noqa: PT012
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert f"stopped by {signal.Signals(number).name}. To fix: give the same command again" in str(caught.value)
    assert caught.value.exit_code == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_no_library_takes_a_signal_for_an_error_of_its_own():
    def library():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception as error:
            raise InputError("swallowed") from error

    with pytest.raises(InterruptedRun), graceful_stop():
        library()


def test_what_comes_of_a_signal_is_the_stop():
    with pytest.raises(InterruptedRun, match="stopped by SIGTERM"), graceful_stop():  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            raise ValueError


def test_a_signal_while_ray_starts_is_a_stop(monkeypatch):
    import ray

    def init(**options):  # as Ray does: a handler of its own, which leaves by SystemExit
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRun, match="stopped by SIGTERM"), graceful_stop(), connect(2):
        pytest.fail("connected")
    assert signal.getsignal(signal.SIGTERM) == before


def test_second_signal_kills():
    code = (
        "import os, signal, time\n"
        "from raymedlt.runtime import graceful_stop\n"
        "with graceful_stop():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)\n"
        "    finally:\n"
        "        print('first', flush=True); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5); print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "first\n")


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter():
        with graceful_stop():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


_JOB = """
import os, sys, time
from raymedlt.errors import RaymedltError
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.progress import Progress
from raymedlt.runtime import connect, graceful_stop, run_shards
from raymedlt.shards import answer
from raymedlt.storage import Storage

output, notes = sys.argv[1:]

def main():
    storage = Storage.of(output)
    with graceful_stop(), Ledger.open(storage, config_hash="c", config={}, data_hash="d") as ledger, connect(2):
        handle = ledger.worker()
        def function(shard):
            with open(f"{notes}/{shard}", "a") as file:
                file.write("x ")
            if os.path.exists(f"{notes}/hold") and shard >= "s3":
                time.sleep(60)
            handle.commit("work", shard, [storage.write_bytes(f"work/{shard}", shard.encode())], {})
            return {}
        run_shards("work", [f"s{i}" for i in range(6)], function, progress=Progress(), workers=2, ledger=ledger)
    print("report.html")

try:
    main()
except RaymedltError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
def test_stopped_and_killed_drivers_leave_a_run_that_resumes(tmp_path, notes):
    output = tmp_path / "out"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    jobs = []

    def start_job():
        command = [sys.executable, "-c", _JOB, str(output), str(notes)]
        jobs.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return jobs[-1]

    def until(condition):
        deadline = time.time() + 90
        while not condition():
            assert time.time() < deadline
            time.sleep(0.05)

    def marked():
        return len(list(output.glob("_ledger/work/*.json")))

    def held():  # both workers: none is left that could begin another shard and commit it after its driver's death
        return (notes / "s3").exists() and (notes / "s4").exists()

    try:
        (notes / "hold").touch()  # shards from s3 on don't end
        job = start_job()
        until(lambda: marked() == 3 and held())
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=60)
        assert job.returncode == 143
        assert out == ""
        assert "stopped by SIGTERM" in err
        assert not (output / "_ledger/driver.json").exists()

        for shard in ("s3", "s4"):
            (notes / shard).unlink()
        job = start_job()  # goes on with s3 and s4, and is killed there
        until(held)
        job.kill()
        job.communicate(timeout=60)
        assert (output / "_ledger/driver.json").exists()

        (notes / "hold").unlink()
        job = start_job()
        out, err = job.communicate(timeout=120)
        assert (job.returncode, out) == (0, "report.html\n")
        assert "work: 3 of 6 shards already done" in err
    finally:
        for job in jobs:
            job.kill()
            job.wait()
    assert marked() == 6
    assert {shard: executions(notes)[shard] for shard in ("s0", "s1", "s2")} == {"s0": 1, "s1": 1, "s2": 1}

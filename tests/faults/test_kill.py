"""kill -9 of the driver and of workers: the same command finishes the run with the same bytes, and redoes no shard."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

from runs import (
    SENTINEL,
    Finished,
    Undisturbed,
    arguments_of,
    descendants,
    inside,
    marked,
    start,
    tables_of,
    undisturbed,
    wait_for,
)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def standard() -> Undisturbed:
    return undisturbed()


@pytest.fixture
def begin(standard: Undisturbed, tmp_path: Path) -> Iterator[Start]:
    """Starts the job on the standard's source into tmp_path/run; ends what it started."""
    started: list[subprocess.Popen[str]] = []

    def begin(*more: str) -> subprocess.Popen[str]:
        words = arguments_of(standard.source, tmp_path / "run", *more)
        started.append(start(*words, log=tmp_path / "log"))
        return started[-1]

    yield begin
    for process in started:
        own = descendants(process.pid) if process.poll() is None else {}
        for pid in (process.pid, *own):
            end(pid)
        process.wait(timeout=30)


def end(pid: int) -> None:
    """SIGKILL, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("stage", ["embed", "cluster", "write"])
def test_a_killed_driver_loses_only_what_was_under_way(
    stage: str, standard: Undisturbed, begin: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    driver = begin("--workers", "2")
    wait_for(lambda: marked(output, stage), driver)
    driver.kill()
    assert driver.wait(timeout=30) == -signal.SIGKILL
    assert not (output / "manifest.json").exists()
    assert (output / "_ledger/driver.json").exists()  # nobody was left to take the lock away

    before = Finished.of(output)
    assert any(f"_ledger/{stage}/" in name for name in before.files)
    assert inside(*arguments_of(standard.source, output, "--workers", "2")) == 0
    assert before.written_again(output) == []
    assert tables_of(output) == tables_of(standard.output)
    assert marked(output, "write") == marked(standard.output, "write")
    assert "already done" in capsys.readouterr().err
    assert not [path for path in output.rglob("*") if path.name.startswith("_tmp")]


@pytest.mark.parametrize("stage", ["keys", "write"])
def test_sigterm_ends_with_143_and_the_same_command_goes_on(
    stage: str, standard: Undisturbed, begin: Start, tmp_path: Path
) -> None:
    """After `keys` the encoder's libraries are being imported: an exception may come up anywhere in there."""
    output = tmp_path / "run"
    driver = begin()
    wait_for(lambda: marked(output, stage), driver)
    driver.terminate()
    assert driver.wait(timeout=60) == 143
    told = (tmp_path / "log").read_text()
    assert "stopped by SIGTERM" in told
    assert "give the same command again" in told
    assert "Traceback" not in told
    assert "report.html" not in told
    assert not (output / "_ledger/driver.json").exists()

    before = Finished.of(output)
    assert inside(*arguments_of(standard.source, output)) == 0
    assert before.written_again(output) == []
    assert tables_of(output) == tables_of(standard.output)


@pytest.mark.slow
def test_killed_workers_are_replaced_and_nothing_shows(standard: Undisturbed, begin: Start, tmp_path: Path) -> None:
    """A worker dies while reports are arranged, sentences embedded and clustered, and while reports are written."""
    output = tmp_path / "run"
    driver = begin("--ray_from", "0", "--workers", "2", "--clustering.shard_points", "20")
    killed: dict[str, int] = {}

    def kill_worker(stage: str, worker: str = "ray::Map(do_shard)") -> bool:
        """One worker process of this run's own Ray that has a shard in its hands (not one of Ray's own agents)."""
        for pid, line in descendants(driver.pid).items():
            if line.startswith(worker) and pid not in killed.values():
                killed[stage] = pid
                end(pid)
                return True
        return False

    wait_for(lambda: marked(output, "read") and kill_worker("arrange"), driver)
    wait_for(lambda: marked(output, "precision") and kill_worker("embed"), driver)
    wait_for(lambda: marked(output, "neighbours") and kill_worker("cluster", "ray::_Searcher"), driver)
    wait_for(lambda: marked(output, "learn") and kill_worker("write"), driver)
    assert driver.wait(timeout=180) == 0, (tmp_path / "log").read_text()[-3000:]
    assert len(set(killed.values())) == 4
    assert tables_of(output) == tables_of(standard.output)
    told = (tmp_path / "log").read_text()
    assert told.splitlines()[-1] == str(output / "report.html")
    assert SENTINEL not in told


def test_a_driver_killed_with_ray_takes_its_workers_along_and_threads_go_on(
    standard: Undisturbed, begin: Start, tmp_path: Path
) -> None:
    """As on a spot cluster that vanishes: what lies on the storage is enough."""
    output = tmp_path / "run"
    driver = begin("--ray_from", "0", "--workers", "2")
    wait_for(lambda: marked(output, "arrange"), driver)
    own = descendants(driver.pid)
    assert any("raylet" in line for line in own.values())
    try:
        driver.kill()
        assert driver.wait(timeout=30) == -signal.SIGKILL
        # Ray's own agents, which hold no reports, notice only after a minute or two.
        workers = [pid for pid, line in own.items() if "Agent" not in line]
        wait_for(lambda: not any(map(running, workers)), None, 30)
    finally:
        for pid in filter(running, own):
            end(pid)

    before = Finished.of(output)
    assert inside(*arguments_of(standard.source, output)) == 0
    assert before.written_again(output) == []
    assert tables_of(output) == tables_of(standard.output)


def running(pid: int) -> bool:
    """Whether there is such a process, and not only its zombie, which has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False

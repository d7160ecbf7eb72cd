"""The job on a Ray cluster: a head on loopback with token authentication, `ray job submit`, stop, and going on."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from heads import Head, started_head
from runs import (
    SENTINEL,
    Finished,
    Undisturbed,
    arguments_of,
    marked,
    quoted,
    quoted_below,
    tables_of,
    undisturbed,
    wait_for,
)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started_head() as started:
        yield started


@pytest.fixture(scope="module")
def standard() -> Undisturbed:
    return undisturbed()


def test_only_the_token_opens_the_server(head: Head) -> None:
    assert (head.status(None), head.status("0" * 64), head.status(head.token)) == (401, 403, 200)


def test_submit_without_the_token_is_refused(head: Head, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("0" * 64)
    refused = head.job(
        "submit", "--", "python", "-c", f"open('{tmp_path}/ran', 'w')", RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong")
    )
    assert refused.returncode != 0
    assert not (tmp_path / "ran").exists()


def test_bad_arguments_fail_the_job_and_its_log_says_why(head: Head) -> None:
    failed = head.submit("wrong-words", ["--writing.max_aded", "3"])
    assert failed.returncode != 0
    told = failed.stdout + failed.stderr
    assert "unknown key 'writing.max_aded'" in told
    assert "exit code 2" in told
    assert head.ask("/api/jobs/wrong-words")["status"] == "FAILED"


@pytest.mark.slow
def test_a_stopped_job_goes_on_with_the_same_command(head: Head, standard: Undisturbed, tmp_path: Path) -> None:
    for attempt in range(5):  # so small a job can be done before the stop comes: then try again
        first, output = f"first-{attempt}", tmp_path / f"run-{attempt}"
        arguments = arguments_of(standard.source, output)
        submitted = head.submit(first, arguments, "--no-wait")
        assert submitted.returncode == 0, submitted.stderr
        wait_for(functools.partial(marked, output, "arrange"), None, 120)
        # What `ray job stop` asks for, without its seconds of start-up.
        head.ask(f"/api/jobs/{first}/stop", "POST")
        wait_for(functools.partial(head.ended, first), None, 90)
        if not (output / "manifest.json").exists():
            break
    assert not (output / "manifest.json").exists()
    # SIGTERM: the job let go of its folder, so that the next one need not wait.
    assert not (output / "_ledger/driver.json").exists()
    assert "stopped by SIGTERM" in head.job("logs", first).stdout

    before = Finished.of(output)
    again = head.submit("second", arguments)
    told = again.stdout + again.stderr
    assert again.returncode == 0, told[-3000:]
    assert before.written_again(output) == []
    assert tables_of(output) == tables_of(standard.output)

    for stage in ("read: already done", "embed: ", "cluster findings: ", "write: ", "finish: done in"):
        assert stage in told
    assert str(output / "report.html") in told
    assert len(again.stdout.splitlines()) < 100
    for noise in ("Traceback", "\x1b[2K", "Running 0:", SENTINEL):
        assert noise not in told
    logs = [
        path for path in Path(head.environment["RAY_TMPDIR"]).glob("session_*/logs") if not path.parent.is_symlink()
    ]
    assert sum(path.stat().st_size for path in logs[0].rglob("*") if path.is_file()) > 10_000
    assert [quoted_below(path) for path in logs] == [{}]
    pages = (
        "/api/jobs/",
        f"/api/jobs/{first}/logs",
        "/nodes?view=summary",
        "/logical/actors",
        "/api/v0/tasks?limit=9999",
    )
    for page in pages:
        assert quoted(json.dumps(head.ask(page)).encode()) == []
    assert quoted_below(output / "_ledger") == {}

    jobs = {job["submission_id"]: job["status"] for job in head.ask("/api/jobs/") if job["submission_id"]}
    assert {name: jobs[name] for name in (first, "second")} == {first: "STOPPED", "second": "SUCCEEDED"}

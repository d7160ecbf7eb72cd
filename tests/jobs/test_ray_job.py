"""The job on a Ray cluster: a head on loopback with token authentication, `ray job submit`, stop, and going on."""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import (
    ROOT,
    SENTINEL,
    Finished,
    Undisturbed,
    arguments_of,
    descendants,
    environment,
    marked,
    quoted,
    quoted_below,
    tables_of,
    undisturbed,
    wait_for,
)

RAY = (sys.executable, "-m", "ray.scripts.scripts")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@dataclass(frozen=True)
class Head:
    """A Ray head of this test's own."""

    process: subprocess.Popen[bytes]
    address: str
    token: str
    environment: dict[str, str]

    def status(self, token: str | None) -> int:
        """HTTP status of the list of jobs, asked for with this token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    def answers(self) -> bool:
        """Whether the job server is up."""
        try:
            return self.status(self.token) == 200
        except OSError:
            return False

    def ask(self, path: str, method: str = "GET") -> Any:
        """The job server's answer."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.address}{path}", method=method, headers=headers)
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def ended(self, name: str) -> bool:
        """Whether the job is over."""
        return self.ask(f"/api/jobs/{name}")["status"] not in ("PENDING", "RUNNING")

    def job(self, verb: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`ray job VERB --address ... WORDS`, from the checkout's root."""
        return subprocess.run(
            [*RAY, "job", verb, "--address", self.address, *words],
            cwd=ROOT, env=self.environment | more, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    def submit(self, name: str, arguments: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir . -- python jobs/enrich.py ARGUMENTS`."""
        words = ["--working-dir", ".", "--submission-id", name, *options, "--", "python", "jobs/enrich.py", *arguments]
        return self.job("submit", *words)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head` with token authentication, on loopback; at the end every process it started is ended."""
    folder = tempfile.mkdtemp(prefix="rm-", dir="/tmp")  # short: Ray keeps sockets in there
    token = secrets.token_hex(32)
    token_file = Path(folder) / "token"
    token_file.touch(0o600)
    token_file.write_text(token)
    port, dashboard, client, agent, agent_grpc, metrics = free_ports(6)
    own = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token_file),
        RAY_TMPDIR=folder,
        RAY_USAGE_STATS_ENABLED="0",
        RAY_JOB_STOP_WAIT_TIME_S="60",  # by default Ray kills a stopped job after 3 s, which a busy machine can need
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    del own["PYTHONPATH"]  # the job must work from the working directory that was sent
    with (Path(folder) / "head.log").open("w") as log:
        process = subprocess.Popen(
            [
                *RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port),
                "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "4",
                "--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(agent),
                "--dashboard-agent-grpc-port", str(agent_grpc), "--metrics-export-port", str(metrics),
                "--min-worker-port", "0", "--max-worker-port", "0", "--object-store-memory", str(200 * 1024**2),
                "--temp-dir", folder,
            ],
            cwd=folder, env=own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    started = Head(process, f"http://127.0.0.1:{dashboard}", token, own)
    try:
        wait_for(started.answers, None, 90)
        yield started
    finally:
        family = descendants(process.pid)
        process.terminate()
        ends = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(0.1)
        for pid in (process.pid, *family):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


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
    ended = {name: jobs[name] for name in ("wrong-words", first, "second")}
    assert ended == {"wrong-words": "FAILED", first: "STOPPED", "second": "SUCCEEDED"}

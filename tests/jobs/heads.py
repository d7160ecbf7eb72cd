"""A Ray head on loopback with token authentication, and its job server."""

from __future__ import annotations

import contextlib
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

from runs import ROOT, descendants, environment, wait_for

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
    """A Ray head of one's own."""

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
            cwd=ROOT, env=self.environment | more, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip

    def submit(
        self, name: str, arguments: list[str], *options: str, script: str = "jobs/enrich.py"
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir . -- python SCRIPT ARGUMENTS`."""
        words = ["--working-dir", ".", "--submission-id", name, *options, "--", "python", script, *arguments]
        return self.job("submit", *words)


@contextlib.contextmanager
def started_head(**more: str) -> Iterator[Head]:
    """`ray start --head` with token authentication, on loopback; at the end every process it started is ended.

    Args:
        more: environment of the head, and so of its jobs.
    """
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
        **more,
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

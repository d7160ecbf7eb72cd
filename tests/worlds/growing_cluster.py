"""A Ray cluster that grows and shrinks on one machine: a head without CPUs, and Ray's own autoscaler over its provider
of fake machines, each of which is a raylet with workers of its own.

`ray.cluster_utils.AutoscalingCluster` would do nearly this, but it begins and ends with `ray stop --force`, which kills
every Ray of the machine, other people's too, and reads a file that Ray's package lacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heads import RAY, free_ports
from runs import descendants, environment, wait_for

HEAD_TYPE = "ray.head.default"  # the name that Ray's provider gives the head
SHARD_WORKERS = ("ray::Map", "ray::_Searcher")  # command lines of processes that do shards


@dataclass(frozen=True)
class Growing:
    """A cluster that runs."""

    process: subprocess.Popen[bytes]
    address: str
    environment: dict[str, str]
    """For those who use it: with its address and token."""
    folder: Path

    def raylets(self) -> dict[int, str]:
        """Process id -> type of machine of every raylet that runs now, the head's too."""
        found = {}
        for pid, line in descendants(self.process.pid).items():
            if line.split(" ", 1)[0].endswith("/raylet/raylet"):
                with contextlib.suppress(OSError):  # it went meanwhile
                    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
                    found[pid] = dict(word.partition("=")[::2] for word in words).get("RAY_NODE_TYPE_NAME", HEAD_TYPE)
        return found

    def look(self) -> Seen:
        """Who is there, and who has a shard in hands."""
        there = self.raylets()
        working = {pid for pid in there if any(line.startswith(SHARD_WORKERS) for line in descendants(pid).values())}
        return Seen(there, frozenset(working))


@dataclass(frozen=True)
class Seen:
    """A cluster at one moment."""

    there: dict[int, str]
    """Raylet -> its type of machine."""
    working: frozenset[int]
    """Raylets with a worker process that does a shard."""

    @property
    def machines(self) -> dict[int, str]:
        """Those beside the head."""
        return {pid: kind for pid, kind in self.there.items() if kind != HEAD_TYPE}


def watch(cluster: Growing, job: subprocess.Popen[str], seconds: float) -> list[tuple[float, Seen]]:
    """Run a job to its end, then until all machines but the head are gone: what changed, and when.

    Raises:
        AssertionError: the time is up.
    """
    try:
        return _watch(cluster, job, seconds)
    except BaseException:
        job.kill()
        raise


def _watch(cluster: Growing, job: subprocess.Popen[str], seconds: float) -> list[tuple[float, Seen]]:
    began, seen = time.monotonic(), list[tuple[float, Seen]]()
    while job.poll() is None or not seen or seen[-1][1].machines:
        now = cluster.look()
        if not seen or seen[-1][1] != now:
            seen.append((round(time.monotonic() - began, 1), now))
        assert cluster.process.poll() is None, (cluster.folder / "head.log").read_text()
        assert time.monotonic() - began < seconds, f"after {seconds} s the job's code is {job.poll()}, machines {now}"
        time.sleep(0.1)
    return seen


@contextlib.contextmanager
def growing_cluster(pools: dict[str, dict[str, Any]], *, idle_seconds: float, most: int) -> Iterator[Growing]:
    """A head without CPUs and pools that begin empty; at the end every process it started is ended.

    Args:
        pools: name -> {"resources": ..., "max_workers": ...}.
        idle_seconds: after which a machine without work goes.
        most: machines at a time, all pools together.
    """
    folder = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))  # short: Ray keeps sockets in there
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    port, dashboard, client, agent, agent_grpc, metrics = free_ports(6)
    address = f"127.0.0.1:{port}"
    types = {name: {"node_config": {}, "min_workers": 0, **pool} for name, pool in pools.items()}
    types[HEAD_TYPE] = {"node_config": {}, "resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0}
    empty_lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    config = folder / "autoscaling.json"
    config.write_text(
        json.dumps(
            {
                "cluster_name": "growing", "max_workers": most, "upscaling_speed": 10.0,
                "idle_timeout_minutes": idle_seconds / 60,
                "provider": {
                    "type": "fake_multinode", "gcs_address": address, "use_node_id_as_ip": True,
                    "disable_node_updaters": True, "disable_launch_config_check": True,
                },
                "available_node_types": types, "head_node_type": HEAD_TYPE, "auth": {}, "docker": {},
                "head_start_ray_commands": [], "worker_start_ray_commands": [], "file_mounts": {},
                "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [],
                "rsync_filter": [], **{name: [] for name in empty_lists},
            }
        )
    )  # fmt: skip
    own = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_TMPDIR=str(folder),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_FAKE_CLUSTER="1",
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [
                *RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port),
                "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "0",
                "--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(agent),
                "--dashboard-agent-grpc-port", str(agent_grpc), "--metrics-export-port", str(metrics),
                "--min-worker-port", "0", "--max-worker-port", "0", "--object-store-memory", str(100 * 1024**2),
                "--temp-dir", str(folder), "--autoscaling-config", str(config),
            ],
            cwd=folder, env=own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    at_most = f"CPU={sum(int(pool['resources']['CPU']) * pool['max_workers'] for pool in pools.values())}"
    cluster = Growing(process, address, own | {"RAY_ADDRESS": address, "RAYMEDLT_POOLS": at_most}, folder)
    try:
        wait_for(cluster.raylets, process, 240)
        yield cluster
    finally:
        family = descendants(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for pid in (process.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)
        ends = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < ends:
            time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)

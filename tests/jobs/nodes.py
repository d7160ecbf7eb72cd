"""A Ray cluster of several raylets on this machine, whose nodes are killed and replaced one by one.

    with Nodes((2, 2)) as nodes:
        subprocess.run([sys.executable, "jobs/enrich.py", ...], env=nodes.environment())
        nodes.kill(nodes.raylets()[0])    # as a spot machine that is taken back
        nodes.add(2)

The head has no CPUs and so runs nothing but drivers and Ray's own actors. The cluster (`ray.cluster_utils.Cluster`)
lives in a process of its own, with token authentication: Ray reads its settings once per process, and the tests'
process may have another Ray. That process ends, and the cluster with it, when its standard input is closed.
"""

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
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from runs import descendants, environment

OBJECT_STORE_BYTES = 150 * 1024**2
HEALTH_CHECK_MS = 1000
"""Between two questions of the head whether a node is alive; after five in vain it is dead. Ray's default is 3000."""


class Nodes:
    """The cluster, as its users see it."""

    def __init__(self, cpus: Sequence[int] = (2, 2), **more: str) -> None:
        """Args:
        cpus: of each worker node.
        more: environment of the nodes and the jobs.
        """
        self._cpus, self._more, self._one = tuple(cpus), more, threading.Lock()

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="rm-", dir="/tmp")  # short: Ray keeps sockets in there
        token = Path(self._folder, "token")
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        self._own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} | self._more
        more = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": self._folder,
            "RAY_health_check_period_ms": str(HEALTH_CHECK_MS),
        }
        with open(f"{self._folder}/cluster.log", "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, *map(str, self._cpus)], env=environment(**self._own, **more), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self.address, self._raylets = self._told()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        family = descendants(self._process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError, OSError):
            self._process.communicate(timeout=20)
        for pid in (self._process.pid, *family):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """What a job needs to run as a driver of this cluster."""
        return environment(**self._own, RAY_ADDRESS=self.address)

    def raylets(self) -> list[int]:
        """Process ids of the worker nodes' raylets, the oldest first."""
        return list(self._raylets)

    def workers(self) -> dict[int, str]:
        """Processes of the worker nodes that have work, and the head's too, with what Ray calls them; no idle ones."""
        return {
            pid: line.split()[0]
            for pid, line in descendants(self._process.pid).items()
            if line.startswith("ray::") and not line.startswith(("ray::IDLE", "ray::Dashboard", "ray::RuntimeEnv"))
        }

    def kill(self, raylet: int) -> None:
        """A worker node vanishes, with all that runs on it."""
        self._raylets.remove(raylet)
        self._ask(f"kill {raylet}")

    def add(self, cpus: int) -> int:
        """A new worker node; its raylet."""
        raylet = int(self._ask(f"add {cpus}"))
        self._raylets.append(raylet)
        return raylet

    def _ask(self, words: str) -> Any:
        assert self._process.stdin is not None
        with self._one:
            self._process.stdin.write(f"{words}\n")
            self._process.stdin.flush()
            return self._told()

    def _told(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("told "):
                return json.loads(line.removeprefix("told "))
        raise RuntimeError(Path(self._folder, "cluster.log").read_text()[-3000:])


def main(cpus: Sequence[int]) -> None:
    """The process that the cluster lives in: does what it reads, until there is nothing more to read."""
    import ray
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    # Ray Train frees the places of a dead controller through the address that it finds by itself; where another Ray
    # runs on the machine that is the wrong one, and the places stay taken.
    os.environ["RAY_ADDRESS"] = f"{ray.util.get_node_ip_address()}:{port}"
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"gcs_server_port": port})
    nodes: dict[int, Any] = {}

    def tell(what: Any) -> None:
        print(f"told {json.dumps(what)}", flush=True)

    def add(count: int) -> int:
        node = cluster.add_node(num_cpus=count, object_store_memory=OBJECT_STORE_BYTES)
        raylet: int = node.all_processes["raylet"][0].process.pid
        nodes[raylet] = node
        return raylet

    for count in cpus:
        add(count)
    tell([cluster.address, list(nodes)])
    for line in sys.stdin:
        match line.split():
            case ["kill", raylet]:
                cluster.remove_node(nodes.pop(int(raylet)), allow_graceful=False)
                tell(None)
            case ["add", count]:
                tell(add(int(count)))
    cluster.shutdown()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])

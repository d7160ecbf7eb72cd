"""A real S3 server on loopback (moto's), and a proxy that stands before it and makes it a bad one."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

BUCKET = "bucket"
SECRET = "raymedlt-test-secret"


def environment_of(port: int) -> dict[str, str]:
    """What a user sets for a store that is not AWS's."""
    return {
        "AWS_ACCESS_KEY_ID": "raymedlt-test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """moto's server with an empty bucket, in a process of its own; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        ends = time.monotonic() + 90
        while not _answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, "the S3 server did not start"
            time.sleep(0.05)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        with urllib.request.urlopen(request) as reply:
            assert reply.status == 200
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


Fault = Literal["error", "busy", "reset", "lost", "cut", "slow"]
"""500; 503 SlowDown; the connection is reset before the request is carried out, or after it, so that the answer is
lost; half of the answer; an answer that takes `SLOW_SECONDS`."""
FAULTS: tuple[Fault, ...] = ("error", "busy", "reset", "lost", "cut", "slow")
SLOW_SECONDS = 0.5


class BadStore:
    """A proxy before an S3 server whose requests go wrong with some probability, drawn by a seed.

    Make it with `bad_store`. `rate` may be changed at any time; 1 is a store that is away. `hold` names requests
    ("PUT /bucket/...?partNumber=2...") that are to wait until `release` is set, and `held` says that one does.
    """

    def __init__(self, backend: int, rate: float, seed: int, faults: tuple[Fault, ...]) -> None:
        self.backend, self.rate, self.seed, self.faults = backend, rate, seed, faults
        self.hold: Callable[[str], bool] = lambda request: False
        self.held, self.release = threading.Event(), threading.Event()
        self.requests: list[str] = []
        self.injected: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.port = 0

    def fault(self, request: str) -> Fault | None:
        """What goes wrong with this request."""
        with self._lock:
            draw = random.Random(f"{self.seed}:{len(self.requests)}")
            self.requests.append(request)
            if draw.random() >= self.rate:
                return None
            fault = draw.choice(self.faults)
            self.injected[fault] += 1
            return fault


@contextmanager
def bad_store(
    backend: int, *, rate: float = 0.0, seed: int = 0, faults: tuple[Fault, ...] = FAULTS
) -> Iterator[BadStore]:
    """A `BadStore` before the server at port `backend`, at `.port`."""
    store = BadStore(backend, rate, seed, faults)

    class Handler(_Handler):
        bad = store

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        store.release.set()
        server.shutdown()
        server.server_close()


_OF_A_CONNECTION = ("connection", "content-length", "expect", "transfer-encoding")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bad: BadStore

    def _carry(self) -> None:
        body = self._body()
        line = f"{self.command} {self.path}"
        fault = self.bad.fault(line)
        if self.bad.hold(line):
            self.bad.held.set()
            self.bad.release.wait()
        if fault == "reset":
            return self._reset()
        if fault == "error":
            return self._refuse(500, "InternalError")
        if fault == "busy":
            return self._refuse(503, "SlowDown")
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        backend = http.client.HTTPConnection("127.0.0.1", self.bad.backend, timeout=120)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _OF_A_CONNECTION}
        backend.request(self.command, self.path, body, kept)
        reply = backend.getresponse()
        data = reply.read()
        backend.close()
        if fault == "lost":
            return self._reset()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in (*_OF_A_CONNECTION, "server", "date"):
                self.send_header(name, value)
        self.send_header(
            "Content-Length", reply.headers.get("Content-Length", 0) if self.command == "HEAD" else str(len(data))
        )
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        self.close_connection = fault == "cut" or self.close_connection

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _carry

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _refuse(self, status: int, code: str) -> None:
        data = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *words: object) -> None:
        """Silent: `BadStore.requests` has them."""

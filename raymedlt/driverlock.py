"""One driver per output folder: a lock file with a heartbeat.

The lock names host, process and the process's start time. A driver that died on this host is recognised at once; one on
another host (or in another container) counts as dead after `STALE_AFTER` seconds without a heartbeat. On a local disk
taking the lock is atomic. Object stores offer no such step through pyarrow: a driver writes the lock, waits
`SETTLES_AFTER` seconds and has it if it is still its own. If another one's write took longer than that to arrive, both
believe that they hold it until the next heartbeat, when one notices. That costs work, never results, since both would
write the same bytes. With --restart and another configuration they would not: workers of a driver that was killed
moments ago may still commit a shard, so give them some seconds to end. Hosts are assumed to agree on the time within
some seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from raymedlt.errors import RunConflictError, StorageError
from raymedlt.storage import Storage

HEARTBEAT_EVERY = 10.0
"""Seconds between two heartbeats."""
STALE_AFTER = 60.0
"""Seconds without a heartbeat after which a driver on another host counts as dead."""
SETTLES_AFTER = 2.0
"""Seconds between writing the lock on an object store and looking whose it is."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Driver:
    """Who holds the lock."""

    host: str
    machine: str
    """Tells two machines or containers of the same host name apart; "" where the system doesn't say."""
    pid: int
    started: str
    """The process's start time as the system writes it: a process id may be used again."""
    id: str
    """Random, new for every attempt."""
    heartbeat: float
    """Unix time in seconds."""

    def alive(self) -> bool:
        """Whether this driver is still at work, as far as can be known from here."""
        if (self.host, self.machine) == (socket.gethostname(), _machine()):
            return _start_of(self.pid) == self.started
        return time.time() - self.heartbeat < STALE_AFTER


class DriverLock:
    """A held lock; a daemon thread keeps its heartbeat."""

    def __init__(self, storage: Storage, name: str, driver: Driver) -> None:
        """Use `DriverLock.acquire`."""
        self._storage, self._name, self._driver = storage, name, driver
        self._taken_by: Driver | None = None
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="raymedlt-heartbeat", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, storage: Storage, name: str) -> DriverLock:
        """Take the lock, at once or not at all.

        Raises:
            RunConflictError: a live driver holds it; the message names its host and process.
        """
        pid = os.getpid()
        driver = Driver(socket.gethostname(), _machine(), pid, _start_of(pid) or "", secrets.token_hex(8), time.time())
        with _one_at_a_time(storage, name):
            holder = _read(storage, name)
            if holder is not None and holder.alive():
                raise _conflict(storage, holder)
            _write(storage, name, driver)
        if not storage.is_local:  # of two that wrote at the same moment, the last one stays
            time.sleep(SETTLES_AFTER)
            holder = _read(storage, name)
            if holder is not None and holder.id != driver.id:
                raise _conflict(storage, holder)
        return cls(storage, name, driver)

    def check(self) -> None:
        """Raises RunConflictError if another driver has taken the lock over."""
        if self._lost.is_set():
            raise _conflict(self._storage, self._taken_by)

    def release(self) -> None:
        """Stop the heartbeat and remove the lock file, if it is still this driver's. Safe to call twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(timeout=30)
        try:
            with _one_at_a_time(self._storage, self._name):
                holder = _read(self._storage, self._name)
                if holder is not None and holder.id == self._driver.id:
                    self._storage.delete(self._name)
        except (OSError, StorageError) as error:  # the trouble that ended the run is what the user should read
            _LOGGER.warning("lock not removed (%s): it is free when this process has ended", type(error).__name__)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_EVERY):
            try:
                if not self._refresh():
                    return
            except (OSError, StorageError) as error:  # the storage is away for a moment; the next beat tries again
                _LOGGER.warning("heartbeat not written: %s", type(error).__name__)

    def _refresh(self) -> bool:
        """One heartbeat; False when the lock is no longer this driver's."""
        with _one_at_a_time(self._storage, self._name):
            holder = _read(self._storage, self._name)
            if holder is None or holder.id != self._driver.id:
                self._taken_by = holder
                self._lost.set()
                return False
            _write(self._storage, self._name, replace(self._driver, heartbeat=time.time()))
        return True


def _read(storage: Storage, name: str) -> Driver | None:
    try:
        return Driver(**json.loads(storage.read_bytes(name)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None  # written by hand, or cut off by a full disk: nobody's


def _write(storage: Storage, name: str, driver: Driver) -> None:
    storage.write_bytes(name, json.dumps(asdict(driver), indent=1, sort_keys=True).encode() + b"\n")


def _conflict(storage: Storage, holder: Driver | None) -> RunConflictError:
    if holder is None:
        who = "its lock was removed"
    else:
        age = max(0, round(time.time() - holder.heartbeat))
        who = f"process {holder.pid} on host {holder.host}, heard of {age} s ago"
    return RunConflictError(
        f"another driver has '{storage.uri}': {who}",
        "one driver per output folder",
        f"wait for it, stop it, or give another --output (a dead driver's lock is free after {STALE_AFTER:.0f} s)",
    )


@contextlib.contextmanager
def _one_at_a_time(storage: Storage, name: str) -> Iterator[None]:
    """Between processes of this machine, read and write of the lock file are one step (local disks only).

    The system drops the file lock when its holder dies, so this one can't go stale.
    """
    if not storage.is_local:
        yield
        return
    import fcntl

    folder, _, base = storage.path(name).rpartition("/")
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(f"{folder}/.{base}.mutex", os.O_RDWR | os.O_CREAT, 0o666)  # stays: removing it would race
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks: best effort there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """Start time of a process in the system's own words; None if there is no such process (or only its zombie)."""
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/stat") as file:
                # The name in parentheses may hold blanks; state is the first field behind it, start time the 20th.
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None

"""Progress of a training that runs in other processes, as its checkpoints tell it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator

from raymedlt.storage import Storage

LATEST = "latest.json"
"""Of a training's checkpoints: {"position": {"history": [one entry per epoch]}} among other things."""

_POLL_SECONDS = 2.0


@contextlib.contextmanager
def watched(storage: Storage, advance: Callable[[int], None]) -> Iterator[None]:
    """Advance the progress as epochs appear in the checkpoints that the first replica writes to `storage`."""
    stop = threading.Event()

    def epochs() -> int:
        """Finished ones, as the latest checkpoint says."""
        try:
            return len(json.loads(storage.read_bytes(LATEST))["position"]["history"])
        except (OSError, ValueError, KeyError):
            return 0

    def look() -> None:
        """Until stopped."""
        seen = 0
        while not stop.wait(_POLL_SECONDS):
            now = epochs()
            if now > seen:
                advance(now - seen)
                seen = now

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

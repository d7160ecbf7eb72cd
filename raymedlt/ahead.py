"""What one thread makes, a few things ahead of the loop that uses them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import TypeVar

from raymedlt.cpus import use_threads

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Item], Made], items: Sequence[Item], ahead: int) -> Iterator[Made]:
    """`make(item)` for every item, in order, by one thread named "feed" that is at most `ahead` of the reader.

    The thread ends with its reader. What `make` raises is raised here, after what was made before it.
    """
    ready: Queue[Made | BaseException | None] = Queue(ahead)
    stop = threading.Event()

    def work() -> None:
        use_threads(1)  # of this thread alone: two teams on the same cores spin against each other
        try:
            for item in items:
                if stop.is_set():
                    return
                ready.put(make(item))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        while (made := ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made
    finally:
        stop.set()
        while thread.is_alive():  # it may wait for room in the queue
            while not ready.empty():
                ready.get_nowait()
            thread.join(0.01)

"""Processes with torch.distributed between them (gloo), which stay and do one thing after another: starting is slow."""

from __future__ import annotations

import multiprocessing as mp
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Replicas:
    """So many processes; `run` lets all of them call a module-level function with the same arguments."""

    def __init__(self, count: int, folder: str) -> None:
        context = mp.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(count):
            own, other = context.Pipe()
            process = context.Process(target=_serve, args=(other, rank, count, f"{folder}/store"), daemon=True)
            process.start()
            self.pipes.append(own)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What each replica returned; the first one's error is raised."""
        for pipe in self.pipes:
            pipe.send((function, args, kwargs))
        answers = [pipe.recv() for pipe in self.pipes]
        for error, _ in answers:
            if error:
                raise AssertionError(error)
        return [value for _, value in answers]

    def stop(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def _serve(pipe: Connection, rank: int, count: int, store: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    while (asked := pipe.recv()) is not None:
        function, args, kwargs = asked
        try:
            pipe.send(("", function(*args, **kwargs)))
        except BaseException:
            pipe.send((traceback.format_exc(), None))
    os._exit(0)  # taking torch apart takes seconds

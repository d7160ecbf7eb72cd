"""Writes down what processes of a job do, for cluster_faults.py: Python loads this from PYTHONPATH at its start.

One file per process in the folder $RAYMEDLT_TRACE, one JSON line per event, in the order of the events:

    {"at": seconds, "begun": marker}              a shard is computed (not: found to be done); its file in the ledger
    {"at": seconds, "ended": marker}              and committed
    {"at": seconds, "training": name, "step": n}  the first replica has done n optimizer steps
    {"at": seconds, "training": name, "kept": n}  there is a checkpoint after n steps
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

FOLDER = os.environ.get("RAYMEDLT_TRACE")


def note(**event: Any) -> None:
    """Append one line; whole even if the process is killed just then."""
    line = json.dumps({"at": time.time(), **event}).encode() + b"\n"
    file = os.open(f"{FOLDER}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def noted(name: str, work: Callable[[], Any]) -> Any:
    """Do a shard between two notes."""
    note(begun=name)
    result = work()
    note(ended=name)
    return result


def marker(handle: Any, stage: str, shard: str) -> str:
    """The file that will mark the shard; a job may have a second ledger in a folder of its output."""
    return f"{handle.storage.uri.rstrip('/')}/_ledger/{stage}/{shard}.json"


def folder_name(storage: Any) -> str:
    """Of a training: the last part of its checkpoints' folder."""
    return str(storage.uri).rstrip("/").rpartition("/")[2]


def shards(module: Any) -> None:
    """raymedlt.shards: every stage over shards."""
    before = module.do_once

    def do_once(stage: str, shard: str, handle: Any, function: Callable[[str], Any]) -> None:
        before(stage, shard, handle, lambda name: noted(marker(handle, stage, name), lambda: function(name)))

    module.do_once = do_once


def clustering(module: Any) -> None:
    """raymedlt.clustering.distributed: neighbour lists, which are shards of their own."""
    before = module._Searcher.neighbours

    def neighbours(self: Any, shared: Any, shard: str, everywhere: Any = None) -> None:
        if self._handle.done("neighbours", shard) is None:
            noted(marker(self._handle, "neighbours", shard), lambda: before(self, shared, shard, everywhere))

    module._Searcher.neighbours = neighbours


def checkpoints(module: Any) -> None:
    """raymedlt.checkpoint and raymedlt.finetuning.state."""
    before = module.Checkpoints.write

    def write(self: Any, position: Any, *rest: Any, **more: Any) -> None:
        before(self, position, *rest, **more)
        if not hasattr(self, "world") or self.world.rank == 0:
            note(training=folder_name(self.storage), kept=position.steps)

    module.Checkpoints.write = write


def steps(loop: str) -> Callable[[Any], None]:
    """A module whose class `loop` has `_step`, `position`, `checkpoints`, and `rank` or `world`."""

    def patch(module: Any) -> None:
        kind = getattr(module, loop)
        before = kind._step

        def _step(self: Any, *arguments: Any) -> Any:
            result = before(self, *arguments)
            if (self.world.rank if hasattr(self, "world") else self.rank) == 0:
                note(training=folder_name(self.checkpoints.storage), step=self.position.steps)
            return result

        kind._step = _step

    return patch


def seeing(module: Any) -> None:
    """raymedlt.finetuning.seeing: the number of the step is the last argument."""
    before = module._step

    def _step(*arguments: Any) -> float:
        loss: float = before(*arguments)
        note(training="see", step=arguments[-1] + 1)
        return loss

    module._step = _step


def alignment(module: Any) -> None:
    """raymedlt.alignment.account: TRL says when a step ends, the account when there is a checkpoint."""
    ended, saved = module.Account.on_step_end, module.Account.on_save

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.is_world_process_zero:
            note(training="policy", step=state.global_step)
        return ended(self, args, state, control, **more)

    def on_save(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        saved(self, args, state, control, **more)
        if state.is_world_process_zero:
            note(training="policy", kept=state.global_step)

    module.Account.on_step_end, module.Account.on_save = on_step_end, on_save


PATCHES: dict[str, Callable[[Any], None]] = {
    "raymedlt.shards": shards,
    "raymedlt.clustering.distributed": clustering,
    "raymedlt.checkpoint": checkpoints,
    "raymedlt.finetuning.state": checkpoints,
    "raymedlt.classifier.training": steps("_Trainer"),
    "raymedlt.synthesis.loop": steps("_Loop"),
    "raymedlt.finetuning.training": steps("_Loop"),
    "raymedlt.finetuning.seeing": seeing,
    "raymedlt.alignment.account": alignment,
}


class Patching(importlib.abc.MetaPathFinder):
    """Changes a module right after it was executed."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """Only for modules of PATCHES, and once for each."""
        patch = PATCHES.pop(name, None)
        spec = importlib.util.find_spec(name) if patch is not None else None
        if patch is None or spec is None or spec.loader is None:
            return None
        before, change = spec.loader.exec_module, patch

        def exec_module(module: ModuleType) -> None:
            before(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if FOLDER:
    sys.meta_path.insert(0, Patching())

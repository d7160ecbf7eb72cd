"""Do the shards of a stage exactly once, without Ray: the rules, and threads for small runs (`runtime` has Ray's side).

A shard may be *executed* more than once (a worker died and its task was tried again); it is *committed* once, since
every attempt writes the same bytes (see ledger).
"""

from __future__ import annotations

import pickle
import platform
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from typing import Any

from raymedlt.again import same_command
from raymedlt.connection import trouble
from raymedlt.errors import ConsistencyError, InputError, RaymedltError, without_message
from raymedlt.heap import return_memory
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.progress import Progress
from raymedlt.versions import check_worker

ShardFunction = Callable[[str], dict[str, Any]]
"""Does one shard: computes, writes its files, commits them (`LedgerHandle.commit`) and returns the summary."""


def run_shards_locally(
    stage: str,
    shards: Sequence[str],
    function: ShardFunction | None,
    *,
    progress: Progress,
    workers: int,
    ledger: Ledger,
    actor_factory: Callable[[], ShardFunction] | None = None,
    unit: str = "shards",
    units: Callable[[str], int] | None = None,
) -> dict[str, dict[str, Any]]:
    """The same as `run_shards` in `workers` threads of this process, for runs too small to be worth starting Ray.

    The function must allow calls from several threads; `actor_factory` is called once per thread. Threads of
    numerical libraries are the caller's to limit. Exceptions come as they are.
    """
    pending = pending_of(stage, shards, progress, ledger)
    if not pending:
        return summaries_of(stage, shards, ledger)
    handle, own = ledger.worker(), threading.local()
    size = units or (lambda name: 1)

    def do(name: str) -> None:
        if not hasattr(own, "function"):
            own.function = actor_factory() if actor_factory is not None else given(function)
        do_once(stage, name, handle, own.function)

    with (
        progress.stage(stage, total=sum(map(size, pending)), unit=unit) as advance,
        ThreadPoolExecutor(workers, thread_name_prefix=stage) as pool,
    ):
        futures = {pool.submit(do, name): name for name in pending}
        try:
            for future in as_completed(futures):
                future.result()
                ledger.check_lock()
                advance(size(futures[future]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # shards under way end; the others don't begin
            raise
    return summaries_of(stage, shards, ledger)


def do_once(stage: str, shard: str, handle: LedgerHandle, function: ShardFunction) -> None:
    """Do one shard unless it is done. Raises ConsistencyError if the function returns without a commit."""
    if handle.done(stage, shard) is not None:
        return  # the attempt before committed, then its worker died
    function(shard)
    return_memory()
    if handle.done(stage, shard) is None:
        raise ConsistencyError(f"{stage}/{shard} ended without a commit", "LedgerHandle.commit in the stage's function")


def answer(stage: str, shard: str, handle: LedgerHandle, function: ShardFunction) -> dict[str, Any]:
    """A shard's row: errors travel as data, since Ray Data would log them with all their text."""
    try:
        check_worker()
        _check_shared(handle)
        do_once(stage, shard, handle, function)
    except RaymedltError as error:
        return {"shard": shard, "error": pickle.dumps(error)}
    except OSError as error:  # its message is about files and connections
        return {"shard": shard, "error": pickle.dumps(trouble(f"{stage}/{shard} failed", error))}
    except Exception as error:
        return {"shard": shard, "error": pickle.dumps(without_message(f"{stage}/{shard}", error))}
    return {"shard": shard, "error": b""}


@lru_cache(maxsize=16)
def _check_shared(handle: LedgerHandle) -> None:
    """Raise InputError where this worker's node doesn't see the run's folder. A look once per process and run."""
    if not handle.began():
        raise InputError(
            f"a worker on '{platform.node()}' does not see the run in '{handle.storage.uri}'",
            "an output that every node of the cluster reads and writes: s3://, gs://, abfs:// or a shared disk",
            "give such an --output",
        )


def pending_of(stage: str, shards: Sequence[str], progress: Progress, ledger: Ledger) -> list[str]:
    """The shards still to be done, each once, in the order given; says what there is no need to do."""
    pending = ledger.pending(stage, dict.fromkeys(shards))
    if not pending:
        progress.skip(stage, f"already done, {len(shards)} shards")
    elif len(pending) < len(shards):
        progress.say(f"{stage}: {len(shards) - len(pending)} of {len(shards)} shards already done")
    return pending


def summaries_of(stage: str, shards: Sequence[str], ledger: Ledger) -> dict[str, dict[str, Any]]:
    """The summaries of all shards. Raises ConsistencyError if one isn't done."""
    markers = ledger.shards(stage)
    lost = [name for name in shards if name not in markers]
    if lost:
        raise ConsistencyError(
            f"{len(lost)} of {len(shards)} shards of '{stage}' aren't done at its end, first '{lost[0]}'",
            "one commit per shard",
            f"give {same_command()} again",
        )
    return {name: markers[name].summary for name in shards}


def given(function: ShardFunction | None) -> ShardFunction:
    """The function, which a caller without `actor_factory` must give."""
    if function is None:
        raise TypeError("give `function` or `actor_factory`")
    return function

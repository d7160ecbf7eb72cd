"""Prepared images in Ray's object store, and batches made of them by Ray Data: what trainings that stream share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from raymedlt.errors import RaymedltError
from raymedlt.images.arranging import EXAMPLES_FILE, Data, examples_of
from raymedlt.images.examples import Bytes, Examples, PixelShards, Rows, pixels_of
from raymedlt.nodes import capacity
from raymedlt.runtime import worker_environment
from raymedlt.storage import Storage


def put_pixels(data: Data, storage: Storage) -> tuple[list[Any], np.ndarray]:
    """Prepared images into the object store, file by file; references, and the first row of each file."""
    import ray

    refs, sizes = [], []
    for name in data.shards:
        pixels = pixels_of(storage.read_table(name, ["pixels"]), data.size)
        refs.append(ray.put(pixels))
        sizes.append(len(pixels))
    return refs, np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64)


def streamed(data: Data, refs: Sequence[Any], starts: np.ndarray, storage: Storage) -> Examples:
    """All examples, over images in the object store."""
    return examples_of(storage.read_table(EXAMPLES_FILE), data.classes, RefPixels(refs, starts, data.size))


class RefPixels:
    """Prepared images in Ray's object store: a node fetches a shard once, and reads it without a copy."""

    def __init__(self, refs: Sequence[Any], starts: np.ndarray, size: int) -> None:
        self.refs, self.starts, self.size = list(refs), starts, size

    def take(self, rows: Rows) -> Bytes:
        """uint8 [len(rows), S, S]."""
        import ray

        owners = np.searchsorted(self.starts, rows, side="right") - 1
        needed, place = np.unique(owners, return_inverse=True)
        shards = PixelShards.of(ray.get([self.refs[owner] for owner in needed]))
        return shards.take(rows - self.starts[owners] + shards.starts[place])


def stream(
    make: Callable[[Mapping[str, Any]], dict[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    *,
    ahead: int,
    replicas: int,
) -> Iterator[dict[str, np.ndarray]]:
    """`make(row)` for every row, in order, by Ray Data's tasks anywhere in the cluster, `ahead` of the reader.

    Args:
        make: a row of plain values -> columns of one row.
        replicas: processes of Ray Train, which hold a CPU each. Where they hold every CPU, tasks that ask for one would
            wait for ever, so that they then ask for none.
    """
    import ray
    import ray.data

    if not rows:
        return
    free = capacity().get("CPU", 0) - replicas
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
        make, num_cpus=1 if free >= 1 else 0, runtime_env={"env_vars": worker_environment()}
    )
    for row in dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=ahead):
        yield {name: np.array(column[0]) for name, column in row.items()}


def share(value: Any) -> Any:
    """A reference to `value` in the object store, for `held`."""
    import ray

    return ray.put(value)


@lru_cache(maxsize=2)
def held(ref: Any) -> Any:
    """What a reference names, unpacked once per process: for values that many tasks of a process need.

    Raises:
        RaymedltError: this process can't unpack it. Ray counts that as its own failure and would try for ever.
    """
    import ray
    from ray.exceptions import RaySystemError

    try:
        return ray.get(ref)
    except RaySystemError as error:
        cause = type(error.__cause__ or error).__name__
        raise RaymedltError(
            f"what a task needs can't be unpacked on this node ({cause})",
            "the same packages on every node",
            "install raymedlt in the same version on every node",
        ) from error

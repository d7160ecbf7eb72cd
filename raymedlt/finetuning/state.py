"""Where a training stands, in files that any number of replicas and any engine can go on from.

    <folder>/weights-<steps>-<rank>of<replicas>.safetensors   the replica's pieces of the weights after so many steps
    <folder>/moments-<steps>-<rank>of<replicas>.safetensors   and of AdamW's moments
    <folder>/latest.json                                    which files count: names, sha256, position, history

A piece is a flat range of one parameter ("weight:4096:model.norm.weight" begins at its number 4096). Each replica
writes what it holds: nothing is gathered, copied or pickled, and a checkpoint costs one write of each number, side by
side. A reader takes from all files the ranges that it needs. `latest.json` is replaced whole, after the files it names
and before older ones are deleted, so that whoever dies in between leaves one complete checkpoint.

DeepSpeed's own checkpoints are pickles that fit one world size. Its universal checkpoints fit any, but for the price of
a conversion that reads and writes everything once more, in thousands of small pickles, before a run can go on with
another number of replicas. AdamW's state is three numbers per weight and one count, so these files hold all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import save
from torch import nn

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.finetuning.engines import WEIGHT, Engine, Piece, World
from raymedlt.storage import FileEntry, Storage

LATEST = "latest.json"

Tensors = dict[str, torch.Tensor]
_FLOAT_BYTES = 4
_BLOCK = 16 * 1024**2


@dataclass
class Position:
    """What is to be done next, and what has been learnt about the epochs before."""

    epoch: int = 0
    step: int = 0
    """In the epoch."""
    steps: int = 0
    """Optimizer steps done in all."""
    loss_sum: float = 0.0
    """Of the target tokens of the epoch so far."""
    tokens: int = 0
    """These tokens."""
    best: float | None = None
    """Smallest validation loss per token."""
    bad_epochs: int = 0
    """Epochs since then."""
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per finished epoch."""


class Checkpoints:
    """The checkpoints of one training, in a folder of the run. Every replica has one and calls the same methods."""

    def __init__(self, storage: Storage, world: World) -> None:
        self.storage, self.world = storage, world
        self._named: dict[str, Any] = {"state": [], "best": []}

    def read(self) -> Position | None:
        """Where the training stands; None at its beginning.

        The replicas share the work of checking the files' sha256, and all raise if one of them finds a difference.

        Raises:
            ConsistencyError: a file isn't what was written.
        """
        try:
            self._named = json.loads(self.storage.read_bytes(LATEST))
        except FileNotFoundError:
            return None
        files = self._named["state"]
        mine = files[self.world.rank :: self.world.replicas]
        damaged = [entry["name"] for entry in mine if not _whole(self.storage, entry)]
        for names in self.world.gather(damaged):
            if names:
                raise _damage(self.storage, names[0])
        return Position(**self._named["position"])

    def pieces(self) -> Pieces:
        """The weights and moments of the position that `read` gave."""
        return Pieces(self.storage, [entry["name"] for entry in self._named["state"]])

    def write(self, position: Position, engine: Engine, *, better: bool) -> None:
        """Keep where the training stands; called by every replica after the same step.

        Args:
            better: whether these weights are to be kept instead of those of an earlier epoch.

        Memory: this replica's pieces, twice.
        """
        kinds: dict[str, list[Piece]] = {"weights": [], "moments": []}
        if better or not position.finished:
            for piece in engine.pieces():
                part = "weights" if piece.kind == WEIGHT else "moments"
                if part == "weights" or not position.finished:
                    kinds[part].append(piece)
        mine = {}
        for part, pieces in kinds.items():
            if pieces:
                # By steps and not by the count of checkpoints, which depends on the clock and on kills: the ledger
                # names the file of the weights that are kept. And by replicas: another number of them that writes
                # after the same steps must not write over files that the latest checkpoint still names.
                share = f"{self.world.rank}of{self.world.replicas}"
                name = f"{part}-{position.steps:06d}-{share}.safetensors"
                entry = self.storage.write_bytes(name, _bytes_of(pieces))
                mine[part] = {"name": entry.name, "sha256": entry.sha256, "bytes": entry.bytes}
        every = self.world.gather(mine)
        weights = [each["weights"] for each in every if "weights" in each]
        moments = [each["moments"] for each in every if "moments" in each]
        self._named = {
            "position": asdict(position),
            "state": [] if position.finished else weights + moments,
            "best": weights if better else self._named["best"],
        }
        if self.world.rank == 0:
            self.storage.write_bytes(LATEST, json.dumps(self._named, indent=1, sort_keys=True).encode())
            # No replica can be writing the next files yet: before that it waits for this one in a step.
            kept = {entry["name"] for entry in self._named["state"] + self._named["best"]}
            for name in self.storage.list_files():
                if name != LATEST and name not in kept:
                    self.storage.delete(name)


class Pieces:
    """Ranges of what was kept, read where they lie: no file is loaded as a whole."""

    def __init__(self, storage: Storage, names: Iterable[str]) -> None:
        self._files: list[pa.NativeFile] = []
        # (kind, name) -> [(start, stop, file, byte at which it begins)], ascending
        self._places: dict[tuple[str, str], list[tuple[int, int, int, int]]] = {}
        for number, name in enumerate(names):
            file = storage.open_input(name)
            self._files.append(file)
            length = int.from_bytes(file.read(8), "little")
            for key, about in json.loads(file.read(length)).items():
                kind, start, parameter = key.split(":", 2)
                first, last = about["data_offsets"]
                stop = int(start) + (last - first) // _FLOAT_BYTES
                place = (int(start), stop, number, 8 + length + first)
                self._places.setdefault((kind, parameter), []).append(place)
        for places in self._places.values():
            places.sort()

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def sizes(self, kind: str) -> dict[str, int]:
        """Numbers of each parameter that has this kind."""
        return {name: places[-1][1] for (found, name), places in self._places.items() if found == kind}

    def read(self, kind: str, name: str, start: int, stop: int) -> torch.Tensor:
        """Numbers `start` to `stop` of a parameter's weight or moment, float32.

        Raises:
            ConsistencyError: some of them weren't kept.
        """
        found = torch.empty(stop - start)
        reached = start
        for first, last, number, offset in self._places.get((kind, name), []):
            end = min(last, stop)
            if first <= reached < end:
                file = self._files[number]
                file.seek(offset + (reached - first) * _FLOAT_BYTES)
                data = bytearray(file.read((end - reached) * _FLOAT_BYTES))
                found[reached - start : end - start] = torch.frombuffer(data, dtype=torch.float32)
                reached = end
        if reached < stop:
            raise ConsistencyError(
                f"a checkpoint without the numbers from {reached} on of the {kind} of '{name}'",
                "all of them",
                "delete the folder of this training to begin it anew",
            )
        return found

    def put_weights(self, model: nn.Module) -> None:
        """Copy the weights into the learning parameters of a model that no engine holds yet.

        Raises:
            InputError: they are another model's.
        """
        learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
        sizes = self.sizes(WEIGHT)
        if sizes != {name: each.numel() for name, each in learning.items()}:
            odd = sorted(set(sizes) ^ set(learning)) or [n for n, each in learning.items() if sizes[n] != each.numel()]
            raise InputError(
                f"a checkpoint of another model: {len(odd)} parameters differ, such as '{odd[0]}'",
                "the parameters that learn now",
                "use another output folder, or give --restart",
            )
        with torch.no_grad():
            for name, parameter in learning.items():
                parameter.copy_(self.read(WEIGHT, name, 0, parameter.numel()).view(parameter.shape))


def put_best(storage: Storage, model: nn.Module) -> None:
    """Copy the weights of the best epoch into a model, built as the training built it.

    Args:
        storage: folder of the training's checkpoints.

    Raises:
        ConsistencyError: a file isn't what was written.
        InputError: they are another model's, or no epoch has ended yet.
    """
    files = _best_of(storage)
    for entry in files:
        if not _whole(storage, entry):
            raise _damage(storage, entry["name"])
    with Pieces(storage, [entry["name"] for entry in files]) as pieces:
        pieces.put_weights(model)


def best_files(storage: Storage, folder: str) -> list[FileEntry]:
    """The files with the weights of the best epoch, of the training in `folder` of the run."""
    return [
        FileEntry(f"{folder}/{entry['name']}", entry["sha256"], entry["bytes"])
        for entry in _best_of(storage.sub(folder))
    ]


def _best_of(storage: Storage) -> list[dict[str, Any]]:
    try:
        best: list[dict[str, Any]] = json.loads(storage.read_bytes(LATEST))["best"]
    except FileNotFoundError:
        best = []
    if not best:
        raise InputError(f"no finished epoch in {storage.uri}", "a training", "run jobs/finetune.py first")
    return best


def _bytes_of(pieces: Iterable[Piece]) -> bytes:
    tensors = {f"{each.kind}:{each.start}:{each.name}": each.values.cpu().contiguous() for each in pieces}
    return bytes(save(tensors))


def _whole(storage: Storage, entry: Mapping[str, Any]) -> bool:
    digest = hashlib.sha256()
    try:
        with storage.open_input(entry["name"]) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == str(entry["sha256"])


def _damage(storage: Storage, name: str) -> ConsistencyError:
    return ConsistencyError(
        f"the checkpoint '{name}' differs from its sha256",
        "the bytes that were written",
        f"delete {storage.uri} to train this part again, and check the disk",
    )

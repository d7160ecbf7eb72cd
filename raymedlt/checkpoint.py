"""Where a training stands, as files that hold numbers only: safetensors and JSON, nothing pickled.

    <folder>/state-<step>.safetensors   weights, moving average, optimizer moments
    <folder>/best.safetensors           moving average of the best epoch so far (named by its own step)
    <folder>/latest.json                which of them count: names, sha256, position, history

`latest.json` is replaced whole, after the files it names and before the older ones are deleted, so that whoever dies in
between leaves one complete checkpoint. Files whose sha256 differs are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save

from raymedlt.errors import ConsistencyError
from raymedlt.storage import Storage, sha256_of

Tensors = dict[str, torch.Tensor]
LATEST = "latest.json"


@dataclass
class Position:
    """What is to be done next, and what has been learnt about the epochs before."""

    phase: int = 0
    epoch: int = 0
    """In the phase."""
    step: int = 0
    """In the epoch."""
    steps: int = 0
    """Optimizer steps done in all."""
    loss_sum: float = 0.0
    """Of the epoch's steps so far."""
    best: float = -1.0
    """Best validation mAP."""
    bad_epochs: int = 0
    """Epochs since then."""
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per finished epoch."""


class Checkpoints:
    """The checkpoints of one training, in a folder of the run."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._named: dict[str, Any] = {}

    def read(self) -> tuple[Position, Tensors] | None:
        """Where the training stands; None at its beginning.

        Raises:
            ConsistencyError: a file isn't what was written.
        """
        try:
            self._named = json.loads(self.storage.read_bytes(LATEST))
        except FileNotFoundError:
            return None
        return Position(**self._named["position"]), self._load("state")

    def best(self) -> Tensors:
        """The moving average of the best epoch, as the first replica wrote it. Raises ConsistencyError."""
        self._named = json.loads(self.storage.read_bytes(LATEST))
        return self._load("best")

    def write(
        self, position: Position, state: Mapping[str, torch.Tensor], best: Mapping[str, torch.Tensor] | None
    ) -> None:
        """Keep `state`, and `best` if this epoch is the best so far; earlier files go."""
        before = dict(self._named)
        files = {"state": (f"state-{position.steps:09d}-{position.phase}-{position.epoch}.safetensors", state)}
        if best is not None:
            files["best"] = (f"best-{position.steps:09d}-{position.phase}-{position.epoch}.safetensors", best)
        now: dict[str, Any] = {key: before[key] for key in ("state", "best") if key in before}
        for key, (name, tensors) in files.items():
            data = save({item: tensor.detach().cpu().contiguous() for item, tensor in tensors.items()})
            entry = self.storage.write_bytes(name, data)
            now[key] = {"name": entry.name, "sha256": entry.sha256}
        now["position"] = asdict(position)
        self.storage.write_bytes(LATEST, json.dumps(now, indent=1, sort_keys=True).encode())
        self._named = now
        kept = {now[key]["name"] for key in ("state", "best") if key in now}
        for name in self.storage.list_files():
            if name != LATEST and name not in kept:
                self.storage.delete(name)

    def _load(self, key: str) -> Tensors:
        entry = self._named[key]
        data = self.storage.read_bytes(entry["name"])
        if sha256_of(data) != entry["sha256"]:
            raise ConsistencyError(
                f"the checkpoint '{entry['name']}' differs from its sha256",
                "the bytes that were written",
                f"delete {self.storage.uri} to train this part again, and check the disk",
            )
        return dict(load(data))

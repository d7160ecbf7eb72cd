"""The training loop: fixed micro-batches, a loss per target token, early stop, continuation with any replicas.

No Ray in here, and no trainer of a library. What a result may depend on is fixed here: a step is so many numbered
micro-batches, replica r of W computes the numbers r, r + W, ...; the loss is the mean over all target tokens of the
step, wherever they lie; what drops out follows from seed, step and number. So the losses don't depend on how many
replicas there are (but in their last digits, since sums of gradients are cut otherwise), and a training may lose
replicas and get others in the middle. TRL's and transformers' trainers draw batches per rank, average per rank, and
keep what they need to go on in files of one world size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from raymedlt.cpus import use_threads
from raymedlt.errors import InputError, RaymedltError
from raymedlt.finetuning.config import IGNORED, TrainingConfig
from raymedlt.finetuning.engines import (
    Logits,
    MicroBatch,
    TokenLosses,
    World,
    make_engine,
    picked_logits,
    target_tokens,
)
from raymedlt.finetuning.state import Checkpoints, Position
from raymedlt.machine import Settings
from raymedlt.seeds import keyed_seed
from raymedlt.storage import Storage

WARNING_SECONDS = 5.0
"""Between two questions whether a machine is about to vanish."""

Said = Callable[[dict[str, Any]], None]


class Batches(Protocol):
    """Numbered micro-batches on the CPU; what they hold follows from epoch, step and number alone.

    A micro-batch has what the model's forward takes, and `labels` int64 [B, T] with -100 where nothing is learnt (all
    of it for a study that only fills up the last batch).
    """

    steps: int
    """Per epoch."""
    validation: int
    """Micro-batches of the validation studies."""

    def training(self, epoch: int, first: int, numbers: Sequence[int]) -> Iterator[list[MicroBatch]]:
        """For each step of the epoch from `first` on: its micro-batches with these numbers, in their order."""

    def validating(self, numbers: Sequence[int]) -> Iterator[MicroBatch]:
        """The validation micro-batches with these numbers, in their order."""


@dataclass(frozen=True)
class Trained:
    """How it went; the weights of the epoch that is kept lie with the checkpoints (`state.put_best`)."""

    history: list[dict[str, Any]]
    """Per epoch: epoch, steps, loss and validation_loss per token, tokens, rate, seconds, waited_for_data, replicas."""
    best: float
    """Smallest validation loss."""


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: linear rise over `warmup` of all steps, then half a cosine to 0."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))


def numbers_of(count: int, world: World) -> list[int]:
    """The micro-batches of this replica: rank, rank + replicas, ...; from `count` on they are blank.

    Every replica gets equally many, since they meet in collectives.
    """
    return [world.rank + turn * world.replicas for turn in range(-(-count // world.replicas))]


def train(
    model: nn.Module,
    batches: Batches,
    training: TrainingConfig,
    settings: Settings,
    storage: Storage,
    *,
    seed: int,
    logits: Logits = picked_logits,
    said: Said = lambda entry: None,
    kept: Callable[[Position], None] = lambda position: None,
    warned: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train what requires a gradient in `model`, going on from the last checkpoint if there is one.

    Where torch.distributed is initialised every replica runs it, with the same arguments. Batch norms stay in
    evaluation mode: statistics of a micro-batch would make the result depend on how batches are cut.

    Args:
        model: with its starting weights, the same on every replica. An engine may take it apart: load the result into
            one built anew (`state.put_best`).
        storage: folder for the checkpoints of this training alone, the same place for every replica.
        logits: how to call the model, see engines.py.
        said: called after each epoch, on the first replica.
        kept: called after each checkpoint, on every replica.
        warned: whether a machine is about to vanish; called on every replica after the same steps, and followed by a
            checkpoint the first time it is true.

    Raises:
        InputError: no steps, no validation, nothing learns, nothing to learn, or a checkpoint of another model.
        ConsistencyError: a damaged checkpoint.
        RaymedltError: the loss, or that of the validation studies, isn't finite.
    """
    use_threads(settings.threads)
    return _Loop(model, batches, training, settings, storage, seed, logits, said, kept, warned).run()


class _Loop:
    """One replica at work."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        training: TrainingConfig,
        settings: Settings,
        storage: Storage,
        seed: int,
        logits: Logits,
        said: Said,
        kept: Callable[[Position], None],
        warned: Callable[[], bool],
    ) -> None:
        for name, count in (("training", batches.steps), ("validation", batches.validation)):
            if count < 1:
                raise InputError(f"no {name} studies", "at least one", "see the table `rejected`, and --split.*")
        self.batches, self.training, self.settings, self.seed = batches, training, settings, seed
        self.said, self.kept, self.warned = said, kept, warned
        self.world, self.device = World.here(), torch.device(settings.device)
        self.network = TokenLosses(model, settings, logits)
        self.checkpoints = Checkpoints(storage, self.world)
        self.position = Position()
        self.micro_batches = training.batch // training.micro_batch
        self.numbers = numbers_of(self.micro_batches, self.world)
        self.asked = self.last_kept = time.monotonic()
        self.spared = False
        """Whether a checkpoint was made because a machine is about to vanish."""

    def run(self) -> Trained:
        """All epochs from where the last checkpoint stands."""
        found = self.checkpoints.read()
        if found is not None:
            self.position = found
        at = self.position
        if not at.finished:
            self._start(resumes=found is not None)
            while not at.finished:
                self._epoch()
        self.world.gather(None)  # the first replica may still be writing
        if at.best is None:  # cannot be: an epoch has ended
            raise InputError("a training without an epoch", "at least one")
        return Trained(at.history, at.best)

    def _start(self, *, resumes: bool) -> None:
        if not resumes:
            self.engine = make_engine(self.network, self.training, self.settings, self.world)
            return
        with self.checkpoints.pieces() as pieces:
            pieces.put_weights(self.network.model)
            self.engine = make_engine(self.network, self.training, self.settings, self.world)
            self.engine.restore(pieces.read, self.position.steps)

    def _epoch(self) -> None:
        at, own = self.position, self.training
        began, waited, factor = time.monotonic(), 0.0, 0.0
        self._teach()
        steps = self.batches.training(at.epoch, at.step, [number % self.micro_batches for number in self.numbers])
        while at.step < self.batches.steps:
            asked = time.monotonic()
            micro_batches = next(steps)
            waited += time.monotonic() - asked
            factor = rate_factor(at.steps, own.epochs * self.batches.steps, own.warmup)
            keep = self._step(micro_batches, factor)
            if keep and at.step < self.batches.steps:
                self._keep(better=False)
        value = self._validate()
        entry = {
            "epoch": at.epoch, "steps": at.steps, "loss": at.loss_sum / at.tokens, "validation_loss": value,
            "tokens": at.tokens, "rate": own.full_rate * factor, "seconds": time.monotonic() - began,
            "waited_for_data": waited, "replicas": self.world.replicas,
        }  # fmt: skip
        at.history.append(entry)
        better = at.best is None or value < at.best
        at.best, at.bad_epochs = (value, 0) if better else (at.best, at.bad_epochs + 1)
        at.epoch, at.step, at.loss_sum, at.tokens = at.epoch + 1, 0, 0.0, 0
        last = own.keep == "last"
        at.finished = at.epoch == own.epochs or (at.bad_epochs >= own.patience and not last)
        self._keep(better=better or last)
        if self.world.rank == 0:
            self.said(entry)

    def _teach(self) -> None:
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _step(self, micro_batches: Sequence[MicroBatch], factor: float) -> bool:
        """One optimizer step. Returns whether a checkpoint is due, on all replicas alike."""
        at = self.position
        filled = [
            batch if number < self.micro_batches else blank(batch)
            for number, batch in zip(self.numbers, micro_batches, strict=True)
        ]
        (tokens,) = self.world.sums([sum(map(target_tokens, filled))], self.device)
        if not tokens:
            raise InputError(
                f"no token to learn in step {at.step} of epoch {at.epoch}", "labels other than -100", "check the texts"
            )
        losses = [0.0] * self.micro_batches
        for number, batch in zip(self.numbers, filled, strict=True):
            torch.manual_seed(keyed_seed(self.seed, "dropout", at.steps, number))
            loss = self.engine.learn(self._placed(batch), 1 / tokens, last=number == self.numbers[-1])
            if number < self.micro_batches:
                losses[number] = float(loss)
        now = time.monotonic()
        due = self.world.rank == 0 and now - self.last_kept >= self.training.checkpoint_seconds
        ask = self.world.rank == 0 and now - self.asked >= WARNING_SECONDS
        *losses, due_sum, ask_sum = self.world.sums([*losses, float(due), float(ask)], self.device)
        loss_sum = math.fsum(losses)
        _check_finite("loss", loss_sum / tokens, at.steps)
        self.engine.step(factor)
        at.loss_sum, at.tokens = at.loss_sum + loss_sum, at.tokens + int(tokens)
        at.step, at.steps = at.step + 1, at.steps + 1
        return self._vanishing(bool(ask_sum)) or bool(due_sum)

    def _vanishing(self, ask: bool) -> bool:
        if not ask:
            return False
        self.asked = time.monotonic()
        before, self.spared = self.spared, self.warned()
        return self.spared and not before

    def _validate(self) -> float:
        """Loss per target token of all validation studies; to the bit the same for any number of replicas."""
        self.network.eval()
        count = self.batches.validation
        losses, tokens = [0.0] * count, 0
        numbers = numbers_of(count, self.world)
        found = self.batches.validating([number % count for number in numbers])
        for number, batch in zip(numbers, found, strict=True):
            loss = self.engine.judge(self._placed(batch if number < count else blank(batch)))
            if number < count:
                losses[number], tokens = float(loss), tokens + target_tokens(batch)
        *losses, total = self.world.sums([*losses, float(tokens)], self.device)
        if not total:
            raise InputError("no token to judge in the validation studies", "labels other than -100", "check the texts")
        value = math.fsum(losses) / total
        _check_finite("validation loss", value, self.position.steps)
        return value

    def _placed(self, batch: MicroBatch) -> MicroBatch:
        return {name: each.to(self.device, non_blocking=True) for name, each in batch.items()}

    def _keep(self, *, better: bool) -> None:
        self.checkpoints.write(self.position, self.engine, better=better)
        self.kept(self.position)
        self.last_kept = time.monotonic()


def _check_finite(what: str, value: float, steps: int) -> None:
    if not math.isfinite(value):
        raise RaymedltError(
            f"the {what} is {value} after {steps} steps",
            "a finite number",
            "lower --training.rate and --training.vision_rate, or use --training.precision float32",
        )


def blank(batch: MicroBatch) -> MicroBatch:
    """The same micro-batch with nothing to learn: it counts nothing, and keeps a replica in step with the others."""
    return batch | {"labels": torch.full_like(batch["labels"], IGNORED)}

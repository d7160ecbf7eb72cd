"""The training loop that the autoencoder and the denoiser share: steps, schedule, moving average, exact continuation.

No Ray in here. Where torch.distributed is initialised (Ray Train does that), every replica runs `fit` on its share of
each batch and gradients are averaged; alone it is an ordinary loop. What a step sees follows from its number alone, so
a training that was killed and goes on ends, to the bit, like one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raymedlt.checkpoint import Checkpoints, Position, Tensors
from raymedlt.config import require
from raymedlt.cpus import use_threads
from raymedlt.errors import InputError, RaymedltError
from raymedlt.seeds import keyed_seed
from raymedlt.synthesis.generator import autocast
from raymedlt.synthesis.settings import Precision

Batch = tuple[torch.Tensor, ...]
Said = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast, and on what."""

    steps: int
    """Optimizer steps."""
    batch: int
    """Rows per step, over all replicas."""
    rate: float
    """Learning rate after the rise."""
    warmup_steps: int = 100
    """Steps of linear rise; then half a cosine down to `last_rate`."""
    last_rate: float = 0.05
    """Share of `rate` at the end."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the moving average, which is what comes out; it rises to it as min(ema, (1 + t) / (10 + t))."""
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    threads: int = 1
    """Of the numerical libraries: sums of floats depend on it in their last digits."""
    checkpoint_seconds: float = 300.0
    report_steps: int = 50
    """Steps between two reports."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.rate > 0, "rate", self.rate, "above 0")
        require(self.precision != "float16", "precision", self.precision, "float32 or bfloat16 for training")
        require(0 <= self.ema < 1, "ema", self.ema, "in [0, 1)")


def rate_factor(step: int, settings: LoopSettings) -> float:
    """Share of the learning rate at a step: linear rise, then half a cosine down to `last_rate`."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.last_rate + (1 - settings.last_rate) * 0.5 * (1 + math.cos(math.pi * done))


def fit(
    network: nn.Module, batch_of: Callable[[int], Batch], settings: LoopSettings, checkpoints: Checkpoints, said: Said
) -> list[dict[str, Any]]:
    """Train what requires a gradient in `network`, going on from the last checkpoint; its moving average is left in it.

    Args:
        network: called with a batch's tensors, gives the loss (a scalar: the mean over rows).
        batch_of: the whole batch of a step, on the CPU; tensors share their first dimension. Must be a pure function.
        said: called every `report_steps`, on the first replica.

    Returns:
        The reports: step, loss (mean since the last report), rate, seconds.

    Raises:
        InputError: nothing to train, or a batch that the replicas can't share.
        RaymedltError: the loss isn't finite.
    """
    use_threads(settings.threads)
    return _Loop(network, batch_of, settings, checkpoints, said).run()


class _Loop:
    def __init__(
        self,
        network: nn.Module,
        batch_of: Callable[[int], Batch],
        settings: LoopSettings,
        checkpoints: Checkpoints,
        said: Said,
    ) -> None:
        self.settings, self.batch_of, self.checkpoints, self.said = settings, batch_of, checkpoints, said
        self.alone = not dist.is_initialized()
        self.rank = 0 if self.alone else dist.get_rank()
        self.replicas = 1 if self.alone else dist.get_world_size()
        if settings.batch % self.replicas:
            raise InputError(
                f"batches of {settings.batch} rows for {self.replicas} replicas",
                "a multiple",
                "change --training.batch",
            )
        self.network = network.to(settings.device)
        self.learning = {name: each for name, each in network.named_parameters() if each.requires_grad}
        if not self.learning:
            raise InputError("a network in which nothing learns", "parameters that require a gradient")
        self.average: Tensors = {name: each.detach().clone() for name, each in self.learning.items()}
        self.position = Position()

    def run(self) -> list[dict[str, Any]]:
        parameters = list(self.learning.values())
        optimizer = torch.optim.AdamW(
            parameters, lr=self.settings.rate, weight_decay=self.settings.weight_decay, fused=True
        )
        self._restore(optimizer, parameters)
        wrapped = self.network if self.alone else DistributedDataParallel(self.network)
        began = kept = time.monotonic()
        at, own = self.position, self.settings
        for step in range(at.steps, own.steps):
            rate = own.rate * rate_factor(step, own)
            for group in optimizer.param_groups:
                group["lr"] = rate
            at.loss_sum += self._step(wrapped, optimizer, parameters)
            if at.steps % own.report_steps == 0 or at.steps == own.steps:
                began = self._report(rate, began)
            if time.monotonic() - kept >= own.checkpoint_seconds and at.steps < own.steps:
                self._keep(optimizer, parameters)
                kept = time.monotonic()
        if not at.finished:
            at.finished = True
            self._keep(None, [])
        if not self.alone:
            dist.barrier()  # the first replica may still be writing
        with torch.no_grad():
            for name, parameter in self.learning.items():
                parameter.copy_(self.average[name])
        return at.history

    def _step(self, wrapped: nn.Module, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> float:
        own, at = self.settings, self.position
        torch.manual_seed(keyed_seed(own.seed, "step", at.steps, self.rank))
        batch = [each[self.rank :: self.replicas].to(own.device, non_blocking=True) for each in self.batch_of(at.steps)]
        with autocast(own.device, own.precision):
            loss: torch.Tensor = wrapped(*batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RaymedltError(
                f"the loss is {value} after {at.steps} steps", "a finite number", "lower the rate, or use float32"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, own.clip)
        optimizer.step()
        at.steps += 1
        decay = min(own.ema, (1 + at.steps) / (10 + at.steps))
        names = list(self.average)
        with torch.no_grad():
            torch._foreach_lerp_([self.average[n] for n in names], [self.learning[n] for n in names], 1 - decay)
        return value

    def _report(self, rate: float, began: float) -> float:
        at, now = self.position, time.monotonic()
        done = (at.steps - 1) % self.settings.report_steps + 1
        total = torch.tensor(at.loss_sum, dtype=torch.float64, device=self.settings.device)
        if not self.alone:
            dist.all_reduce(total)
        entry = {"step": at.steps, "loss": float(total) / self.replicas / done, "rate": rate, "seconds": now - began}
        at.history.append(entry)
        at.loss_sum = 0.0
        if self.rank == 0:
            self.said(entry)
        return now

    def _keep(self, optimizer: torch.optim.Optimizer | None, parameters: Sequence[nn.Parameter]) -> None:
        if self.rank:
            return
        state = {f"average.{name}": each for name, each in self.average.items()}
        if optimizer is not None:  # at the end nothing but the average is needed
            state |= {f"model.{name}": each.detach() for name, each in self.learning.items()}
            for number, parameter in enumerate(parameters):
                for key, each in optimizer.state[parameter].items():
                    state[f"optimizer.{number}.{key}"] = each
        self.checkpoints.write(self.position, state, None)

    def _restore(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        found = self.checkpoints.read()
        if found is None:
            return
        self.position, state = found
        if self.position.finished and self.position.steps != self.settings.steps:
            raise InputError(
                f"a finished training of {self.position.steps} steps",
                f"one of {self.settings.steps} steps",
                "use another folder: the rate's schedule follows from the number of steps",
            )
        names = {name.removeprefix("average.") for name in state if name.startswith("average.")}
        if names != set(self.learning):
            raise InputError(
                "a checkpoint of another training", "the parameters that learn now", "use another folder, or delete it"
            )
        for name, place in self.average.items():
            place.copy_(state[f"average.{name}"])
        with torch.no_grad():
            for name, parameter in self.learning.items():
                if f"model.{name}" in state:
                    parameter.copy_(state[f"model.{name}"])
        for name, tensor in state.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                parameter = parameters[int(number)]
                # laid out like the parameter: sums over channels-last memory would else run in another order
                like = tensor if key == "step" else torch.empty_like(parameter).copy_(tensor)
                optimizer.state[parameter][key] = like.detach()

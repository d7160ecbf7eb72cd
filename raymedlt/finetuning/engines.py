"""How a step is computed: by torch alone (one process, or DistributedDataParallel), or by DeepSpeed's ZeRO (zero.py).

Both see the same network, AdamW and rates, and sum gradients over the replicas, so that the losses compare. Both give
their state as pieces: flat ranges of a parameter's weight and of AdamW's two moments, by the parameter's name. Each
replica gives what it holds itself, nothing is gathered, and any engine takes the pieces of any other (state.py).

Shape suffixes: B studies, T tokens, P positions that any study has a target at, V words.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from raymedlt.errors import InputError
from raymedlt.finetuning.config import IGNORED, TrainingConfig
from raymedlt.machine import Settings

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")

MicroBatch = dict[str, torch.Tensor]
Logits = Callable[[nn.Module, MicroBatch, torch.Tensor], torch.Tensor]
"""(model, inputs, positions_P) -> logits [B, P, V] at these positions."""
Read = Callable[[str, str, int, int], torch.Tensor]
"""(kind, name, start, stop) -> flat float32 numbers of a kept weight or moment."""


@dataclass(frozen=True)
class World:
    """The replicas, as this one sees them."""

    rank: int
    replicas: int

    @classmethod
    def here(cls) -> World:
        """From torch.distributed, where it is initialised (Ray Train does that); else alone."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls(0, 1)

    def sums(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Each value summed over the replicas, in float64: exact where all but one of them give 0."""
        found = torch.tensor(values, dtype=torch.float64, device=device)
        if self.replicas > 1:
            dist.all_reduce(found)
        return [float(each) for each in found.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Every replica's value, by rank."""
        found: list[Any] = [value] * self.replicas
        if self.replicas > 1:
            dist.all_gather_object(found, value)
        return found


class Piece(NamedTuple):
    """A flat range of a parameter's weight or moment."""

    kind: str
    """"weight", "exp_avg" or "exp_avg_sq"."""
    name: str
    start: int
    values: torch.Tensor
    """float32 [n]."""


@dataclass(frozen=True)
class Group:
    """Parameters with one learning rate and one weight decay."""

    names: tuple[str, ...]
    rate: float
    decay: float


def parameter_groups(model: nn.Module, training: TrainingConfig) -> list[Group]:
    """What learns, by rate and decay: the vision encoder slower; no decay on biases, norms and embeddings.

    A vision encoder is what lies below a module called vision* or visual, as in the composed model and in Hugging
    Face's (vision_tower, vision_model, visual).

    Raises:
        InputError: nothing learns, or what learns isn't float32.
    """
    embeddings = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.weight is not None
    }
    groups: dict[tuple[float, float], list[str]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dtype != torch.float32:
            raise InputError(
                f"the learning parameter '{name}' in {str(parameter.dtype).removeprefix('torch.')}",
                "float32: only the arithmetic is bfloat16",
                "load the model with dtype=torch.float32",
            )
        sees = any(part.startswith("vision") or part == "visual" for part in name.split("."))
        decays = parameter.ndim > 1 and id(parameter) not in embeddings
        key = (training.vision_rate if sees else training.full_rate, training.weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(name)
    if not groups:
        raise InputError("a model in which nothing learns", "parameters that require a gradient")
    return [Group(tuple(names), rate, decay) for (rate, decay), names in groups.items()]


def picked_logits(model: nn.Module, inputs: MicroBatch, positions_P: torch.Tensor) -> torch.Tensor:
    """Logits of a Hugging Face model at some positions, [B, P, V]; it computes no others if it knows logits_to_keep."""
    known = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in known else {}
    if "logits_to_keep" in known:
        logits: torch.Tensor = model(**inputs, **more, logits_to_keep=positions_P).logits
        return logits
    logits = model(**inputs, **more).logits
    return logits[:, positions_P]


class TokenLosses(nn.Module):
    """A model with its loss; what the engines wrap.

    The precision is set in here and not around the engine, since DeepSpeed switches an outer autocast off.
    """

    def __init__(self, model: nn.Module, settings: Settings, logits: Logits = picked_logits) -> None:
        super().__init__()
        self.model, self.logits = model, logits
        self.device_type, self.low = settings.device, settings.precision == "bfloat16"

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Sum of the cross-entropies of all target tokens, in float32; 0 (with gradients of 0) where there are none."""
        targets_BT = batch["labels"][:, 1:]
        learnt_BT = targets_BT != IGNORED
        positions_P = learnt_BT.any(0).nonzero().squeeze(1)
        inputs = {name: each for name, each in batch.items() if name not in ("labels", "weights")}
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.low):
            logits_BPV = self.logits(self.model, inputs, positions_P)
        learnt_BP = learnt_BT[:, positions_P]
        return functional.cross_entropy(
            logits_BPV[learnt_BP].float(), targets_BT[:, positions_P][learnt_BP], reduction="sum"
        )


def target_tokens(batch: MicroBatch) -> int:
    """Tokens of a micro-batch that the loss counts."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


class Engine(Protocol):
    """What the loop needs of an engine."""

    network: TokenLosses

    def learn(self, batch: MicroBatch, share: float, *, last: bool) -> torch.Tensor:
        """Forward and backward. `share` times the loss counts; gradients are summed over micro-batches and replicas.

        Args:
            last: of the replica's micro-batches in this step.

        Returns:
            The micro-batch's summed token losses, without gradients.
        """

    def judge(self, batch: MicroBatch) -> torch.Tensor:
        """The micro-batch's summed token losses; every replica must call it equally often."""

    def step(self, factor: float) -> None:
        """Clip, and let the optimizer do a step at `factor` times the full rates."""

    def pieces(self) -> Iterator[Piece]:
        """This replica's share of weights and moments, after at least one step; all replicas' together are all."""

    def restore(self, read: Read, steps: int) -> None:
        """Put AdamW where it stood after `steps` steps; the weights were in the model before the engine was made."""


def make_engine(network: TokenLosses, training: TrainingConfig, settings: Settings, world: World) -> Engine:
    """The engine that `training.zero` asks for. Weights must be in place, and the same on every replica."""
    groups = parameter_groups(network.model, training)
    if training.zero:
        from raymedlt.finetuning.zero import ZeroEngine  # made of what is here

        return ZeroEngine(network, groups, training, settings, world)
    return PlainEngine(network, groups, training, settings, world)


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """What learns, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adamw(groups: Sequence[Group], named: Mapping[str, nn.Parameter]) -> torch.optim.AdamW:
    """The optimizer of both engines."""
    return torch.optim.AdamW(
        [
            {"params": [named[name] for name in group.names], "lr": group.rate, "weight_decay": group.decay}
            for group in groups
        ],
        fused=True,
    )


def fresh(flat: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    """AdamW's state of one tensor as it makes it itself, but after `steps` steps."""
    state = {"step": torch.tensor(float(steps), device=flat.device)}
    return state | {kind: torch.zeros_like(flat, memory_format=torch.preserve_format) for kind in MOMENTS}


class PlainEngine:
    """Every replica holds everything; gradients are averaged by DistributedDataParallel."""

    def __init__(
        self, network: TokenLosses, groups: Sequence[Group], training: TrainingConfig, settings: Settings, world: World
    ) -> None:
        self.network = network.to(settings.device)
        self.world, self.clip = world, training.clip
        self.named = learning(network.model)
        self.optimizer = adamw(groups, self.named)
        self.rates = [group.rate for group in groups]
        # Buffers are the same on every replica, since nothing changes them (training.py).
        self.wrapped: nn.Module = (
            DistributedDataParallel(network, broadcast_buffers=False) if world.replicas > 1 else network
        )

    def learn(self, batch: MicroBatch, share: float, *, last: bool) -> torch.Tensor:
        waits = isinstance(self.wrapped, DistributedDataParallel) and not last
        with self.wrapped.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            loss: torch.Tensor = self.wrapped(batch)
            (loss * (share * self.world.replicas)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @torch.no_grad()
    def judge(self, batch: MicroBatch) -> torch.Tensor:
        loss: torch.Tensor = self.network(batch)
        return loss

    def step(self, factor: float) -> None:
        idle = [name for name, parameter in self.named.items() if parameter.grad is None]
        if idle:
            raise InputError(
                f"{len(idle)} learning parameters that the loss doesn't depend on, such as '{idle[0]}'",
                "that what learns takes part in every step",
                "freeze them (requires_grad_(False))",
            )
        nn.utils.clip_grad_norm_(self.named.values(), self.clip)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def pieces(self) -> Iterator[Piece]:
        rank, replicas = self.world.rank, self.world.replicas
        for name, parameter in self.named.items():
            numbers = parameter.numel()
            start, stop = numbers * rank // replicas, numbers * (rank + 1) // replicas
            if start < stop:
                yield Piece(WEIGHT, name, start, _flat(parameter)[start:stop])
                for kind in MOMENTS:
                    yield Piece(kind, name, start, _flat(self.optimizer.state[parameter][kind])[start:stop])

    def restore(self, read: Read, steps: int) -> None:
        for name, parameter in self.named.items():
            # laid out like the parameter: sums over channels-last memory would else run in another order
            state = self.optimizer.state[parameter] = fresh(parameter.detach(), steps)
            for kind in MOMENTS:
                state[kind].copy_(read(kind, name, 0, parameter.numel()).view(parameter.shape))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1)

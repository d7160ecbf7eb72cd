"""The training loop: phases, schedule, moving average, early stop, and exact continuation from any step.

No Ray in here. Where torch.distributed is initialised (Ray Train does that), every replica runs `train` and gradients
are averaged; alone it is an ordinary loop. Everything random in a step follows from its number (see `feed.py`, and the
reseeding before each step for dropout), so a run that was killed and goes on ends like one that was not.

Source: TRCGL-Net (arXiv 2607.00975), training section, and its authors' release for the two stages and their rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raymedlt.checkpoint import Checkpoints, Position, Tensors
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.feed import Batch, Feed, steps_of
from raymedlt.classifier.losses import make_loss
from raymedlt.classifier.metrics import score
from raymedlt.classifier.model import LabelGraphClassifier, freeze_backbone, parameter_groups
from raymedlt.classifier.scoring import logits_of
from raymedlt.cpus import use_threads
from raymedlt.errors import InputError, RaymedltError
from raymedlt.images.examples import Examples, Rows
from raymedlt.images.sampling import repeat_factors, rows_instead
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.seeds import keyed_seed

PRETRAIN, STAGE_1, STAGE_2 = "pretrain", "stage 1", "stage 2"


@dataclass(frozen=True)
class Phase:
    """A part of the training with an optimizer of its own."""

    name: str
    epochs: int
    rows: Rows
    frozen: bool
    """The backbone is."""
    backbone_rate: float
    rate: float
    warmup_epochs: float
    cosine: bool
    synthetic_weight: Callable[[int], float] = field(default=lambda epoch: 1.0)
    """By epoch of the phase."""


def phases_of(examples: Examples, config: ClassifyConfig) -> list[Phase]:
    """What is done after what."""
    own, synthetic = config.training, config.synthetic
    mixes = synthetic.path is not None and synthetic.use == "mix"  # an ablation leaves out what the examples hold
    mixed = examples.rows(TRAIN, synthetic=None if mixes else False)
    if synthetic.path is not None and synthetic.use == "oversample":
        both = examples.rows(TRAIN, synthetic=None)
        shown = examples.labels_NC[both] * examples.known_NC[both]
        copies = rows_instead(shown, ~examples.synthetic[both], examples.image_ids[both], seed=config.seed)
        mixed = np.concatenate([mixed, both[copies]])
    phases = []
    if synthetic.path is not None and synthetic.use == "pretrain":
        rows = examples.rows(TRAIN, synthetic=True)
        phases.append(
            Phase(
                PRETRAIN, synthetic.pretrain_epochs, rows, False, own.backbone_rate, own.rate, own.warmup_epochs, True
            )
        )
    if own.stage1_epochs:
        phases.append(
            Phase(STAGE_1, own.stage1_epochs, mixed, True, own.stage1_rate, own.stage1_rate, 0.0, False, lambda _: 0.0)
        )
    if own.stage2_epochs:
        warm = own.warmup_epochs
        phases.append(
            Phase(
                STAGE_2,
                own.stage2_epochs,
                mixed,
                False,
                own.backbone_rate,
                own.rate,
                warm,
                True,
                lambda epoch: 0.0 if epoch < warm else synthetic.weight,
            )
        )
    return phases


@dataclass
class Trained:
    """What came out: the moving average of the best epoch, and how it went."""

    weights: Tensors
    history: list[dict[str, Any]]
    best: float
    """Validation mAP of these weights."""


def rate_factor(phase: Phase, step: int, steps_per_epoch: int) -> float:
    """Share of the learning rate at a step of the phase: linear rise, then half a cosine to 0."""
    warm = phase.warmup_epochs * steps_per_epoch
    if step < warm:
        return (step + 1) / (warm + 1)
    if not phase.cosine:
        return 1.0
    total = phase.epochs * steps_per_epoch
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, total - warm)))


class Average:
    """Moving average of weights and buffers; its decay rises to `decay` as min(decay, (1 + t) / (10 + t))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: Tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """After step number `steps` (from 1)."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        now = model.state_dict()
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[n] for n in floats], [now[n] for n in floats], 1 - decay)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(now[name])


class _Trainer:
    """One replica at work; its position and tensors are all that a checkpoint keeps."""

    def __init__(
        self,
        model: LabelGraphClassifier,
        examples: Examples,
        config: ClassifyConfig,
        settings: Settings,
        checkpoints: Checkpoints,
        feed: Feed,
        said: Callable[[dict[str, Any]], None],
    ) -> None:
        self.examples, self.config, self.settings = examples, config, settings
        self.checkpoints, self.feed, self.said = checkpoints, feed, said
        self.alone = not dist.is_initialized()
        self.rank = 0 if self.alone else dist.get_rank()
        self.replicas = 1 if self.alone else dist.get_world_size()
        self.device = torch.device(settings.device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.average = Average(self.model, config.training.ema)
        self.position = Position()
        self.phases = phases_of(examples, config)
        counts = examples.counts()
        self.loss = make_loss(config.loss, counts, images=examples.known_NC[examples.rows(TRAIN)].sum(0))

    def run(self) -> Trained:
        """All phases from where the last checkpoint stands."""
        found = self.checkpoints.read()
        optimizer_state: Tensors = {}
        if found is not None:
            self.position, state = found
            self.model.load_state_dict(_part(state, "model."))
            self.average.tensors = {n: t.to(self.device) for n, t in _part(state, "average.").items()}
            optimizer_state = _part(state, "optimizer.")
        while not self.position.finished:
            self._phase(self.phases[self.position.phase], optimizer_state)
            optimizer_state = {}
        if not self.alone:
            dist.barrier()  # the first replica may still be writing
        best = self.checkpoints.best()
        return Trained(best, self.position.history, self.position.best)

    def _phase(self, phase: Phase, optimizer_state: Tensors) -> None:
        freeze_backbone(self.model, phase.frozen)
        groups = parameter_groups(self.model, phase.backbone_rate, phase.rate, self.config.training.weight_decay)
        for group in groups:
            group["full_rate"] = group["lr"]
        optimizer = torch.optim.AdamW(groups)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if optimizer_state:
            _restore(optimizer, parameters, optimizer_state)
        network: nn.Module = self.model if self.alone else DistributedDataParallel(self.model)
        labels = self.examples.labels_NC[phase.rows] * self.examples.known_NC[phase.rows]
        sampling = self.config.loss
        factors = (
            repeat_factors(labels, sampling.repeat_threshold)
            if sampling.sampling == "repeat_factor"
            else np.ones(len(phase.rows))
        )
        while self.position.epoch < phase.epochs and not self.position.finished:
            self._epoch(phase, network, optimizer, parameters, factors)
        if not self.position.finished:
            self.position.phase, self.position.epoch = self.position.phase + 1, 0
            self.position.finished = self.position.phase == len(self.phases)
            self._keep(None, [], None)

    def _epoch(
        self,
        phase: Phase,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        factors: npt.NDArray[np.float64],
    ) -> None:
        at, own = self.position, self.config.training
        steps = steps_of(
            phase.rows, factors, self.examples.image_ids, seed=self.config.seed, phase=phase.name, epoch=at.epoch,
            batch=own.batch_images, rank=self.rank, replicas=self.replicas,
        )  # fmt: skip
        began = kept = time.monotonic()
        waited, rate = 0.0, 0.0
        first = at.step
        batches = self.feed(steps[first:], phase.synthetic_weight(at.epoch))
        self.model.train()
        if own.freeze_norms:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for number in range(first, len(steps)):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            factor = rate_factor(phase, at.epoch * len(steps) + number, len(steps))
            for group in optimizer.param_groups:
                group["lr"] = rate = group["full_rate"] * factor
            at.loss_sum += self._step(network, optimizer, parameters, batch)
            at.step = number + 1
            if time.monotonic() - kept >= own.checkpoint_seconds and at.step < len(steps):
                self._keep(optimizer, parameters, None)
                kept = time.monotonic()
        seconds = time.monotonic() - began
        value = self.validate()
        entry = {
            "phase": phase.name, "epoch": at.epoch, "steps": at.steps, "loss": at.loss_sum / max(1, len(steps)),
            "rate": rate, "validation_map": value, "seconds": seconds, "waited_for_data": waited,
        }  # fmt: skip
        at.history.append(entry)
        better = value > at.best
        if better:
            at.best, at.bad_epochs = value, 0
        elif phase.name == STAGE_2:
            at.bad_epochs += 1
        at.epoch, at.step, at.loss_sum = at.epoch + 1, 0, 0.0
        at.finished = at.bad_epochs >= own.patience
        self._keep(optimizer, parameters, self.average.tensors if better else None)
        if self.rank == 0:
            self.said(entry)

    def _step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], batch: Batch
    ) -> float:
        torch.manual_seed(keyed_seed(self.config.seed, "step", self.position.steps, self.rank))
        images = batch.images_B1SS.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with torch.autocast(self.settings.device, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            logits = network(images).logits_BC
        loss = self.loss(
            logits.float(), batch.labels_BC.to(self.device), batch.known_BC.to(self.device),
            batch.weights_B.to(self.device),
        )  # fmt: skip
        value = self._mean(loss.detach())
        if not math.isfinite(value):
            raise RaymedltError(
                f"the loss is {value} after {self.position.steps} steps",
                "a finite number",
                "lower --training.rate and --training.backbone_rate, or use --training.precision float32",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, self.config.training.clip)
        optimizer.step()
        self.position.steps += 1
        self.average.update(self.model, self.position.steps)
        return value

    def _mean(self, loss: torch.Tensor) -> float:
        """Over the replicas, so that each has the same history (also after a resume) and notices the same errors."""
        if not self.alone:
            dist.all_reduce(loss)
        return float(loss) / self.replicas

    def validate(self) -> float:
        """Macro average precision of the moving average on the validation images."""
        rows = self.examples.rows(VALIDATION)
        if not self.alone:  # each replica has seen other batches: the first one's statistics count
            for tensor in self.average.tensors.values():
                dist.broadcast(tensor, src=0)
        now = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.tensors)
        logits = logits_of(
            self.model, self.examples.pixels, rows, self.config.evaluation.batch_images, self.settings.device,
            self.settings.precision, rank=self.rank, replicas=self.replicas,
        )  # fmt: skip
        self.model.load_state_dict(now)
        scores = score(logits, self.examples.labels_NC[rows], self.examples.known_NC[rows])
        value = scores.average("average_precision").value
        return 0.0 if math.isnan(value) else value

    def _keep(
        self, optimizer: torch.optim.Optimizer | None, parameters: Sequence[nn.Parameter], best: Tensors | None
    ) -> None:
        if self.rank:
            return
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        if optimizer is not None:
            state |= {f"optimizer.{name}": tensor for name, tensor in _moments(optimizer, parameters).items()}
        self.checkpoints.write(self.position, state, best)


def _part(state: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _moments(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Tensors:
    """AdamW's state of each parameter, by the parameter's number."""
    return {
        f"{number}.{name}": tensor
        for number, parameter in enumerate(parameters)
        for name, tensor in optimizer.state.get(parameter, {}).items()
    }


def _restore(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], state: Tensors) -> None:
    for name, tensor in state.items():
        number, key = name.split(".", 1)
        parameter = parameters[int(number)]
        place = tensor if key == "step" else tensor.to(parameter.device)
        optimizer.state[parameter][key] = place


def train(
    model: LabelGraphClassifier,
    examples: Examples,
    config: ClassifyConfig,
    settings: Settings,
    checkpoints: Checkpoints,
    feed: Feed,
    said: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> Trained:
    """Train `model`, going on from the last checkpoint if there is one.

    Args:
        model: with its starting weights, the same on every replica.
        feed: makes the batches (see feed.py).
        said: called after each epoch, on the first replica.

    Raises:
        InputError: no training or no validation images.
        RaymedltError: the loss isn't finite.
    """
    for split in (TRAIN, VALIDATION):
        rows = examples.rows(split)
        if not len(rows):
            raise InputError(f"no real {split} images", "at least one", "see the table `rejected`, and --split.*")
        if not (examples.labels_NC[rows] * examples.known_NC[rows]).any():
            raise InputError(
                f"{len(rows)} {split} images, and none shows a class",
                "at least one positive",
                "raise --split.validation",
            )
    use_threads(settings.threads)
    return _Trainer(model, examples, config, settings, checkpoints, feed, said).run()

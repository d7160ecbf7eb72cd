"""The engine that shards: DeepSpeed's ZeRO, its configuration from `training.zero`, and its import, late and without
what it would compile.

ZeRO (Rajbhandari et al., 2020) shards over the replicas what plain data parallelism copies: stage 1 the optimizer's
moments, 2 also the gradients, 3 also the weights. The arithmetic stays that of torch: the same AdamW, float32 weights,
autocast inside the network (engines.py), so that the losses of all stages compare.
"""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from raymedlt.errors import InputError
from raymedlt.finetuning.config import TrainingConfig
from raymedlt.finetuning.engines import (
    MOMENTS,
    WEIGHT,
    Group,
    MicroBatch,
    Piece,
    Read,
    TokenLosses,
    World,
    adamw,
    fresh,
    learning,
)
from raymedlt.machine import Device, Settings

_BUCKET = 50_000_000
"""Numbers that are reduced or gathered together: 200 MB of float32; DeepSpeed's own default would take 2 GB."""


def micro_steps(training: TrainingConfig, replicas: int) -> int:
    """Micro-batches that each replica computes per step; where they can't be shared evenly the last ones are blank."""
    return -(-(training.batch // training.micro_batch) // replicas)


def zero_config(training: TrainingConfig, replicas: int, device: Device) -> dict[str, Any]:
    """What `deepspeed.initialize` is given at stages 1 to 3, as JSON values.

    DeepSpeed's own optimizers, mixed precision, schedules and checkpoints stay off: rates come from the loop, bfloat16
    from autocast, and state.py keeps what counts.
    """
    sharded: dict[str, Any] = {
        "stage": training.zero,
        "reduce_bucket_size": _BUCKET,
        "allgather_bucket_size": _BUCKET,
        "overlap_comm": device == "cuda",
    }
    if training.zero == 3:
        sharded["stage3_prefetch_bucket_size"] = _BUCKET
    if training.offload:
        place = {"device": "cpu", "pin_memory": device == "cuda"}
        sharded["offload_optimizer"] = place
        if training.zero == 3:
            sharded["offload_param"] = place
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch,
        "gradient_accumulation_steps": micro_steps(training, replicas),
        "gradient_clipping": training.clip,
        "zero_optimization": sharded,
        # torch's AdamW: DeepSpeed would compile its own for the CPU (a minute, and a C++ compiler on every node)
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def import_deepspeed(device: Device) -> Any:
    """The package, set to work on `device`; its first import takes seconds and decides about the device for good."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it announces every step of its start
    # at every step, of names that torch 2.14 would have otherwise
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    import deepspeed
    import deepspeed.ops

    # Shared-memory collectives for CPUs: compiled for half a minute at the first use, and fail without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # importing it set the level anew
    return deepspeed


def ensure_process_group(device: Device) -> None:
    """DeepSpeed needs torch.distributed also for one process. It stays: DeepSpeed keeps references to its groups."""
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=0, world_size=1)
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class ZeroEngine:
    """DeepSpeed's ZeRO at stages 1 to 3, alone or with replicas."""

    def __init__(
        self, network: TokenLosses, groups: Sequence[Group], training: TrainingConfig, settings: Settings, world: World
    ) -> None:
        for name, parameter in network.model.named_parameters():
            if parameter.dtype != torch.float32:
                raise InputError(
                    f"the parameter '{name}' in {str(parameter.dtype).removeprefix('torch.')} under DeepSpeed",
                    "float32 throughout: it keeps weights of one kind",
                    "load the model with dtype=torch.float32, or give --training.zero 0",
                )
        deepspeed = import_deepspeed(settings.device)
        ensure_process_group(settings.device)
        self.network, self.world, self.stage = network, world, training.zero
        self.named = learning(network.model)
        self.rates = [group.rate for group in groups]
        self.device = torch.device(settings.device)
        self.engine, *_ = deepspeed.initialize(
            model=network,
            optimizer=adamw(groups, self.named),
            config=zero_config(training, world.replicas, settings.device),
        )
        self.optimizer: torch.optim.AdamW = self.engine.optimizer.optimizer

    def learn(self, batch: MicroBatch, share: float, *, last: bool) -> torch.Tensor:
        loss: torch.Tensor = self.engine(batch)
        # DeepSpeed divides by the replicas, and would by its count of micro-batches
        self.engine.backward(loss * (share * self.world.replicas), scale_wrt_gas=False)
        if not last:
            self.engine.step()  # counts the micro-batch; the optimizer waits for the last one
        return loss.detach()

    @torch.no_grad()
    def judge(self, batch: MicroBatch) -> torch.Tensor:
        loss: torch.Tensor = self.engine(batch)
        return loss

    def step(self, factor: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.engine.step()

    def pieces(self) -> Iterator[Piece]:
        self._link()
        for name, parameter in self.named.items():
            start, stop = self._range(parameter)
            if start < stop:
                for kind in (WEIGHT, *MOMENTS):
                    yield Piece(kind, name, start, self._held(parameter, kind)[: stop - start].detach())

    def restore(self, read: Read, steps: int) -> None:
        flats = (
            self.engine.optimizer.fp32_partitioned_groups_flat
            if self.stage == 3
            else self.engine.optimizer.single_partition_of_fp32_groups
        )
        for flat in flats:
            self.optimizer.state[flat] = fresh(flat.detach(), steps)
        self._link()
        for name, parameter in self.named.items():
            start, stop = self._range(parameter)
            if start < stop:
                for kind in MOMENTS:
                    self._put(parameter, kind, read(kind, name, start, stop))

    def _link(self) -> None:
        """Stages 1 and 2: let each parameter know its place in the moments.

        DeepSpeed does it after its first step, but then (0.19) for the first parameter group alone: the others' state
        isn't there yet, and it doesn't look again.
        """
        if self.stage < 3:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _range(self, parameter: Any) -> tuple[int, int]:
        """What this replica holds of a parameter, in numbers of the flat whole."""
        if self.stage == 3:  # equal parts, the last ones filled up
            numbers, part = int(parameter.ds_numel), int(parameter.partition_numel())
            start = min(self.world.rank * part, numbers)
            return start, min(start + part, numbers)
        if parameter._hp_mapping is None:
            return 0, 0
        place = parameter._hp_mapping.lp_fragment_address
        return int(place.start), int(place.start + place.numel)

    def _held(self, parameter: Any, kind: str) -> torch.Tensor:
        """This replica's numbers of a parameter's weight or moment, flat; at stage 3 with what fills them up."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        if self.stage == 3:
            found = (
                safe_get_local_fp32_param(parameter)
                if kind == WEIGHT
                else safe_get_local_optimizer_state(parameter, kind)
            )
        else:
            found = parameter._hp_mapping.get_hp_fragment(None if kind == WEIGHT else kind)
        held: torch.Tensor = found
        return held

    def _put(self, parameter: Any, kind: str, values: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        if self.stage == 3:
            filled = torch.zeros(int(parameter.partition_numel()))
            filled[: len(values)] = values
            safe_set_local_optimizer_state(parameter, filled, kind)
        else:
            parameter._hp_mapping.get_hp_fragment(kind).copy_(values)

"""DeepSpeed's configuration from `training.zero`, and its import, late and without what it would compile.

ZeRO (Rajbhandari et al., 2020) shards over the replicas what plain data parallelism copies: stage 1 the optimizer's
moments, 2 also the gradients, 3 also the weights. The arithmetic stays that of torch: the same AdamW, float32 weights,
autocast inside the network (engines.py), so that the losses of all stages compare.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from raymedlt.finetuning.config import TrainingConfig
from raymedlt.machine import Device

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

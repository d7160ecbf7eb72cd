"""From a trained network to scores: logits, calibration and thresholds from validation, test metrics with intervals.

B batch, C classes, N images, S pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from raymedlt.images.augment import tta_views
from raymedlt.images.examples import Pixels, Rows

Floats = npt.NDArray[np.float32]


def logits_of(
    model: nn.Module,
    pixels: Pixels,
    rows: Rows,
    batch: int,
    device: str,
    precision: str,
    *,
    tta: bool = False,
    rank: int = 0,
    replicas: int = 1,
) -> Floats:
    """Logits, float32 [len(rows), C]; with `tta` the mean over small shifts and scales.

    Batches have one fixed shape (the last one is filled up with its first image), since floats depend on it. With
    several replicas each does every so-many-th batch and all get the whole.
    """
    model.eval()
    own: dict[int, Floats] = {}
    for number, start in enumerate(range(0, len(rows), batch)):
        if number % replicas != rank:
            continue
        part = rows[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[:1], batch - len(part))])
        images = torch.from_numpy(pixels.take(filled)).unsqueeze(1).float() / 255
        views = tta_views(images) if tta else [images]
        own[number] = _forward(model, views, device, precision)[: len(part)]
    if replicas > 1:
        gathered: list[dict[int, Floats]] = [{} for _ in range(replicas)]
        dist.all_gather_object(gathered, own)
        own = {number: logits for part_ in gathered for number, logits in part_.items()}
    return np.concatenate([own[number] for number in sorted(own)])


def _forward(model: nn.Module, views: list[torch.Tensor], device: str, precision: str) -> Floats:
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        outputs = [
            model(view.to(device, memory_format=torch.channels_last)).logits_BC.float().cpu().numpy() for view in views
        ]
    mean: Floats = np.mean(outputs, axis=0, dtype=np.float32)
    return mean

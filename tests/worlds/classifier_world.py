"""A small learnable world: squares, bars and dots on noise, three classes, some patients with two images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raymedlt.classifier.config import ClassifyConfig, EvaluationConfig, ModelConfig, TrainingConfig
from raymedlt.images.config import AugmentConfig
from raymedlt.images.examples import Examples, PixelShards
from raymedlt.schema import TEST, TRAIN, VALIDATION
from raymedlt.seeds import generator

CLASSES = ("Square", "Bar", "Dot")
SIZE = 32


def world(images: int = 120, seed: int = 0) -> Examples:
    """Two thirds training, a sixth validation, a sixth test; "Dot" is rare."""
    rng = generator(seed, "world")
    labels = (rng.random((images, 3)) < [0.5, 0.3, 0.15]).astype(np.float32)
    pixels = rng.integers(60, 120, (images, SIZE, SIZE)).astype(np.uint8)
    for row in range(images):
        y, x = rng.integers(2, 20, 2)
        if labels[row, 0]:
            pixels[row, y : y + 10, x : x + 10] = 220
        if labels[row, 1]:
            pixels[row, :, x : x + 3] = 20
        if labels[row, 2]:
            pixels[row, y : y + 3, 26:29] = 255
    splits = np.array([(TRAIN, TRAIN, TRAIN, TRAIN, VALIDATION, TEST)[row % 6] for row in range(images)], object)
    return Examples(
        image_ids=np.array([f"image-{row:04d}" for row in range(images)], object),
        patient_ids=np.array([f"patient-{row % 6}-{row // 12}" for row in range(images)], object),
        splits=splits,
        sources=np.array(["world"] * images, object),
        labels_NC=labels,
        known_NC=np.ones_like(labels, bool),
        synthetic=np.zeros(images, bool),
        pixels=PixelShards.of([pixels[: images // 2], pixels[images // 2 :]]),
        classes=CLASSES,
    )


def quick(**training: object) -> ClassifyConfig:
    """A configuration that trains in seconds."""
    own = {"stage1_epochs": 1, "stage2_epochs": 2, "batch_images": 16, "precision": "float32", "ema": 0.9, **training}
    return ClassifyConfig(
        model=ModelConfig(backbone="test_resnet"),
        training=replace(TrainingConfig(), **own),
        augment=AugmentConfig(),
        evaluation=EvaluationConfig(batch_images=16, bootstrap=20, maps=4),
    )


STILL = AugmentConfig(rotate=0, shift=0, scale=0, contrast=0, noise=0, dropout=0, clahe=0)

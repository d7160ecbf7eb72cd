"""The folder of a finished classifier with random weights, written by the code that writes a run's."""

from __future__ import annotations

import dataclasses

import numpy as np
from classifier_world import SIZE, quick, world

from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.evaluation import evaluate
from raymedlt.classifier.finish import Outcome, write_model
from raymedlt.classifier.task import start_model
from raymedlt.images.config import ImagesConfig
from raymedlt.machine import Settings
from raymedlt.schema import TEST, VALIDATION
from raymedlt.seeds import generator
from raymedlt.storage import Storage

EXAMPLES = world(120)


def images(count: int = 20) -> np.ndarray:
    """uint8 [count, SIZE, SIZE], all different."""
    return EXAMPLES.pixels.take(np.arange(count))


def settings_of(attention: str = "class_aware", tta: bool = False, members: int = 1) -> ClassifyConfig:
    own = quick()
    return dataclasses.replace(
        own,
        images=ImagesConfig(size=SIZE),
        model=dataclasses.replace(own.model, attention=attention),
        evaluation=dataclasses.replace(own.evaluation, tta=tta, members=members),
    )


def stored(folder: str, config: ClassifyConfig | None = None) -> str:
    """Write `<folder>/model` and return `folder`."""
    config = config or settings_of()
    names = [f"member-{number}" for number in range(config.evaluation.members)]
    outcome = Outcome(
        config=config, labels={}, prepared={}, arranged={}, settings=Settings("cpu", "float32", 1), members=names,
        workers=1, where="one process",
    )  # fmt: skip
    networks = [start_model(EXAMPLES, dataclasses.replace(config, seed=seed)).eval() for seed in range(len(names))]
    rng = generator(0, "logits")
    logits = [rng.normal(0, 1, (len(EXAMPLES.rows(split)), 3)) for split in (VALIDATION, TEST)]
    write_model(Storage.of(folder), outcome, EXAMPLES, networks, evaluate(EXAMPLES, *logits, config))
    return folder

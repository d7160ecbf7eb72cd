"""One training as a worker does it: examples from the run's folder, a network, the loop, the result. No Ray in here.

_work/train/<name>/            checkpoints of the training <name> (see checkpoint.py)
_work/trained/<name>.safetensors    its network: the moving average of the best epoch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raymedlt.checkpoint import Checkpoints
from raymedlt.classifier.config import ClassifyConfig, ModelConfig
from raymedlt.classifier.feed import Feed, thread_feed
from raymedlt.classifier.label_graph import cooccurrence_adjacency, ml_gcn_adjacency
from raymedlt.classifier.model import LabelGraphClassifier, build, to_safetensors
from raymedlt.classifier.training import Trained, train
from raymedlt.images.arranging import Data
from raymedlt.images.examples import Examples
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN

TRAINED = "train"


@dataclass(frozen=True)
class Training:
    """A training: its name in the run, and its configuration (a variant of the run's, or another seed)."""

    name: str
    config: ClassifyConfig


def folder_of(name: str) -> str:
    """Where the training `name` keeps its checkpoints in the run."""
    return f"_work/train/{name}"


def start_model(examples: Examples, config: ClassifyConfig) -> LabelGraphClassifier:
    """The network with its starting weights: a function of configuration, seed and training labels alone."""
    rows = examples.rows(TRAIN)
    labels, known = examples.labels_NC[rows], examples.known_NC[rows]
    make = ml_gcn_adjacency if config.model.graph == "ml_gcn" else cooccurrence_adjacency
    return build(
        config.model,
        examples.classes,
        make(labels, known) if config.model.graph != "off" else None,
        class_vectors(examples.classes) if needs_text(config.model) else None,
        config.seed,
    )


def needs_text(config: ModelConfig) -> bool:
    """Whether the label nodes start from embeddings of the class names."""
    return config.graph != "off" and config.graph_features == "text"


def class_vectors(classes: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Sentence embeddings of the class names, unit length, float32 [C, 384] (packaged MiniLM)."""
    from raymedlt.embedding.encoder import load_encoder

    return load_encoder(None, "float32").encode([name.replace("_", " ").lower() for name in classes])


def do(
    training: Training,
    data: Data,
    settings: Settings,
    handle: LedgerHandle,
    *,
    feed: Callable[[Examples, ClassifyConfig], Feed] = lambda examples, config: thread_feed(examples, config.augment),
    said: Callable[[dict[str, Any]], None] = lambda entry: None,
    examples: Examples | None = None,
    first: bool = True,
) -> Trained:
    """Train, going on from the last checkpoint, and commit the network.

    Args:
        feed: makes the feed of batches.
        said: called after each epoch on the first replica.
        examples: where they are in memory already.
        first: whether this process is the first replica, which alone commits.
    """
    storage = handle.storage
    if examples is None:
        examples = data.load(storage)
    model = start_model(examples, training.config)
    checkpoints = Checkpoints(storage.sub(folder_of(training.name)))
    trained = train(model, examples, training.config, settings, checkpoints, feed(examples, training.config), said)
    if first:
        model.load_state_dict(trained.weights)
        entry = storage.write_bytes(f"_work/trained/{training.name}.safetensors", to_safetensors(model))
        timeless = [
            {key: value for key, value in line.items() if key not in ("seconds", "waited_for_data")}
            for line in trained.history
        ]
        handle.commit(TRAINED, training.name, [entry], {"best": trained.best, "history": timeless})
    return trained

"""What every process of a run makes for itself: the model with its starting weights, and the micro-batches.

_work/seen/encoder.safetensors   the vision encoder after it learnt to see

Both follow from the configuration and the run's folder alone, so that replicas begin alike and none is sent a model.
"""

from __future__ import annotations

from typing import Any

import safetensors.torch
from torch import nn

from raymedlt.finetuning.arranging import read_studies
from raymedlt.finetuning.batches import StudyBatches
from raymedlt.finetuning.build import Built, build, vision_part
from raymedlt.finetuning.config import SMALL, FinetuneConfig
from raymedlt.finetuning.feed import Blind, Feed, ray_feed, thread_feed
from raymedlt.finetuning.processing import Processing
from raymedlt.finetuning.studies import Studies
from raymedlt.images.arranging import Data
from raymedlt.images.config import AugmentConfig
from raymedlt.images.distributed import RefPixels
from raymedlt.images.examples import Pixels
from raymedlt.storage import Storage

SEEN_FILE = "_work/seen/encoder.safetensors"

CHANGES = AugmentConfig(flip=False)
"""Of the training images: a report says left and right, so none is flipped."""


class Making:
    """Makes model and batches of a run. Small and picklable: what was made stays behind.

    Args:
        refs: prepared images in Ray's object store and the first row of each, where they are streamed; else each
            process holds all of them.
    """

    def __init__(
        self, config: FinetuneConfig, data: Data, storage: Storage, refs: tuple[list[Any], Any] | None = None
    ) -> None:
        self.config, self.data, self.storage, self.refs = config, data, storage, refs
        self._spare: Built | None = None
        self._processing: Processing | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_spare": None, "_processing": None}

    def model(self) -> nn.Module:
        """A new model with its starting weights, float32, on the CPU."""
        built, self._spare = self._spare or self._build(), None
        model: Any = built.model
        if self.storage.exists(SEEN_FILE):
            vision_part(model).load_state_dict(safetensors.torch.load(self.storage.read_bytes(SEEN_FILE)))
        if self.config.training.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        learning: nn.Module = model
        return learning

    def processing(self) -> Processing:
        """Of that model."""
        if self._processing is None:
            self._spare = self._build()
            self._processing = self._spare.processing
        return self._processing

    def batches(self, storage: Storage) -> StudyBatches:
        """The run's studies as micro-batches."""
        studies = read_studies(storage)
        own = self.config.training
        return StudyBatches(studies, self._feed(studies), own, self.config.seed)

    def pixels(self) -> Pixels:
        """Prepared images, by the rows of the examples."""
        if self.config.blind:
            return Blind(self.config.images.size)
        if self.refs is not None:
            return RefPixels(*self.refs, self.config.images.size)
        return self.data.load(self.storage).pixels

    def _feed(self, studies: Studies) -> Feed:
        collate = self.processing().batch
        if self.refs is not None:
            return ray_feed(studies, self.pixels(), collate, CHANGES, self.config.training.replicas)
        return thread_feed(studies, self.pixels(), collate, CHANGES)

    def _build(self) -> Built:
        small = self.config.model.path is None and self.config.model.language == SMALL
        texts = read_studies(self.storage).training_texts() if small else []
        return built_of(self.config, texts)


def built_of(config: FinetuneConfig, texts: list[str]) -> Built:
    """The model before it learns; see `build`."""
    return build(
        config.model, image_size=config.images.size, prompt=config.text.prompt, texts=texts, seed=config.seed
    )  # fmt: skip

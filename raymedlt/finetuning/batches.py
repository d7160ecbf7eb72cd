"""Studies as the numbered micro-batches that the training loop asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raymedlt.finetuning.config import TrainingConfig
from raymedlt.finetuning.feed import Feed, Tensors, parts_of, steps_of
from raymedlt.finetuning.studies import Studies
from raymedlt.schema import TRAIN, VALIDATION


class StudyBatches:
    """See `training.Batches`. What is computed together follows from seed, epoch and studies alone."""

    def __init__(self, studies: Studies, feed: Feed, training: TrainingConfig, seed: int) -> None:
        self.studies, self.feed, self.own, self.seed = studies, feed, training, seed
        self.steps = -(-len(studies.of(TRAIN)) // training.batch)
        self._validation = parts_of(studies, VALIDATION, training.micro_batch)
        self.validation = len(self._validation)

    def training(self, epoch: int, first: int, numbers: Sequence[int]) -> Iterator[list[Tensors]]:
        """For each step of the epoch from `first` on: its micro-batches with these numbers."""
        steps = steps_of(
            self.studies, seed=self.seed, epoch=epoch, batch=self.own.batch, micro_batch=self.own.micro_batch
        )[first:]
        made = self.feed([step.parts[number] for step in steps for number in numbers])
        for _ in steps:
            yield [next(made) for _ in numbers]

    def validating(self, numbers: Sequence[int]) -> Iterator[Tensors]:
        """The validation micro-batches with these numbers, each of similar length."""
        return self.feed([self._validation[number] for number in numbers])

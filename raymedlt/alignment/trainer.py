"""TRL's GRPO whose rewards are computed while rollouts are still being generated.

TRL generates a step's completions, then computes log-probabilities, then asks for rewards. Here a completion goes to a
reward pool as soon as its end token is drawn, while longer ones are still being generated: it is scored meanwhile, and
during the reference's log-probabilities. Where memory is short, or all completions end together, a step is generated in
several batches, and each is scored during the next. When TRL asks for the rewards, they are collected. What is
rewarded, and the rewards, don't change; nor does anything else of TRL's: loss, advantages, sampling.

Source: GRPO, Shao et al. 2024 (arXiv 2402.03300, section 4.1); TRL's GRPOTrainer, version 1.16: the methods overridden
here are its own (tests/alignment/test_trl_contract.py).

Shapes: N completions of this process in a step, B of a batch, L tokens, R rewards.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather
from transformers import PrinterCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from raymedlt.alignment.policy import REFERENCE
from raymedlt.errors import InputError

LOOKED_EVERY = 8
"""Tokens between two looks at which completions have ended."""


@dataclass(frozen=True)
class Rollouts:
    """A step's completions on this process, and where their time went."""

    completions: list[str]
    references: list[Any]
    rewards: list[tuple[float | None, ...]]
    """Per completion, one value per reward."""
    monitors: list[tuple[float | None, ...]]
    """And what the pool gave beside them."""
    lengths: list[int]
    """Tokens of the completions."""
    generation_seconds: float
    exposed_seconds: float
    """Waited for rewards after everything else was done."""
    learning: bool
    """False: completions for validation studies."""


class OverlappedGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with a reward pool.

    Args:
        pool: see `pool.RewardPool`.
        reward_names: of the first R values that the pool gives for a completion; others are monitors.
        references: of all rows; the data set's column `reference` has the number.
        rollout_batch: completions that are generated together; 0: all of a step.
        deadline: seconds that a step waits for its rewards; what is late counts as None, which TRL leaves out.
        told: called with each step's rollouts.
        others: as for GRPOTrainer.
    """

    def __init__(
        self,
        *args: Any,
        pool: Any,
        reward_names: Sequence[str],
        references: Sequence[Any],
        rollout_batch: int,
        deadline: float | None = None,
        told: Callable[[Rollouts], None] = lambda rollouts: None,
        **kwargs: Any,
    ) -> None:
        kwargs["reward_funcs"] = [_placeholder(name) for name in reward_names]
        super().__init__(*args, **kwargs)
        self._pool, self._references, self._told = pool, references, told
        self._rollout_batch, self._deadline = rollout_batch, deadline
        self.remove_callback(PrinterCallback)  # who trains says what there is to say

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._asked = [self._references[each[REFERENCE]] for each in inputs]
        self._tickets: list[int] = []
        self._texts: list[str] = []
        self._generation_seconds = 0.0
        found: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return found

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[Any] | None]:
        began, count = time.monotonic(), len(prompt_ids)
        completion_ids: list[list[int]] = []
        logprobs: list[Any] = []  # vLLM's
        if self.use_vllm:
            images = self.processing_class.pictures(images)
        for start in range(0, count, self._rollout_batch or count):
            rows = slice(start, min(start + (self._rollout_batch or count), count))
            sent = _Sent(self, self._asked[rows], max(map(len, prompt_ids[rows])))
            with self._watched(sent):
                part, part_logprobs = super()._generate_single_turn(  # type: ignore[no-untyped-call]
                    prompt_ids[rows], images and images[rows], _part(multimodal_fields, count, rows), *args, **kwargs
                )
            sent.rest(part)
            self._tickets += sent.tickets
            self._texts += sent.texts
            completion_ids += part
            logprobs += part_logprobs or []
        self._generation_seconds += time.monotonic() - began
        return completion_ids, logprobs or None

    @contextlib.contextmanager
    def _watched(self, sent: _Sent) -> Iterator[None]:
        """TRL gives `generate` no stopping criteria; so the model's own method is given one for a while."""
        self.model.generate = functools.partial(self.model.generate, stopping_criteria=[sent])
        try:
            yield
        finally:
            del self.model.generate

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """float32 [N of all processes, R]; NaN where there is none."""
        began, count = time.monotonic(), len(self.reward_funcs)
        none = (None,) * (count + 1)
        values = [each or none for each in self._pool.gather(self._tickets, self._deadline)]
        exposed = time.monotonic() - began
        rewards = [each[:count] for each in values]
        self._told(
            Rollouts(
                completions=self._texts, references=self._asked, rewards=rewards,
                monitors=[each[count:] for each in values], lengths=[len(each) for each in completion_ids_list],
                generation_seconds=self._generation_seconds, exposed_seconds=exposed, learning=self.model.training,
            )
        )  # fmt: skip
        values_NR = [[float("nan") if value is None else value for value in row] for row in rewards]
        gathered: torch.Tensor = gather(torch.tensor(values_NR, dtype=torch.float32, device=self.accelerator.device))
        return gathered


class _Sent:
    """Sends the completions of a batch to the pool as they end. For transformers a stopping criterion that stops none.

    Args:
        references: of the batch's rows.
        prompt_length: tokens before the completions.
    """

    def __init__(self, trainer: OverlappedGRPOTrainer, references: Sequence[Any], prompt_length: int) -> None:
        self._trainer, self._references, self._start = trainer, references, prompt_length
        self._ends = torch.tensor(trainer.eos_token_ids, device=trainer.accelerator.device)
        self._none = torch.zeros(len(references), dtype=torch.bool, device=trainer.accelerator.device)
        self._open, self._looked = set(range(len(references))), prompt_length
        self.tickets, self.texts = [-1] * len(references), [""] * len(references)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """After each token; looks at every few."""
        length = input_ids.shape[1]
        if length - self._looked >= LOOKED_EVERY:
            self._look(input_ids[:, self._looked :], input_ids)
            self._looked = length
        return self._none

    def _look(self, new_BL: torch.Tensor, input_ids: torch.Tensor) -> None:
        ended_B = (new_BL[..., None] == self._ends).any(-1).any(-1)
        rows = [row for row in ended_B.nonzero().flatten().tolist() if row in self._open]
        if not rows:
            return
        completions = input_ids[rows, self._start :].tolist()
        ends = set(self._ends.tolist())
        lengths = [next(at for at, token in enumerate(row) if token in ends) + 1 for row in completions]
        self._send(rows, [row[:length] for row, length in zip(completions, lengths, strict=True)])

    def rest(self, completion_ids: Sequence[list[int]]) -> None:
        """Those that were cut off, and all where no token was watched (vLLM)."""
        rows = sorted(self._open)
        if rows:
            self._send(rows, [completion_ids[row] for row in rows])

    def _send(self, rows: Sequence[int], ids: Sequence[list[int]]) -> None:
        texts = self._trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        tickets = self._trainer._pool.submit(texts, [self._references[row] for row in rows])
        for row, text, ticket in zip(rows, texts, tickets, strict=True):
            self.texts[row], self.tickets[row] = text, ticket
        self._open.difference_update(rows)


def _placeholder(name: str) -> Callable[..., Any]:
    def reward(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("rewards come from the pool")

    reward.__name__ = name
    return reward


def _part(fields: Mapping[str, Any], count: int, rows: slice) -> dict[str, Any]:
    """The fields of some of the prompts, each of which has one image."""
    if "image_grid_thw" in fields:  # Qwen's: patches of all images in one row after another
        grid = fields["image_grid_thw"]
        ends = grid.prod(-1).cumsum(0).tolist()
        stop = min(rows.stop, count)
        first, last = ([0, *ends][rows.start], ends[stop - 1])
        own = {"pixel_values": fields["pixel_values"][first:last], "image_grid_thw": grid[rows]}
        return own | _part({k: v for k, v in fields.items() if k not in own}, count, rows)
    for name, values in fields.items():
        if len(values) != count:
            raise InputError(
                f"a model whose processor gives {len(values)} rows of '{name}' for {count} images",
                "one row for each image",
                "set rollouts.batch to 0: all completions of a step are generated together",
            )
    return {name: values[rows] for name, values in fields.items()}

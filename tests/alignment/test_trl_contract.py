"""What is used of TRL: with a pool the same completions, rewards and weights as without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy_world import NAMES, REFERENCES, STUDIES, Pool, learnt, parts, score
from tiny_vlms import TINY
from trl import GRPOTrainer

from raymedlt.alignment.trainer import OverlappedGRPOTrainer, _part
from raymedlt.errors import InputError


def stock(name, folder):
    """TRL's own trainer; rewards, by step, and the LoRA afterwards."""
    seen = []

    def reward(place):
        def of(prompts, completions, reference, **kwargs):
            texts = [each[0]["content"] for each in completions]
            values = [row[place] for row in score(texts, [REFERENCES[each] for each in reference])]
            seen.append((texts, values))
            return values

        of.__name__ = NAMES[place]
        return of

    trainer = GRPOTrainer(**parts(name, folder), reward_funcs=[reward(0), reward(1)])
    trainer.train()
    return seen, learnt(trainer)


def ours(name, folder, rollout_batch=0, **more):
    told, pool = [], Pool()
    trainer = OverlappedGRPOTrainer(
        **parts(name, folder, **more), pool=pool, reward_names=NAMES, references=REFERENCES,
        rollout_batch=rollout_batch, told=told.append,
    )  # fmt: skip
    trainer.train()
    return told, learnt(trainer), pool


@pytest.mark.parametrize("name", ["composed", "qwen"])
def test_a_pool_changes_neither_completions_nor_rewards_nor_weights(name, tmp_path):
    seen, theirs = stock(name, str(tmp_path / "stock"))
    told, own, _ = ours(name, str(tmp_path / "ours"))
    assert len(told) == len(seen) // len(NAMES) == 2
    for step, rollouts in enumerate(told):
        for place in range(len(NAMES)):
            texts, values = seen[len(NAMES) * step + place]
            assert rollouts.completions == texts
            assert [row[place] for row in rollouts.rewards] == values
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[each], theirs[each]) for each in own)
    assert any(bool(each.abs().max() > 1e-3) for name, each in own.items() if "lora_B" in name)  # and it learnt


@pytest.mark.parametrize("name", sorted(TINY))
def test_micro_batches_see_their_own_images(name, tmp_path):
    """With a temperature near 0 nothing is drawn, so that the order of the draws doesn't matter."""
    whole = ours(name, str(tmp_path / "whole"), steps=1, temperature=1e-6)
    cut = ours(name, str(tmp_path / "cut"), rollout_batch=3, steps=1, temperature=1e-6)
    assert cut[0][0].completions == whole[0][0].completions
    assert cut[0][0].rewards == whole[0][0].rewards
    assert cut[0][0].lengths == whole[0][0].lengths


def test_completions_are_sent_as_they_end(tmp_path):
    told, _, pool = ours("composed", str(tmp_path), steps=1, max_completion_length=150)
    count = len(told[0].completions)
    assert sum(pool.asked) == count == 4 * STUDIES
    assert len(pool.asked) > 1  # not all at once: those that end first go first
    assert not pool.values  # every ticket was gathered


def test_a_completion_without_a_reward_is_left_out(tmp_path):
    class Late(Pool):
        def gather(self, tickets, seconds=None):
            values = super().gather(tickets, seconds)
            return [None, *values[1:]]

    told = []
    trainer = OverlappedGRPOTrainer(
        **parts("composed", str(tmp_path), steps=1), pool=Late(), reward_names=NAMES, references=REFERENCES,
        rollout_batch=0, told=told.append,
    )  # fmt: skip
    trainer.train()
    assert told[0].rewards[0] == (None, None)
    assert all(torch.isfinite(each).all() for each in learnt(trainer).values())


def test_fields_of_some_of_the_prompts():
    grid = torch.tensor([[1, 2, 2], [1, 4, 2], [1, 2, 4]])
    fields = {"pixel_values": torch.arange(20), "image_grid_thw": grid, "mm_token_type_ids": [[0], [1], [2]]}
    part = _part(fields, 3, slice(1, 3))
    assert part["pixel_values"].tolist() == list(range(4, 20))
    assert part["image_grid_thw"].tolist() == grid[1:].tolist()
    assert part["mm_token_type_ids"] == [[1], [2]]
    with pytest.raises(InputError, match=r"rollouts\.batch to 0"):
        _part({"pixel_values": torch.zeros(7, 2)}, 3, slice(0, 2))


def test_pictures_for_vllm_are_those_of_the_rows(tmp_path):
    processor = parts("qwen", str(tmp_path))["processing_class"]
    (first,), (second,) = processor.pictures([[1], [0]])
    assert first.mode == second.mode == "RGB"
    for picture, row in ((first, 1), (second, 0)):
        assert (np.asarray(picture)[..., 0] == processor.pixels.take(np.array([row]))[0]).all()

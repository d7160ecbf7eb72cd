"""The batches of an epoch: a function of seed, phase and epoch, cut among replicas; the thread that makes them."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch
from classifier_world import STILL, world

from raymedlt.classifier.feed import AHEAD, Step, make_batch, steps_of, thread_feed
from raymedlt.images.config import AugmentConfig
from raymedlt.images.examples import Examples
from raymedlt.schema import TRAIN

EXAMPLES = world()
ROWS = EXAMPLES.rows(TRAIN)
FACTORS = np.where(EXAMPLES.labels_NC[ROWS, 2] > 0, 2.5, 1.0)


def steps(**changed) -> list[Step]:
    own = {"seed": 0, "phase": "stage 2", "epoch": 3, "batch": 16, **changed}
    return steps_of(ROWS, FACTORS, EXAMPLES.image_ids, **own)


def flat(epoch: list[Step]) -> list[tuple[int, int]]:
    return [(int(row), key) for step in epoch for row, key in zip(step.rows, step.keys, strict=True)]


def test_the_same_arguments_give_the_same_steps():
    assert flat(steps()) == flat(steps())
    for other in ({"seed": 1}, {"phase": "stage 1"}, {"epoch": 4}):
        assert [row for row, _ in flat(steps(**other))] != [row for row, _ in flat(steps())], other


def test_every_image_comes_and_rare_ones_more_often():
    even = steps_of(ROWS, np.ones(len(ROWS)), EXAMPLES.image_ids, seed=0, phase="stage 2", epoch=0, batch=16)
    assert {row for row, _ in flat(even)} == set(ROWS.tolist())
    rows = [row for epoch in range(20) for row, _ in flat(steps(epoch=epoch))]
    times = np.bincount(rows, minlength=len(EXAMPLES))[ROWS] / 20
    assert times[FACTORS == 2.5].mean() == pytest.approx(2.5, rel=0.15)
    assert times[FACTORS == 1.0].mean() == pytest.approx(1.0, rel=0.1)


def test_epochs_are_equally_long_and_steps_equally_large():
    lengths = {len(steps(epoch=epoch)) for epoch in range(8)}
    assert lengths == {-(-round(FACTORS.sum()) // 16)}
    assert {len(step.rows) for step in steps()} == {16}


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_parts_of_the_replicas_are_the_global_batch(replicas):
    whole = steps()
    parts = [steps(rank=rank, replicas=replicas) for rank in range(replicas)]
    assert {len(part) for part in parts} == {len(whole)}
    for number, step in enumerate(whole):
        together = [part[number] for part in parts]
        np.testing.assert_array_equal(np.concatenate([each.rows for each in together]), step.rows)
        assert sum((each.keys for each in together), ()) == step.keys


def test_no_two_draws_share_a_key():
    epochs = [steps(epoch=epoch, phase=phase) for epoch in range(4) for phase in ("stage 1", "stage 2")]
    keys = [key for epoch in epochs for _, key in flat(epoch)]
    assert len(set(keys)) == len(keys)  # although rare images come twice in an epoch


def test_a_key_belongs_to_the_image_not_to_its_row():
    moved = EXAMPLES.image_ids.copy()
    moved[ROWS] = moved[ROWS[::-1]]
    ours, theirs = flat(steps()), flat(steps_of(ROWS, FACTORS, moved, seed=0, phase="stage 2", epoch=3, batch=16))
    assert [row for row, _ in ours] == [row for row, _ in theirs]
    assert not {key for _, key in ours} & {key for _, key in theirs}


def test_a_batch_has_the_images_labels_and_weights_of_its_rows():
    synthetic = np.arange(len(EXAMPLES)) % 2 == 0
    known = EXAMPLES.known_NC.copy()
    known[3, 1] = False
    examples = dataclasses.replace(EXAMPLES, synthetic=synthetic, known_NC=known)
    step = Step(np.array([3, 4, 3]), (1, 2, 3))
    batch = make_batch(examples, step, STILL, 0.25)
    expected = torch.from_numpy(examples.pixels.take(step.rows)).float() / 255
    assert torch.equal(batch.images_B1SS[:, 0], expected)
    assert batch.weights_B.tolist() == [1.0, 0.25, 1.0]
    assert batch.known_BC.tolist() == known[[3, 4, 3]].tolist()
    assert torch.equal(batch.labels_BC, torch.from_numpy(examples.labels_NC[[3, 4, 3]]))
    assert [part.dtype for part in batch] == [torch.float32, torch.float32, torch.bool, torch.float32]


def test_equal_images_are_changed_differently_by_different_keys():
    changes = AugmentConfig()
    batch = make_batch(EXAMPLES, Step(np.array([3, 3, 3]), (1, 2, 1)), changes, 1.0)
    assert not torch.equal(batch.images_B1SS[0], batch.images_B1SS[1])
    assert torch.equal(batch.images_B1SS[0], batch.images_B1SS[2])


# The thread


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


def test_the_thread_keeps_the_order():
    epoch = steps()
    made = list(thread_feed(EXAMPLES, STILL)(epoch, 0.5))
    assert len(made) == len(epoch)
    for step, batch in zip(epoch, made, strict=True):
        for ours, theirs in zip(batch, make_batch(EXAMPLES, step, STILL, 0.5), strict=True):
            assert torch.equal(ours, theirs)
    assert not feeders()
    assert list(thread_feed(EXAMPLES, STILL)([], 1.0)) == []


def test_the_weight_of_synthetic_images_is_the_feeds():
    examples = dataclasses.replace(EXAMPLES, synthetic=np.ones(len(EXAMPLES), bool))
    feed = thread_feed(examples, STILL)
    assert {float(w) for batch in feed(steps()[:2], 0.5) for w in batch.weights_B} == {0.5}
    assert {float(w) for batch in feed(steps()[:2], 0.0) for w in batch.weights_B} == {0.0}


class Breaking:
    """Pixels of which the third batch can't be had."""

    def __init__(self, examples: Examples) -> None:
        self.pixels, self.asked = examples.pixels, 0

    def take(self, rows):
        self.asked += 1
        if self.asked == 3:
            raise OSError("the disk went away")
        return self.pixels.take(rows)


def test_an_error_of_the_thread_is_raised_after_the_batches_before_it():
    examples = EXAMPLES.with_pixels(Breaking(EXAMPLES))
    feed = thread_feed(examples, STILL)(steps(), 1.0)
    assert [len(next(feed).images_B1SS) for _ in range(2)] == [16, 16]
    with pytest.raises(OSError, match="the disk went away"):
        next(feed)
    assert not feeders()


def test_the_thread_works_ahead_but_not_without_end_and_ends_with_its_reader():
    pixels = Breaking(EXAMPLES)
    pixels.asked = 100  # nothing breaks
    epoch = [Step(ROWS[:2], (1, 2))] * 50
    feed = thread_feed(EXAMPLES.with_pixels(pixels), STILL)(epoch, 1.0)
    next(feed)
    deadline = time.monotonic() + 10
    while pixels.asked - 100 < AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert pixels.asked - 100 <= AHEAD + 2  # what was taken, what waits in the queue, and one that waits for room
    feed.close()
    assert not feeders()
    assert pixels.asked - 100 <= AHEAD + 4

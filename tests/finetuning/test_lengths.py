"""Steps of similar length: every study once, a function of seed, epoch and lengths, little padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from raymedlt.errors import InputError
from raymedlt.finetuning.lengths import Buckets, buckets, padding
from raymedlt.seeds import generator

LENGTHS = generator(0, "lengths").integers(10, 200, 1000)


def made(**changed) -> tuple[np.ndarray, np.ndarray]:
    return buckets(changed.pop("lengths", LENGTHS), **{"seed": 0, "epoch": 3, "batch": 24, **changed})


@pytest.mark.parametrize(("studies", "batch", "window"), [(1000, 24, 16), (1000, 25, 4), (5, 24, 16), (1, 1, 1)])
def test_every_study_is_real_exactly_once(studies, batch, window):
    order, real = made(lengths=LENGTHS[:studies], batch=batch, window=window)
    assert order.shape == real.shape == (-(-studies // batch), batch)
    assert sorted(order[real].tolist()) == list(range(studies))
    assert (~real).sum() == order.size - studies < batch


def test_the_same_arguments_give_the_same_steps_and_others_other_ones():
    for ours, theirs in zip(made(), made(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for other in ({"seed": 1}, {"epoch": 4}):
        assert (made()[0] != made(**other)[0]).any(), other


def test_steps_hold_similar_lengths_and_stay_mixed():
    spread = np.ptp(LENGTHS[made()[0]], axis=1)
    shuffled = np.ptp(LENGTHS[made(window=1)[0]], axis=1)
    assert np.median(spread) < 20
    assert np.median(shuffled) > 150
    means = LENGTHS[made()[0]].mean(axis=1)  # the steps themselves come in no order
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.4


def test_neighbours_change_from_epoch_to_epoch():
    many = np.tile(LENGTHS, 5)  # 13 windows
    epochs = [made(lengths=many, epoch=epoch)[0].tolist() for epoch in (0, 1)]
    pairs = [{frozenset(pair) for step in epoch for pair in itertools.pairwise(step)} for epoch in epochs]
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])


def test_padding_is_counted():
    by_hand = Buckets(np.array([[1, 2], [0, 1]]), np.array([[True, True], [True, False]]))
    assert padding([5, 1, 3], by_hand, 2) == pytest.approx(1 - 9 / 16)  # two places of 3 tokens, two of 5
    assert padding([5, 1, 3], by_hand, 1) == pytest.approx(1 - 9 / 10)  # the study that fills is padding


def test_buckets_pad_less_than_a_shuffle():
    assert padding(LENGTHS, buckets(LENGTHS, seed=0, epoch=0, batch=24), 24) < 0.15
    assert padding(LENGTHS, buckets(LENGTHS, seed=0, epoch=0, batch=24, window=1), 24) > 0.4


@pytest.mark.parametrize("wrong", [{"lengths": []}, {"batch": 0}, {"window": 0}, {"lengths": [[1]]}])
def test_nothing_to_cut_is_refused(wrong):
    with pytest.raises(InputError, match=r"at least one study, one study per step"):
        made(**wrong)

"""Repeat factors, epoch orders and steps."""

from __future__ import annotations

import time

import numpy as np
import pytest

from raymedlt.errors import InputError
from raymedlt.images.sampling import (
    class_factors,
    epoch_order,
    expected_length,
    global_batches,
    repeat_factors,
    rows_instead,
)


def test_vector_of_the_specification() -> None:
    assert class_factors([20000, 2000, 200, 20], 0.01) == pytest.approx([1, 1, 1.05404, 3.333167], abs=1e-5)
    y = np.zeros((22220, 4), bool)
    y[np.arange(22220), np.repeat(np.arange(4), [20000, 2000, 200, 20])] = True
    factors = repeat_factors(y, 0.01)
    assert factors.dtype == np.float64
    assert factors[[0, 20000, 22000, 22219]] == pytest.approx([1, 1, 1.05404, 3.333167], abs=1e-5)


def test_an_image_has_the_factor_of_its_rarest_label() -> None:
    y = np.zeros((1002, 3), np.int8)
    y[:1000, 0] = 1
    y[1000] = [1, 1, 0]  # a rare label beside the common one
    factors = repeat_factors(y, 0.01)
    assert factors[0] == 1
    assert factors[1000] == pytest.approx(np.sqrt(0.01 * 1002 / 1))
    assert factors[1001] == 1  # no label
    assert np.isfinite(factors).all()  # the class without a case does nothing


def test_factors_are_clipped_at_ten() -> None:
    y = np.zeros((100_001, 2), bool)
    y[:100_000, 0] = True
    y[100_000, 1] = True
    assert repeat_factors(y, 0.01)[100_000] == 10.0


def test_order_draws_each_image_as_often_as_its_factor_says() -> None:
    factors = np.repeat([1.0, 2.3, 0.5], [400, 300, 300])
    counts = np.zeros(1000)
    for epoch in range(200):
        order = epoch_order(factors, seed=3, epoch=epoch)
        assert order.dtype == np.int64
        drawn = np.bincount(order, minlength=1000)
        assert np.isin(drawn - np.floor(factors), [0, 1]).all()  # the fraction is rounded, nothing else varies
        counts += drawn
    means = [counts[:400].mean() / 200, counts[400:700].mean() / 200, counts[700:].mean() / 200]
    assert means == pytest.approx([1.0, 2.3, 0.5], abs=0.01)
    assert np.abs(counts / 200 - factors).max() < 0.2  # every image on its own


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    factors = np.linspace(1, 3, 500)
    order = epoch_order(factors, seed=1, epoch=2)
    np.random.seed(0)  # noqa: NPY002  (the global generator has no part)
    assert np.array_equal(order, epoch_order(factors, seed=1, epoch=2))
    assert not np.array_equal(order, epoch_order(factors, seed=1, epoch=3))
    assert not np.array_equal(order, epoch_order(factors, seed=2, epoch=2))
    assert abs(np.corrcoef(np.arange(len(order)), order)[0, 1]) < 0.1  # shuffled


def test_uniform_sampling_is_a_permutation() -> None:
    order = epoch_order(np.ones(1000), seed=0, epoch=0)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, np.arange(1000))


def test_golden_order() -> None:
    # Frozen: a change here makes runs unresumable.
    assert epoch_order([1.0, 2.5, 1.0, 3.2], seed=0, epoch=0).tolist() == [2, 3, 3, 3, 1, 1, 0]


@pytest.mark.parametrize("length", [0, 1, 350, 500, 1200])
def test_a_fixed_length(length: int) -> None:
    factors = np.full(300, 1.5)
    free = epoch_order(factors, seed=0, epoch=0)
    order = epoch_order(factors, seed=0, epoch=0, length=length)
    assert len(order) == length
    assert np.array_equal(order[: len(free)], free[:length])
    if length == 1200:
        drawn, once = np.bincount(order, minlength=300), np.bincount(free, minlength=300)
        assert (drawn >= 2 * once).all()
        assert not np.array_equal(order[len(free) : 2 * len(free)], free)  # other rounds have another order


def test_expected_length() -> None:
    factors = np.random.default_rng(0).uniform(1, 3, 10_000)
    free = len(epoch_order(factors, seed=0, epoch=0))
    assert expected_length(factors) == pytest.approx(free, rel=0.01)


def test_a_million_images_take_less_than_a_second() -> None:
    y = np.random.default_rng(0).random((1_000_000, 20)) < np.geomspace(0.3, 1e-4, 20)
    start = time.process_time()  # not of the clock: the machine may be busy
    factors = repeat_factors(y, 0.01)
    order = epoch_order(factors, seed=0, epoch=0)
    batches = global_batches(order, 64)
    assert batches.shape[1] == 64
    assert time.process_time() - start < 1.0


def test_steps_have_one_size_and_hold_every_draw() -> None:
    order = epoch_order(np.ones(103), seed=0, epoch=0)
    batches = global_batches(order, 10)
    assert batches.shape == (11, 10)
    assert batches.dtype == np.int64
    assert np.array_equal(batches.ravel()[:103], order)
    assert np.array_equal(batches[-1, 3:], order[:7])  # filled up from the start
    assert global_batches(order[:3], 8).tolist() == [np.resize(order[:3], 8).tolist()]


@pytest.mark.parametrize("factors", [[], [1.0, -1.0], [1.0, np.nan], [[1.0]]])
def test_unusable_factors(factors: list[float]) -> None:
    with pytest.raises(InputError, match="one factor >= 0 per image"):
        epoch_order(factors, seed=0, epoch=0)


def test_factors_that_draw_nothing() -> None:
    with pytest.raises(InputError, match="draw no image in this epoch"):
        epoch_order([0.0, 0.0], seed=0, epoch=0, length=5)


def test_no_steps() -> None:
    with pytest.raises(InputError, match="at least one draw"):
        global_batches([], 4)


def test_labels_that_are_no_table() -> None:
    with pytest.raises(InputError, match=r"labels of shape \(3,\)"):
        repeat_factors([1, 0, 1], 0.01)


def test_a_real_image_of_the_rarest_class_stands_in_for_a_synthetic_one() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]])
    real = np.array([True, True, True, True, False, False, False])
    ids = np.array([f"i{row}" for row in range(7)])
    found = rows_instead(labels, real, ids, seed=3)
    assert len(found) == 2  # no real image shows the last one's class
    assert found[0] in (1, 3)  # two real images show class 1, three class 0
    assert found[1] in (0, 1, 2)
    many = [rows_instead(labels, real, ids, seed=seed)[0] for seed in range(40)]
    assert set(many) == {1, 3}

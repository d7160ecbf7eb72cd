"""Screening by rounded products: what it leaves out is as far away as it says, in every precision and block size."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from clustering_reference import DATA, distances

from raymedlt.clustering import screening
from raymedlt.clustering.screening import PRECISIONS, Candidates, Limits, Precision, Screen, Visit, quickest_precision

BLOCKS = [(1024, 4096), (64, 128)]  # rows and columns of a product; DATA fits into one of the first, many of the second


@pytest.fixture(params=BLOCKS, ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.setattr(screening, "ROWS", request.param[0])
    monkeypatch.setattr(screening, "COLUMNS", request.param[1])
    return request.param


def search(screen: Screen, k: int, limits: Limits | None = None) -> Candidates:
    return screen.nearest(np.arange(screen.points), k, [Visit(None, 0, screen.places)], limits)


def unlisted(found: Candidates, by_place: np.ndarray) -> np.ndarray:
    """How near the nearest place is that is not listed (the own place counts like any other)."""
    left = by_place.copy()
    rows, columns = np.nonzero(found.places_BK >= 0)
    left[rows, found.places_BK[rows, columns]] = np.inf
    return left.min(1)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("ordered", "stored"), [(False, True), (True, False)])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DATA)
def test_nobody_unlisted_is_nearer_than_the_floor(name: str, precision: Precision, ordered: bool, stored: bool):
    vectors = DATA[name]()
    order = np.random.default_rng(0).permutation(len(vectors)) if ordered else None
    screen = Screen(vectors, precision, order, stored)
    by_place = distances(vectors if order is None else vectors[order])
    for k in (1, 7) if precision == "bfloat16" else (4,):
        found = search(screen, k)
        assert (unlisted(found, by_place) >= found.floor_B).all()
        for row in found.places_BK.tolist():
            assert len({place for place in row if place >= 0}) == min(k, len(vectors))


def test_floor_allows_for_how_far_rounding_moved_others():
    """Rounding takes y, at 1.004, and z, at 1.0078, to the same distance from 0; z is listed, y is nearer."""
    z, y = 1 + 2**-7, 1 + 0.51 * 2**-7  # bfloat16 knows multiples of 2^-7 here
    vectors = np.array([[0, 0], [z, 0], [-z, 0], [0, y], [0, -y]], np.float32)
    screen = Screen(vectors, "bfloat16")
    found = screen.nearest(np.array([0]), 3, [Visit(None, 0, screen.places)])
    assert found.places_BK.tolist() == [[0, 1, 2]]
    assert 0.98 < found.floor_B[0] <= np.float32(y)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_floor_allows_for_rounded_products(precision: Precision):
    """Whole numbers are not moved by rounding, and their mean is 0; but half a square above 256 is."""
    half = np.random.default_rng(0).integers(-100, 101, (150, 2)).astype(np.float32)
    vectors = np.concatenate([half, -half])
    exact, screen = distances(vectors), Screen(vectors, precision)
    assert not screen.delta.any()
    for k in range(1, 40, 3):
        found = search(screen, k)
        assert (unlisted(found, exact) >= found.floor_B).all()


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 0.8), ("float32", 0.9999), ("float64", 1 - 1e-9)])
def test_floor_is_of_use(precision: Precision, share: float):
    vectors = DATA["random"]()
    found = search(Screen(vectors, precision), 9)
    assert (found.floor_B >= share * np.sort(distances(vectors), axis=1)[:, 8]).mean() > 0.95


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", ["random", "blobs", "digits"])
def test_candidates_are_the_nearest(name: str, precision: Precision):
    vectors = DATA[name]()
    found, exact = search(Screen(vectors, precision), 6), distances(vectors)
    seen = np.take_along_axis(exact, found.places_BK, 1)
    assert np.allclose(np.sort(seen, axis=1), np.sort(exact, axis=1)[:, :6], rtol=1e-4, atol=1e-2)
    assert (np.diff(seen, axis=1) >= -1e-2).all()  # nearest first


@pytest.mark.parametrize("precision", PRECISIONS)
def test_floor_is_infinite_where_everything_is_listed(precision: Precision):
    found = search(Screen(DATA["random"]()[:33], precision), 34)
    assert np.isinf(found.floor_B).all()
    assert (np.sort(found.places_BK, axis=1)[:, 1:] == np.arange(33)).all()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_see_what_they_visit_and_nothing_else(precision: Precision):
    vectors = DATA["blobs"]()
    even, odd = np.arange(0, 600, 2), np.arange(1, 600, 2)
    visits = [Visit(even, 100, 180), Visit(odd, 0, 7), Visit(even, 300, 437)]
    found = Screen(vectors, precision).nearest(np.arange(600), 8, visits)
    exact = distances(vectors)
    seen = np.full(exact.shape, np.inf)
    seen[np.ix_(even, np.r_[100:180, 300:437])] = 0
    seen[np.ix_(odd, np.r_[0:7])] = 0
    listed = np.take_along_axis(seen, np.maximum(found.places_BK, 0), 1)
    assert (listed[found.places_BK >= 0] == 0).all()
    assert (found.places_BK[odd, 7] == -1).all()
    assert np.isinf(found.floor_B[odd]).all()
    assert (unlisted(found, exact + seen) >= found.floor_B).all()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["blobs", "nested", "duplicates", "near duplicates", "far from the origin"])
def test_limits_mask_the_own_group_and_raise_distances(name: str, precision: Precision):
    vectors = DATA[name]()
    n, exact = len(vectors), distances(vectors)
    screen = Screen(vectors, precision)
    least = np.quantile(exact, 0.3, axis=1)
    group = np.random.default_rng(1).integers(0, 3, n).astype(np.int32)
    groups = np.full(screen.places, -1, np.int32)
    groups[:n] = group
    found = search(screen, 5, Limits(screen.bits_of(least), groups, group))
    assert (group[found.places_BK] != group[:, None])[found.places_BK >= 0].all()
    other = np.where(group[:, None] == group, np.inf, np.maximum(exact, least))
    assert (unlisted(found, other) >= found.floor_B).all()
    # of use: what is listed first is hardly worse than the best there is
    first = other[np.arange(n), found.places_BK[:, 0]]
    slack = {"bfloat16": 0.05, "float32": 1e-3, "float64": 1e-9}[precision] * exact.max()
    assert (first <= other.min(1) + slack).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_group_that_holds_everybody_leaves_nobody(precision: Precision):
    vectors = DATA["blobs"]()
    screen = Screen(vectors, precision)
    everyone = np.zeros(screen.places, np.int32)
    found = search(screen, 3, Limits(screen.bits_of(np.zeros(600)), everyone, np.zeros(600, np.int32)))
    assert (found.places_BK == -1).all()
    assert np.isinf(found.floor_B).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e9])
def test_bits_never_exceed_what_they_stand_for(precision: Precision, scale: float):
    import torch

    vectors = DATA["random"]()
    order = np.random.default_rng(0).permutation(len(vectors))
    screen = Screen(vectors, precision, order)
    given = np.random.default_rng(2).exponential(scale, len(vectors))
    half = torch.from_numpy(screen.bits_of(given)).view(getattr(torch, precision)).double().numpy()
    assert (np.sqrt(2 * half[: len(vectors)]) <= given[order]).all()
    assert np.allclose(np.sqrt(2 * half[: len(vectors)]), given[order], rtol=0.02)


def read_only(value: object) -> object:
    """What Ray's object store hands out: a copy whose arrays cannot be written."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


@pytest.mark.usefixtures("warnings_fail")
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_pickled_and_read_only_gives_the_same(precision: Precision, ordered: bool, stored: bool):
    vectors = DATA["nested"]()
    screen = Screen(vectors, precision, np.arange(len(vectors))[::-1].copy() if ordered else None, stored)
    before = search(screen, 5)  # which makes what is not pickled
    copy = read_only(screen)
    assert isinstance(copy, Screen)
    assert not copy.vectors_ND.flags.writeable
    least = copy.bits_of(np.ones(len(vectors)))
    group = np.arange(copy.places, dtype=np.int32)
    least.flags.writeable = group.flags.writeable = False
    after, limited = search(copy, 5), search(copy, 5, Limits(least, group, group[: copy.points]))
    assert np.array_equal(before.places_BK, after.places_BK)
    assert np.array_equal(before.floor_B, after.floor_B)
    assert np.array_equal(limited.places_BK, search(screen, 5, Limits(least, group, group[: copy.points])).places_BK)


def test_codes_made_when_needed_are_the_stored_ones():
    vectors = DATA["digits"]()
    for precision in PRECISIONS:
        kept, made = (search(Screen(vectors, precision, stored=stored), 9) for stored in (True, False))
        assert np.array_equal(kept.places_BK, made.places_BK)
        assert np.array_equal(kept.floor_B, made.floor_B)


def test_near_duplicates_need_a_better_screen():
    """Without such data the floors would be tested where they are never small."""
    vectors = DATA["near duplicates"]()
    exact = np.sort(distances(vectors), axis=1)[:, 5]
    proved = {precision: (search(Screen(vectors, precision), 20).floor_B >= exact).mean() for precision in PRECISIONS}
    assert proved["bfloat16"] == 0.0
    assert proved["float64"] == 1.0


def test_quickest_precision_is_asked_once():
    quickest_precision.cache_clear()
    first = quickest_precision()
    assert first in ("bfloat16", "float32")
    assert quickest_precision() is first
    assert quickest_precision.cache_info().hits == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nobody(precision: Precision):
    screen = Screen(np.zeros((0, 4), np.float32), precision)
    assert search(screen, 3).places_BK.shape == (0, 3)

"""Neighbour lists against brute force in float64; true bounds; the nearest outside; hdbscan's core distance."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from clustering_reference import DATA, distances, mutual_reachability
from test_screening import read_only

from raymedlt.clustering import neighbours, screening
from raymedlt.clustering.neighbours import Index, Neighbours, core_distances, pair_distances, probes_for
from raymedlt.clustering.partition import make_partition
from raymedlt.clustering.screening import PRECISIONS, Precision, Screen

HARD = ("near duplicates", "far apart", "duplicates")  # for low precision


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (screening, neighbours):
        monkeypatch.setattr(module, "ROWS", 64)
        monkeypatch.setattr(module, "COLUMNS", 128)


def everybody(vectors: np.ndarray, k: int, needed: int | None = None, precision: Precision | None = None) -> Neighbours:
    return Index(vectors, precision=precision).neighbours(np.arange(len(vectors)), k, k if needed is None else needed)


def others(vectors: np.ndarray) -> np.ndarray:
    exact = distances(vectors)
    np.fill_diagonal(exact, np.inf)
    return exact


def nearest_unlisted(found: Neighbours, exact: np.ndarray) -> np.ndarray:
    """Compare with `bound_B` up to the last digits: the reference adds its squares in another order."""
    left = exact.copy()
    rows, columns = np.nonzero(found.ids_BK >= 0)
    left[rows, found.ids_BK[rows, columns]] = np.inf
    return left.min(1)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Rows that each precision has screened."""
    count: Counter[str] = Counter()
    nearest = Screen.nearest

    def counted(self: Screen, places_B: np.ndarray, *rest: object) -> object:
        count[self.precision] += len(places_B)
        return nearest(self, places_B, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Screen, "nearest", counted)
    return count


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 16])
@pytest.mark.parametrize("name", DATA)
def test_lists_equal_brute_force(name: str, k: int, precision: Precision):
    vectors = DATA[name]()
    found, exact = everybody(vectors, k, precision=precision), others(vectors)
    k = min(k, len(vectors) - 1)
    # Which of two tied points is in a list is open; how far the list reaches is not.
    assert np.allclose(found.distances_BK, np.sort(exact, axis=1)[:, :k], rtol=1e-12, atol=1e-12)
    assert np.allclose(np.take_along_axis(exact, found.ids_BK, 1), found.distances_BK, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DATA)
def test_distances_do_not_depend_on_the_precision(name: str):
    vectors = DATA[name]()
    lists = [everybody(vectors, 9, precision=precision) for precision in PRECISIONS]
    assert np.array_equal(lists[0].distances_BK, lists[1].distances_BK)
    assert np.array_equal(lists[0].distances_BK, lists[2].distances_BK)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DATA)
def test_what_is_needed_is_proved_and_the_rest_is_honest(name: str, precision: Precision):
    vectors = DATA[name]()
    found, exact = everybody(vectors, 16, 4, precision), others(vectors)
    k = min(4, len(vectors) - 1)
    assert np.allclose(found.distances_BK[:, :k], np.sort(exact, axis=1)[:, :k], rtol=1e-12, atol=1e-12)
    assert (nearest_unlisted(found, exact) >= found.bound_B * (1 - 1e-12)).all()


@pytest.mark.parametrize("name", DATA)
def test_no_list_holds_the_point_or_a_point_twice(name: str):
    ids = everybody(DATA[name](), 7).ids_BK
    assert not (ids == np.arange(len(ids))[:, None]).any()
    assert all(len(set(row)) == len(row) for row in ids.tolist())


@pytest.mark.parametrize("name", DATA)
def test_lists_are_ordered_by_distance_then_id(name: str):
    found = everybody(DATA[name](), 9)
    for ids, far in zip(found.ids_BK.tolist(), found.distances_BK.tolist(), strict=True):
        assert list(zip(far, ids, strict=True)) == sorted(zip(far, ids, strict=True))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", DATA)
def test_bound_is_true_over_many_blocks(name: str, k: int, monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    vectors = DATA[name]()
    found, exact = everybody(vectors, k), others(vectors)
    assert (nearest_unlisted(found, exact) >= found.bound_B * (1 - 1e-12)).all()
    assert np.allclose(
        found.distances_BK, np.sort(exact, axis=1)[:, : min(k, len(vectors) - 1)], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bound_is_of_use(precision: Precision):
    found = everybody(DATA["blobs"](), 8, 5, precision)
    assert (found.bound_B >= found.distances_BK[:, 4]).mean() > 0.99


@pytest.mark.parametrize("n", [9, 32, 40])
def test_bound_is_infinite_where_everything_is_listed(n: int):
    found = everybody(DATA["random"]()[:n], 50)
    assert found.ids_BK.shape == (n, n - 1)
    assert np.isinf(found.bound_B).all()


@pytest.mark.parametrize("n", [0, 1])
def test_nobody_to_know(n: int):
    found = everybody(np.zeros((n, 3), np.float32), 5)
    assert found.ids_BK.shape == (n, 0)
    assert core_distances(found, 5).tolist() == [0.0] * n


def test_two_points():
    found = everybody(DATA["two points"](), 5)
    assert found.ids_BK.tolist() == [[1], [0]]
    assert found.distances_BK.tolist() == [[5.0], [5.0]]
    assert core_distances(found, 5).tolist() == [5.0, 5.0]


def test_some_points_in_any_order():
    vectors = DATA["blobs"]()
    every, some = everybody(vectors, 6), np.array([400, 3, 599, 0, 77])
    found = Index(vectors).neighbours(some, 6, 6)
    assert np.array_equal(found.ids_BK, every.ids_BK[some])
    assert np.array_equal(found.distances_BK, every.distances_BK[some])


@pytest.mark.parametrize("name", HARD[:2])
def test_hard_data_goes_through_better_screens(name: str, searches: Counter[str]):
    vectors = DATA[name]()
    found = Index(vectors, precision="bfloat16").neighbours(np.arange(len(vectors)), 5, 5)
    assert searches["float32"] + searches["float64"] >= len(vectors) / 2
    assert np.allclose(found.distances_BK, np.sort(others(vectors), axis=1)[:, :5], rtol=1e-12, atol=1e-12)


def test_easy_data_does_not(searches: Counter[str]):
    Index(DATA["random"](), precision="float32").neighbours(np.arange(300), 5, 5)
    assert searches == {"float32": 300}


def test_without_the_better_screens_hard_lists_are_wrong(monkeypatch: pytest.MonkeyPatch):
    """Else this file's other tests would prove little."""
    vectors = DATA["near duplicates"]()
    index = Index(vectors, precision="bfloat16")
    monkeypatch.setattr(Index, "_attempts", lambda self: iter([(self._first, 1)]))
    found = index.neighbours(np.arange(len(vectors)), 5, 5)
    assert (found.distances_BK[:, 4] > np.sort(others(vectors), axis=1)[:, 4] * (1 + 1e-4)).any()
    assert (found.distances_BK[:, 4] > found.bound_B).any()  # and it is known that they may be


# --- with a partition ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["random", "blobs", "nested", *HARD])
def test_all_cells_are_everything(name: str, precision: Precision):
    vectors = DATA[name]()
    partition = make_partition(vectors, 0, 40)
    index, points = Index(vectors, partition, precision=precision), np.arange(len(vectors))
    plain = everybody(vectors, 7, precision=precision)
    assert not index.partial
    assert np.array_equal(index.neighbours(points, 7, 7).distances_BK, plain.distances_BK)
    visiting = index.with_probes(len(partition.centres_CD))
    assert visiting.partial
    found = visiting.neighbours(points, 7, 7)
    assert (nearest_unlisted(found, others(vectors)) >= found.bound_B * (1 - 1e-12)).all()
    if precision == "float64":
        assert np.allclose(found.distances_BK, plain.distances_BK, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("probes", [1, 2, 5])
@pytest.mark.parametrize("name", ["random", "blobs", "near duplicates", "duplicates"])
def test_few_cells_are_honest_about_what_they_hold(name: str, probes: int, precision: Precision):
    vectors = DATA[name]()
    partition = make_partition(vectors, 0, 40)
    index, points = Index(vectors, partition, probes, precision), np.arange(len(vectors))
    found, exact = index.neighbours(points, 5, 5), others(vectors)
    # A point visits its own cell and the cells with the nearest centres; rounding may decide between two of them.
    cell_N = np.empty(len(vectors), np.int64)
    cell_N[partition.order_N] = partition.cell_of(np.arange(len(vectors)))
    far = ((vectors[:, None].astype(float) - partition.centres_CD) ** 2).sum(2)
    far[points, cell_N] = -1
    surely = far <= np.sort(far, axis=1)[:, [probes - 1]] * (1 - 1e-6)
    surely[points, cell_N] = True
    visited = np.where(surely[:, cell_N], exact, np.inf)
    assert (nearest_unlisted(found, visited) >= found.bound_B * (1 - 1e-12)).all()
    assert (found.ids_BK >= 0).all()
    assert np.allclose(np.take_along_axis(exact, found.ids_BK, 1), found.distances_BK, rtol=1e-12, atol=1e-12)
    if precision != "bfloat16" and name in ("random", "blobs"):
        reach = np.sort(visited, axis=1)[:, :5]
        assert (found.distances_BK <= reach * (1 + 1e-9)).all()


def test_a_cell_with_too_few_points_is_left():
    """A far pair has a cell of its own: core distances come from elsewhere, and looking at two proves nothing."""
    vectors = np.concatenate([DATA["blobs"]()[:, :4], np.full((2, 4), 1000, np.float32)])
    partition = make_partition(vectors, 0, 100)
    cell = np.searchsorted(partition.starts, np.flatnonzero(partition.order_N >= 600), side="right") - 1
    assert np.diff(partition.starts)[cell].tolist() == [2, 2]
    found = Index(vectors, partition, 1).neighbours(np.array([600, 601]), 5, 5)
    assert np.allclose(found.distances_BK, np.sort(others(vectors), axis=1)[600:, :5])
    assert np.isfinite(found.bound_B).all()


def test_more_cells_find_more():
    vectors = DATA["random"]()
    truth = everybody(vectors, 5).ids_BK
    index = Index(vectors, make_partition(vectors, 0, 20))
    shares = []
    for probes in (1, 3, 8, 15):
        ids = index.with_probes(probes).neighbours(np.arange(300), 5, 5).ids_BK
        shares.append((truth[:, :, None] == ids[:, None, :]).any(2).mean())
    assert shares == sorted(shares)
    assert shares[0] < 0.8
    assert shares[-1] > 0.999


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.99])
def test_probes_hold_the_share_asked_for(recall: float):
    vectors = DATA["random"]()
    partition, points, truth = make_partition(vectors, 0, 20), np.arange(300), everybody(vectors, 5).ids_BK
    probes = probes_for(partition, vectors, points, truth, recall)
    found = Index(vectors, partition, probes, "float32").neighbours(points, 5, 5).ids_BK
    assert (truth[:, :, None] == found[:, None, :]).any(2).mean() >= recall - 1e-9
    if probes > 1:
        fewer = Index(vectors, partition, probes - 1, "float32").neighbours(points, 5, 5).ids_BK
        assert (truth[:, :, None] == fewer[:, None, :]).any(2).mean() <= recall


def test_probes_of_no_neighbours_are_all_cells():
    vectors = DATA["random"]()
    partition = make_partition(vectors, 0, 20)
    assert probes_for(partition, vectors, np.arange(0), np.zeros((0, 1), np.int64), 0.9) == 15


# --- outside ---


def brute_outside(vectors: np.ndarray, component: np.ndarray, min_samples: int) -> np.ndarray:
    reach = mutual_reachability(vectors, min_samples)
    return np.where(component[:, None] == component, np.inf, reach).min(1)


@pytest.mark.parametrize(
    ("precision", "partitioned"), [("bfloat16", False), ("bfloat16", True), ("float32", True), ("float64", False)]
)
@pytest.mark.parametrize("name", [name for name in DATA if name != "two points"])
def test_outside_equals_brute_force(
    name: str, precision: Precision, partitioned: bool, monkeypatch: pytest.MonkeyPatch
):
    small_blocks(monkeypatch)
    vectors = DATA[name]()
    n, rng = len(vectors), np.random.default_rng(0)
    index = Index(vectors, make_partition(vectors, 0, 50) if partitioned else None, precision=precision)
    core = core_distances(everybody(vectors, 5), 5)
    reach = mutual_reachability(vectors, 5)
    for groups in (2, 30):
        component = rng.integers(0, groups, n).astype(np.int32)
        asked = np.sort(rng.choice(n, n // 2, replace=False))
        found = index.outside(asked, component, core)
        assert np.allclose(found.weight_B, brute_outside(vectors, component, 5)[asked], rtol=1e-12, atol=1e-12)
        assert (component[found.other_B] != component[asked]).all()
        assert np.allclose(reach[asked, found.other_B], found.weight_B, rtol=1e-12, atol=1e-12)
        assert np.array_equal(found.distance_B, pair_distances(vectors, asked, found.other_B))


@pytest.mark.parametrize("name", ["blobs", "nested", "near duplicates"])
def test_outside_of_whole_blobs(name: str):
    """The hard case: everybody near is inside."""
    vectors = DATA[name]()
    component = (np.argsort(np.argsort(vectors[:, 0])) * 3 // len(vectors)).astype(np.int32)
    core = core_distances(everybody(vectors, 5), 5)
    found = Index(vectors, precision="bfloat16").outside(np.arange(len(vectors)), component, core)
    assert np.allclose(found.weight_B, brute_outside(vectors, component, 5), rtol=1e-12, atol=1e-12)


def test_ties_outside_fall_by_distance_then_id():
    # core distances hide the difference between 1 and 2; of two at distance 1 the smaller number wins
    vectors = np.array([[0.0, 0], [2, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    component = np.array([0, 1, 1, 1, 1], np.int32)
    found = Index(vectors).outside(np.array([0]), component, np.full(5, 7.0))
    assert (found.other_B.tolist(), found.weight_B.tolist(), found.distance_B.tolist()) == ([2], [7.0], [1.0])


@pytest.mark.parametrize("partitioned", [False, True])
def test_nobody_outside(partitioned: bool):
    vectors = DATA["blobs"]()
    index = Index(vectors, make_partition(vectors, 0, 50), 3) if partitioned else Index(vectors)
    found = index.outside(np.array([4, 9]), np.zeros(600, np.int32), np.zeros(600))
    assert found.other_B.tolist() == [-1, -1]
    assert np.isinf(found.weight_B).all()


# --- blocks, copies ---


@pytest.mark.parametrize("size", [1, 7, 250, 10**6])
def test_blocks_hold_every_point_once(size: int):
    vectors = DATA["blobs"]()
    for index in (Index(vectors), Index(vectors, make_partition(vectors, 0, 50), 3)):
        blocks = index.blocks(size)
        assert np.sort(np.concatenate(blocks)).tolist() == list(range(600))
        wider = neighbours._WIDER if index.partial else 1
        assert all(len(block) == size * wider for block in blocks[:-1])
    assert Index(vectors[:0]).blocks() == []


@pytest.mark.usefixtures("warnings_fail")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("probes", [None, 3])
def test_a_copy_from_the_object_store_answers_the_same(precision: Precision, probes: int | None):
    vectors = DATA["near duplicates"]()
    index = Index(vectors, make_partition(vectors, 0, 50), probes, precision)
    points, component = np.arange(600), np.arange(600, dtype=np.int32) % 4
    lists, core = index.neighbours(points, 6, 5), np.full(600, 1e-4)
    for copy in (read_only(index), pickle.loads(pickle.dumps(index))):
        assert isinstance(copy, Index)
        pairs = zip(lists, copy.neighbours(points, 6, 5), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)
        answers = zip(index.outside(points, component, core), copy.outside(points, component, core), strict=True)
        assert all(np.array_equal(one, other) for one, other in answers)


def test_description_says_what_is_looked_at():
    vectors = DATA["blobs"]()
    index = Index(vectors, make_partition(vectors, 0, 50), 3, "float32")
    assert index.description == "3 of 12 cells, screened in float32"
    assert index.exhaustive().description == "all pairs, screened in float32"
    assert not index.exhaustive().partial
    assert index.partial


# --- core distances ---


@pytest.mark.parametrize("min_samples", [1, 5, 12])
@pytest.mark.parametrize("name", DATA)
def test_core_distance_is_hdbscans(name: str, min_samples: int):
    vectors = DATA[name]()
    core = core_distances(everybody(vectors, 16, min_samples), min_samples)
    # hdbscan: the (min_samples + 1)-th smallest of a row that holds the point's own zero
    k = min(min_samples, len(vectors) - 1)
    assert np.allclose(core, np.sort(distances(vectors), axis=1)[:, k], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("min_samples", [1, 4, 9])
def test_weighted_core_distance_is_that_of_the_expanded_data(min_samples: int):
    vectors = DATA["blobs"]()[:200]
    weights = np.random.default_rng(0).integers(1, 8, 200)
    expanded = np.repeat(vectors, weights, axis=0)
    first = np.r_[0, np.cumsum(weights)[:-1]]
    right = np.sort(distances(expanded), axis=1)[first, min_samples]
    lists = everybody(vectors, 16, min_samples)
    assert np.allclose(core_distances(lists, min_samples, weights), right, rtol=1e-12, atol=1e-12)
    assert (core_distances(lists, min_samples, weights)[weights > min_samples] == 0).all()
    some = np.array([5, 190, 7])
    part = Neighbours(*(array[some] for array in lists))
    assert np.allclose(core_distances(part, min_samples, weights, some), right[some], rtol=1e-12, atol=1e-12)


def test_weights_that_reach_nowhere_near_min_samples_take_the_farthest():
    lists = everybody(np.array([[0.0], [1.0], [3.0]], np.float32), 16)
    assert core_distances(lists, 50, np.array([1, 2, 1])).tolist() == [3.0, 2.0, 3.0]


# --- pair distances ---


def test_pair_distances_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch):
    vectors = DATA["blobs"]()
    left, right = np.arange(0, 500), np.arange(100, 600)
    whole = pair_distances(vectors, left, right)
    monkeypatch.setattr("raymedlt.clustering.neighbours._PAIRS_AT_A_TIME", 7)
    assert np.array_equal(pair_distances(vectors, left, right), whole)
    assert np.array_equal(pair_distances(vectors, right, left), whole)


def test_float32_products_alone_would_be_wrong():
    """The near duplicates are a case that needs exact distances."""
    vectors = DATA["near duplicates"]()
    products = vectors @ vectors.T
    squares = np.maximum(np.diag(products)[:, None] + np.diag(products) - 2 * products, 0)
    np.fill_diagonal(squares, np.inf)
    taken = np.sort(np.take_along_axis(distances(vectors), np.argsort(squares, axis=1)[:, :5], 1), 1)[:, 4]
    right = np.sort(distances(vectors), axis=1)[:, 5]
    assert (taken > right * (1 + 1e-4)).any()


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "float64"])
def test_nearest_among_others_is_exact_with_the_smaller_number_among_equals(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "quickest_precision", lambda: precision)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1000:1030] = vectors[1000]  # more equals than candidates
    vectors[2000] = vectors[1000]
    asked, among = np.arange(1500, 3000, 2), np.r_[np.arange(1499, -1, -1)]  # neither all points nor in order
    nearest, distances = neighbours.nearest_among(vectors, asked, among)
    exact = np.linalg.norm(vectors[asked, None].astype(np.float64) - vectors[None, :1500], axis=2)
    assert nearest.tolist() == exact.argmin(1).tolist()
    assert nearest[250] == 1000
    assert distances == pytest.approx(exact.min(1), abs=1e-12)
    empty, far = neighbours.nearest_among(vectors, asked, np.zeros(0, np.int64))
    assert set(empty.tolist()) == {-1}
    assert np.isinf(far).all()

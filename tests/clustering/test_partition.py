"""Cells: every point in the cell of its nearest centre, and the same cells whatever the threads."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from clustering_reference import DATA, blobs
from test_screening import read_only

from raymedlt.clustering.partition import POINTS_PER_CELL, Partition, make_partition, nearest_cells


def squares(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((vectors[:, None].astype(float) - centres) ** 2).sum(2)


@pytest.mark.parametrize("name", [name for name in DATA if name not in ("two points", "equal")])
def test_every_point_is_in_the_cell_of_its_nearest_centre(name: str):
    vectors = DATA[name]()
    partition = make_partition(vectors, 0, 30)
    n, cells = len(vectors), len(vectors) // 30
    assert len(partition.centres_CD) == len(partition.starts) - 1 == cells
    assert np.sort(partition.order_N).tolist() == list(range(n))
    assert (partition.starts[0], partition.starts[-1]) == (0, n)
    far = squares(vectors, partition.centres_CD)
    for cell, (start, stop) in enumerate(zip(partition.starts[:-1], partition.starts[1:], strict=True)):
        members = partition.order_N[start:stop]
        assert (np.diff(members) > 0).all()
        assert (partition.cell_of(np.arange(start, stop)) == cell).all()
        rounding = 1e-5 * np.abs(vectors).max() ** 2 * vectors.shape[1]
        assert (far[members, cell] <= far[members].min(1) + rounding).all()


def test_cells_follow_the_data():
    """Cells near in space: a point's nearest ones hold far more of its surroundings than cells drawn by lot."""
    vectors = blobs(2000, 8, 40, 0)
    partition = make_partition(vectors, 0, 50)
    near = squares(vectors, partition.centres_CD).min(1).mean()
    assert near < 0.2 * squares(vectors, vectors[:1]).mean()
    sizes = np.diff(partition.starts)
    assert sizes.max() < 8 * 50
    assert (sizes > 0).mean() > 0.9


@pytest.mark.parametrize("n", [0, 1, 60, 2 * POINTS_PER_CELL - 1])
def test_few_points_are_one_cell(n: int):
    vectors = blobs(2000, 3, 4, 0)[:n]
    partition = make_partition(vectors, 0)
    assert partition.order_N.tolist() == list(range(n))
    assert partition.starts.tolist() == [0, n]
    assert partition.centres_CD.shape == (1, 3)
    assert np.isfinite(partition.centres_CD).all()
    assert partition.centres_CD.dtype == np.float32


def test_equal_points_leave_cells_empty():
    partition = make_partition(DATA["equal"](), 0, 10)
    assert len(partition.starts) == 7
    assert partition.starts[-1] == 60
    assert np.isfinite(partition.centres_CD).all()


def test_cell_of_skips_empty_cells():
    partition = Partition(np.arange(5), np.array([0, 2, 2, 2, 5]), np.zeros((4, 1), np.float32))
    assert partition.cell_of(np.arange(5)).tolist() == [0, 0, 3, 3, 3]


def test_cells_follow_the_seed():
    vectors = DATA["blobs"]()
    one, again, other = (make_partition(vectors, seed, 30) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one.order_N, other.order_N)
    assert make_partition(vectors, 2**63 - 1, 30).order_N.shape == (600,)  # seeds are 64-bit, FAISS takes 31


@pytest.mark.parametrize(("n", "d"), [(3000, 16), (4000, 384)])
def test_cells_do_not_depend_on_threads(n: int, d: int):
    import torch

    vectors, before = blobs(n, d, 60, 0), faiss.omp_get_max_threads()
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            faiss.omp_set_num_threads(number)
            torch.set_num_threads(number)
            found.append(make_partition(vectors, 0, 64))
    finally:
        faiss.omp_set_num_threads(before)
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_nearest_cells_come_nearest_first():
    vectors = DATA["random"]()
    centres = vectors[::20].copy()
    far = squares(vectors, centres)
    for probes in (1, 4, 99):
        found = nearest_cells(vectors, centres, probes)
        assert found.shape == (300, min(probes, 15))
        assert np.allclose(np.take_along_axis(far, found, 1), np.sort(far, axis=1)[:, :probes], atol=1e-4)


@pytest.mark.usefixtures("warnings_fail")
def test_nearest_cells_of_read_only_arrays():
    vectors = DATA["random"]()
    pair = read_only((vectors, vectors[:9].copy()))
    assert isinstance(pair, tuple)
    assert np.array_equal(nearest_cells(*pair, 3), nearest_cells(vectors, vectors[:9], 3))

"""KID, precision, recall, density and coverage against loops that follow the papers; MS-SSIM; the floor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gate_world import pictures

from raymedlt.errors import InputError
from raymedlt.seeds import generator
from raymedlt.synthesis import quality
from raymedlt.synthesis.quality import (
    compare,
    density_coverage,
    kid,
    kid_error,
    ms_ssim,
    ms_ssim_within,
    precision_recall,
    radii,
    scales_for,
)


def cloud(count: int, shift: float = 0.0, key: str = "a", width: int = 6) -> np.ndarray:
    return generator(0, "cloud", key).normal(shift, 1, (count, width))


REAL, OWN = cloud(40), cloud(30, 0.4, "b")


def plain_kid(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def plain_radius(x: np.ndarray, i: int, k: int) -> float:
    return sorted(math.dist(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]


def plain_manifolds(real: np.ndarray, own: np.ndarray, k: int) -> tuple[float, float, float, float]:
    of_real = [plain_radius(real, i, k) for i in range(len(real))]
    of_own = [plain_radius(own, j, k) for j in range(len(own))]
    inside = [[math.dist(real[i], own[j]) <= of_real[i] for i in range(len(real))] for j in range(len(own))]
    precision = sum(any(row) for row in inside) / len(own)
    recall = sum(any(math.dist(r, own[j]) <= of_own[j] for j in range(len(own))) for r in real) / len(real)
    density = sum(map(sum, inside)) / (k * len(own))
    coverage = sum(any(row[i] for row in inside) for i in range(len(real))) / len(real)
    return precision, recall, density, coverage


@pytest.mark.parametrize("block", [7, 1024])
def test_against_plain_loops(block, monkeypatch):
    monkeypatch.setattr(quality, "_BLOCK", block)
    assert kid(REAL, OWN) == pytest.approx(plain_kid(REAL, OWN), rel=1e-9)
    for k in (1, 3, 5):
        precision, recall, density, coverage = plain_manifolds(REAL, OWN, k)
        assert precision_recall(REAL, OWN, k) == pytest.approx((precision, recall))
        assert density_coverage(REAL, OWN, k) == pytest.approx((density, coverage))
        np.testing.assert_allclose(radii(REAL, k), [plain_radius(REAL, i, k) for i in range(len(REAL))], rtol=1e-6)


def test_kid_is_unbiased_and_grows_with_the_distance():
    pairs = [kid(cloud(60, 0, f"x{n}"), cloud(60, 0, f"y{n}")) for n in range(60)]
    assert abs(np.mean(pairs)) < 3 * np.std(pairs) / math.sqrt(60)
    assert min(pairs) < 0 < kid(cloud(60), cloud(60, 0.5, "b")) < kid(cloud(60), cloud(60, 1, "b"))


def plain_kid_of_halves(x: np.ndarray, y: np.ndarray, subsets: int) -> list[float]:
    rng = generator(7, "halves")
    return [
        plain_kid(x[rng.permutation(len(x))[: len(x) // 2]], y[rng.permutation(len(y))[: len(y) // 2]])
        for _ in range(subsets)
    ]


def test_error_of_kid_is_the_spread_over_halves(monkeypatch):
    monkeypatch.setattr(quality, "_BLOCK", 7)
    x, y = cloud(13), cloud(12, 0.6, "b")
    assert kid_error(x, y, seed=0, subsets=600) == pytest.approx(np.std(plain_kid_of_halves(x, y, 300)), rel=0.15)
    assert kid_error(x, y, seed=0) == kid_error(x, y, seed=0) != kid_error(x, y, seed=1)
    with pytest.raises(InputError, match="at least 4 rows each"):
        kid_error(x[:3], y, seed=0)


@pytest.mark.parametrize(("shift", "least", "most"), [(1.0, 0.8, 1.25), (0.0, 1.0, 2.2)])
def test_error_of_kid_is_that_of_sets_drawn_anew(shift, least, most):
    """Where sets do not differ it is too large, never too small."""
    pairs = [(cloud(50, 0, f"x{n}"), cloud(50, shift, f"y{n}")) for n in range(80)]
    true = np.std([kid(x, y) for x, y in pairs])
    assert least * true < np.mean([kid_error(x, y, seed=0, subsets=40) for x, y in pairs]) < most * true


def test_a_collapsed_set_is_precise_and_covers_nothing():
    collapsed = REAL[:1] + 1e-3 * cloud(30, 0, "c")
    precision, recall = precision_recall(REAL, collapsed)
    density, coverage = density_coverage(REAL, collapsed)
    assert (precision, recall) == (1, pytest.approx(0, abs=0.03))
    assert coverage < 0.1 < density


def test_an_outlier_widens_recall_but_not_coverage():
    """Naeem et al., section 3: one far image makes a huge ball about itself."""
    far = np.concatenate([cloud(29, 30, "d"), cloud(1, -30, "e")])
    assert precision_recall(REAL, far)[1] == 1
    assert density_coverage(REAL, far) == (0, 0)


def test_twins_have_no_radius():
    assert radii(np.repeat(REAL[:3], 2, axis=0), 1).max() < 1e-6


@pytest.mark.parametrize(("x", "y"), [(REAL[:1], OWN), (REAL, OWN[:, :5]), (REAL[0], OWN)])
def test_tables_that_do_not_fit(x, y):
    with pytest.raises(InputError, match="features of shapes"):
        kid(x, y)
    with pytest.raises(InputError, match="at least 6 rows each"):
        precision_recall(REAL[:5], OWN)


# MS-SSIM

PICTURES = pictures(12, "quality")


def test_ms_ssim_of_equal_and_of_other_images():
    same = ms_ssim(PICTURES[:3], PICTURES[:3])
    np.testing.assert_allclose(same, 1, atol=1e-6)
    other = ms_ssim(PICTURES[:3], PICTURES[3:6])
    assert other.shape == (3,)
    assert (other < 0.9).all()
    np.testing.assert_allclose(ms_ssim(PICTURES[1:2], PICTURES[4:5]), other[1:2], rtol=1e-5)


def test_alike_images_score_above_others():
    noise = generator(0, "alike").integers(-6, 7, PICTURES.shape)
    alike = np.clip(PICTURES[0].astype(int) + noise, 0, 255).astype(np.uint8)
    assert ms_ssim_within(alike, seed=0, pairs=20) > ms_ssim_within(PICTURES, seed=0, pairs=20) + 0.1
    assert math.isnan(ms_ssim_within(PICTURES[:1], seed=0))


@pytest.mark.parametrize(
    ("size", "scales"), [(10, 0), (11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (64, 3), (99, 4), (176, 5), (256, 5)]
)
def test_as_many_scales_as_fit(size, scales):
    assert scales_for(size) == scales
    image = np.random.default_rng(0).integers(0, 256, (1, size, size)).astype(np.uint8)
    if scales:
        assert ms_ssim(image, image) == pytest.approx([1])
    else:
        with pytest.raises(InputError, match=r"images of 10 pixels"):
            ms_ssim(image, image)


# Beside the floor


def test_the_floor_has_as_many_images():
    real, held_out = (cloud(80), PICTURES), (cloud(30, 0, "h"), np.tile(PICTURES, (3, 1, 1))[:30])
    good = (cloud(50, 0, "g"), np.tile(PICTURES, (5, 1, 1))[:50])
    bad = (cloud(50, 2, "g"), np.repeat(PICTURES[:1], 50, axis=0))
    figures, floor, count = compare(real, held_out, good, seed=0, pairs=20)
    worse, same_floor, _ = compare(real, held_out, bad, seed=0, pairs=20)
    assert count == 30
    assert floor == same_floor
    assert floor.kid == pytest.approx(kid(real[0], held_out[0]))
    assert 0 < floor.kid_error < worse.kid_error
    assert abs(figures.kid - floor.kid) < worse.kid - floor.kid
    assert worse.coverage < figures.coverage
    assert worse.ms_ssim == pytest.approx(1, abs=1e-5) != figures.ms_ssim
    assert compare(real, held_out, good, seed=0, pairs=20)[0] == figures
    assert compare(real, held_out, good, seed=1, pairs=20)[0] != figures


def test_too_few_images_give_no_figures():
    few = (cloud(4), PICTURES[:4])
    figures, floor, count = compare((cloud(80), PICTURES), few, few, seed=0)
    assert count == 4
    assert math.isnan(figures.kid)
    assert math.isnan(figures.kid_error)
    assert math.isnan(floor.coverage)

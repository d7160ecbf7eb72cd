"""Memorisation: copies of training images are caught, other images are let through, and what can't be judged is not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate_world import pictures
from threadpoolctl import threadpool_limits

from raymedlt.errors import InputError
from raymedlt.images.phantom import cohort, draw
from raymedlt.seeds import generator
from raymedlt.synthesis import copies
from raymedlt.synthesis.copies import CopySearch, build_index, cell_centres, fit_copies, repeats, try_copies
from raymedlt.synthesis.fingerprint import SIZE, learn, reduced
from raymedlt.synthesis.planted import COMBINED, KINDS, NOISE, SHIFT, plant

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "nih1993_64"
TRAIN, HELD_OUT, FRESH = pictures(120, "train"), pictures(100, "held out"), pictures(60, "fresh")


def fitted(train: np.ndarray, held_out: np.ndarray, **settings: object) -> CopySearch:
    own = {"false_refusals": 0.02, "least_caught": 0.99, "length": 64, "seed": 0, **settings}
    return fit_copies(train, held_out, **own)[0]


@pytest.fixture(scope="module")
def search() -> CopySearch:
    return fitted(TRAIN, HELD_OUT)


def planted(train: np.ndarray, kind: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(1, "planted", kind)
    rows = rng.integers(0, len(train), count)
    return np.stack([plant(train[row], kind, rng) for row in rows]), rows


# Copies


@pytest.mark.parametrize("kind", KINDS)
def test_planted_copies_are_caught_and_traced(search, kind):
    images, rows = planted(TRAIN, kind, 15)
    found = search.nearest(images)
    assert search.are_copies(found).all()
    assert (found.rows_B == rows).all()


def test_other_images_pass(search):
    assert search.are_copies(search.nearest(FRESH)).mean() <= 0.1
    assert 0.85 < np.median(search.ratios(search.nearest(FRESH))) < 1.15


def test_threads_do_not_show():
    def digits() -> tuple[bytes, ...]:
        own = fitted(TRAIN, HELD_OUT)
        found = own.nearest(FRESH)
        return (
            own.vectors_ND.tobytes(),
            found.distances_B.tobytes(),
            found.around_B.tobytes(),
            bytes(str(own.weight), "ascii"),
        )

    with threadpool_limits(4):
        several = digits()
    with threadpool_limits(1):
        assert digits() == several


def check(train: np.ndarray, held_out: np.ndarray, fresh: np.ndarray) -> None:
    """The bars on few images: 99 % of 300 copies and 59 of 60 others, and refusals that 4 % allow for."""
    own, trial = fit_copies(train, held_out, false_refusals=0.04, least_caught=0.99, length=128, seed=0)
    assert trial.planted == 300
    other = try_copies(own, train, seed=7, count=60, kinds=COMBINED)
    assert other.caught >= 59
    assert own.are_copies(own.nearest(fresh)).mean() <= 0.12


def test_phantoms():
    people = cohort(400, seed=3, test_images=0, test_positives=0, texts=False)
    ids = people.table["image_id"].to_pylist()
    owners = people.table["patient_id"].to_pylist()
    rows = [row for row, owner in enumerate(owners) if owner != owners[row - 1]][:240]  # one image a patient
    images = np.stack([draw(people.findings(row), seed=3, image_id=ids[row]) for row in rows])
    check(images[:130], images[130:190], images[190:])


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images of ../shared/data/nih1993_64")
def test_real_images():
    from PIL import Image

    by_patient = {name.name.split("_")[0]: name for name in sorted((REAL / "images").glob("*.png"))}
    images = np.stack([np.array(Image.open(path).convert("L")) for path in by_patient.values()])[:480]
    check(images[:300], images[300:390], images[390:])


def test_copies_of_what_the_training_set_holds_ten_times():
    """Then the tenth nearest is as close as the nearest, and only the distance itself tells."""
    rng = generator(0, "ten times")
    many = np.concatenate([TRAIN, [plant(TRAIN[0], "noise", rng) for _ in range(12)]])
    own = fitted(many, HELD_OUT)
    copies_of_it = np.stack([plant(TRAIN[0], "all", rng) for _ in range(8)])
    found = own.nearest(copies_of_it)
    assert (found.distances_B / found.around_B / own.expected > own.threshold).any()
    assert own.are_copies(found).all()


def test_an_image_is_judged_alone(search):
    among = search.nearest(FRESH[:6])
    for row in range(6):
        alone = search.nearest(FRESH[row : row + 1])
        assert alone.distances_B[0] == among.distances_B[row]
        assert alone.rows_B[0] == among.rows_B[row]
    backwards = search.nearest(FRESH[5::-1])
    np.testing.assert_array_equal(backwards.distances_B[::-1], among.distances_B)


def test_the_same_seed_gives_the_same_map(search):
    again = learn(TRAIN, length=64, seed=0)
    np.testing.assert_array_equal(again.vectors(TRAIN), search.vectors_ND)
    other = learn(TRAIN, length=64, seed=1)
    assert (other.map_PD != again.map_PD).any()


def test_cells_find_what_an_exact_search_finds(search, monkeypatch):
    monkeypatch.setattr(copies, "EXACT_UP_TO", 50)
    monkeypatch.setattr(copies, "PROBES", 4)
    centres = cell_centres(search.vectors_ND, 0)
    assert len(centres) == round(4 * math.sqrt(len(TRAIN)))
    index = build_index(search.vectors_ND, centres)
    assert index.nprobe == 4
    cells = replace(search, centres_KD=centres, index=index)
    images, rows = planted(TRAIN, "all", 20)
    assert (cells.nearest(images).rows_B == rows).all()
    assert cells.are_copies(cells.nearest(images)).all()


# Thresholds, and what fails closed


def test_the_threshold_is_passed_by_the_share_that_was_asked_for(search):
    ratios = search.ratios(search.nearest(HELD_OUT))
    assert 0.85 < np.median(ratios) <= 1.0001
    assert (ratios < search.threshold).sum() <= 1  # fewer than floor(.02 * 101) = 2
    strict = fitted(TRAIN, HELD_OUT, false_refusals=0.1)
    nearest = strict.nearest(HELD_OUT)
    assert 5 <= (strict.ratios(nearest) < strict.threshold).sum() <= 9
    assert strict.threshold > search.threshold
    local = nearest.distances_B / nearest.around_B
    either = (local < strict.threshold * strict.expected) | (nearest.distances_B < strict.closest)
    np.testing.assert_array_equal(either, strict.are_copies(nearest))


def test_an_image_without_structure_is_refused(search):
    nothing = np.stack([np.full((64, 64), grey, np.uint8) for grey in (0, 127, 255)])
    found = search.nearest(nothing)
    assert search.are_copies(found).all()
    assert (found.rows_B == -1).all()
    assert np.isnan(search.ratios(found)).all()
    assert not search.fingerprint.vectors(nothing).any()


def test_no_images(search):
    assert len(search.nearest(FRESH[:0]).rows_B) == 0


def test_too_few_held_out_images():
    with pytest.raises(
        InputError, match=r"120 training and 48 held-out images\. Expected: at least 10 and 49, .* 0\.02 of"
    ):
        fitted(TRAIN, HELD_OUT[:48])
    with pytest.raises(InputError, match=r"9 training and 100 held-out images"):
        fitted(TRAIN[:9], HELD_OUT)


def test_held_out_images_without_structure():
    with pytest.raises(InputError, match="30 of 100 held-out images without structure"):
        fitted(TRAIN, np.concatenate([np.zeros((30, 64, 64), np.uint8), HELD_OUT[:70]]))


def test_training_images_among_the_held_out_ones_are_noticed():
    """They would set a threshold that nothing falls below."""
    with pytest.raises(InputError, match=r"catches \d+ of 300 planted ones.*at least 0\.99.*both parts"):
        fitted(TRAIN, np.concatenate([planted(TRAIN, "extreme", 40)[0], HELD_OUT[:20]]))


def test_one_training_image_is_too_few():
    with pytest.raises(InputError, match=r"1 training images\. Expected: at least 2"):
        learn(TRAIN[:1], length=8, seed=0)


# Repeats


def test_the_first_of_a_group_stays(search):
    images = FRESH[[0, 1, 0, 2, 1, 0, 3]]
    vectors = search.fingerprint.vectors(images)
    limit = search.closest
    standing = np.ones(7, bool)
    assert repeats(vectors, standing, limit).tolist() == [-1, -1, 0, -1, 1, 0, -1]
    standing[0] = False  # refused for another reason: it can't push out the next
    assert repeats(vectors, standing, limit).tolist() == [-1, -1, -1, -1, 1, 2, -1]
    assert repeats(vectors[:0], standing[:0], limit).tolist() == []


@pytest.mark.parametrize("block", [1, 3, 64, 1000])
def test_repeats_are_those_of_a_plain_loop_whatever_the_block(monkeypatch, block):
    rng = np.random.default_rng(0)
    groups = rng.standard_normal((40, 16))[rng.integers(0, 40, 300)]  # groups of images around a limit of 0.1
    vectors = (groups + 0.07 * rng.standard_normal(groups.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    standing, limit = rng.random(300) < 0.8, 0.1
    expected: list[int] = []
    for row, vector in enumerate(vectors.astype(np.float64)):
        near = [
            n for n in range(row) if standing[n] and expected[n] < 0 and np.linalg.norm(vectors[n] - vector) < limit
        ]
        expected.append(near[0] if standing[row] and near else -1)
    assert 20 < sum(row >= 0 for row in expected) < 200
    monkeypatch.setattr(copies, "BLOCK", block)
    assert repeats(vectors, standing, limit).tolist() == expected


def test_a_collapsed_generator(search):
    rng = generator(0, "collapse")
    images = np.stack([plant(FRESH[0], "noise", rng) for _ in range(8)])
    found = repeats(search.fingerprint.vectors(images), np.ones(8, bool), search.closest)
    assert found.tolist() == [-1] + [0] * 7


# What is planted


def test_planted_changes_stay_within_their_bounds():
    dot = np.zeros((100, 100), np.uint8)
    dot[49:52, 49:52] = 255
    rng = generator(0, "dot")
    moves = []
    for _ in range(50):
        where = np.argwhere(plant(dot, "shift", rng) > 100).mean(axis=0)
        moves.append(np.abs(where - 50).max())
    assert 0.7 * 100 * SHIFT < max(moves) <= 100 * SHIFT + 0.7
    grey = np.full((64, 64), 128, np.uint8)
    noisy = plant(grey, "noise", rng).astype(float)
    assert noisy.std() == pytest.approx(255 * NOISE, rel=0.1)
    assert np.abs(plant(grey, "exposure", rng).astype(float) - 128).max() <= 14
    np.testing.assert_array_equal(dot[49:52, 49:52], 255)  # the image given stays as it is


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_image_and_repeats_with_its_generator(kind):
    first, again, other = (plant(TRAIN[0], kind, generator(0, key)) for key in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert first.shape == TRAIN[0].shape
    assert first.dtype == np.uint8
    assert np.abs(first.astype(int) - TRAIN[0]).max() > 2
    if kind != "jpeg":
        assert (first != other).any()


@pytest.mark.parametrize("size", [32, 64, 96, 128, 200, 256])
def test_images_of_any_size_are_compared_at_64_pixels(size):
    image = pictures(1, "large", 256)[0]
    smaller = reduced(image)
    assert smaller.shape == (SIZE, SIZE)
    from PIL import Image

    given = np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))
    assert reduced(given).shape == (SIZE, SIZE)
    if size >= SIZE:
        assert np.abs(reduced(given).astype(int) - smaller).mean() < 6

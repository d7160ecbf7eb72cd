"""Does an image show what was planned: thresholds against plain counts, and every way to disagree."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from raymedlt.errors import InputError
from raymedlt.seeds import generator
from raymedlt.synthesis.agreement import LEAST_RECALL, Agreement, Evidence, drawn_prior, tune

CLASSES = ("Effusion", "Mass", "Hernia")
SETTINGS = {"precision": 0.9, "prior": 0.5, "missed": 0.1, "stray": 0.05, "least": 5}


def validation(count: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that follow the labels; Hernia is rare."""
    rng = generator(0, "validation")
    labels = rng.random((count, 3)) < [0.4, 0.1, 0.02]
    logits = rng.normal(0, 1, (count, 3)) + np.where(labels, 1.5, -1.5) - [0, 0.5, 2]
    return 1 / (1 + np.exp(-logits)), labels.astype(np.float32), np.ones((count, 3), bool)


TABLES = validation()
TUNED = tune(*TABLES, CLASSES, **SETTINGS)


def precision_at(threshold: float, number: int, prior: float) -> float:
    """Counted one by one, in the careful way that `tune` promises."""
    hit = own = false = others = 0
    for probability, label in zip(TABLES[0][:, number], TABLES[1][:, number], strict=True):
        if label:
            own, hit = own + 1, hit + (probability >= threshold)
        else:
            others, false = others + 1, false + (probability >= threshold)
    true, wrong = hit / (own + 1), (false + 1) / (others + 2)
    return prior * true / (prior * true + (1 - prior) * wrong)


# Thresholds


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("prior", [0.3, 0.5, 0.8])
def test_shown_is_the_lowest_threshold_with_the_wanted_precision(number, prior):
    own = tune(*TABLES, CLASSES, **{**SETTINGS, "prior": prior})
    threshold = own.shown_C[number]
    assert own.precision_C[number] == pytest.approx(precision_at(threshold, number, prior))
    assert own.precision_C[number] >= 0.9
    lower = TABLES[0][:, number][TABLES[0][:, number] < threshold]
    assert all(precision_at(value, number, prior) < 0.9 for value in np.sort(lower)[-40:])
    shows = TABLES[1][:, number] > 0
    assert own.recall_C[number] == pytest.approx((TABLES[0][shows, number] >= threshold).mean())


def test_how_rare_a_class_is_does_not_count():
    """Half of the positives left out: the same threshold, but for the care that fewer images ask for."""
    keep = (TABLES[1][:, 0] == 0) | (np.arange(600) % 4 == 0)
    rarer = tune(*(table[keep] for table in TABLES), CLASSES, **SETTINGS)
    assert rarer.shown_C[0] == pytest.approx(TUNED.shown_C[0], abs=0.08)


def test_out_of_reach_the_most_precise_threshold_is_taken_and_told():
    noise = generator(0, "noise").random((600, 3))
    own = tune(noise, *TABLES[1:], CLASSES, **SETTINGS)
    assert (own.precision_C < 0.9).all()
    assert (own.recall_C >= LEAST_RECALL).all()


def test_companions_are_held_to_less():
    for number in range(3):
        shows = TABLES[1][:, number] > 0
        assert TUNED.companion_C[number] <= TUNED.shown_C[number]
        assert (TABLES[0][shows, number] < TUNED.companion_C[number]).mean() <= 0.1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.2])
def test_stray_refuses_the_wanted_share_of_real_images(share):
    own = tune(*TABLES, CLASSES, **{**SETTINGS, "stray": share})
    over = ((TABLES[0] > own.stray_C) & (TABLES[1] == 0)).any(axis=1).mean()
    assert over <= share
    assert over > share - 0.01 or share == 0


def test_unknown_labels_say_nothing():
    known = np.ones((600, 3), bool)
    known[::2, 0] = False
    wrong = TABLES[1].copy()
    wrong[::2, 0] = 1 - wrong[::2, 0]
    own = tune(TABLES[0], wrong, known, CLASSES, **SETTINGS)
    same = tune(TABLES[0][1::2], TABLES[1][1::2], known[1::2], CLASSES, **SETTINGS)
    assert own.shown_C[0] == same.shown_C[0]
    assert own.shown_C[0] != tune(TABLES[0], wrong, np.ones_like(known), CLASSES, **SETTINGS).shown_C[0]


def test_too_few_positives_give_no_threshold():
    labels = TABLES[1].copy()
    labels[np.flatnonzero(labels[:, 2])[4:], 2] = 0
    own = tune(TABLES[0], labels, TABLES[2], CLASSES, **SETTINGS)
    assert math.isnan(own.shown_C[2])
    assert own.reasons(np.array([[0.0, 0.0, 1.0]]), [["Hernia"]], [None]) == [["too few validation images of: Hernia"]]
    companion = own.reasons(np.array([[1.0, 0.0, 1.0]]), [["Effusion", "Hernia"]], ["Effusion"])
    assert companion == [["too few validation images of: Hernia"]]  # what can't be checked isn't accepted


def test_tables_must_fit():
    with pytest.raises(InputError, match=r"probabilities \(600, 3\).*of 2 classes"):
        tune(*TABLES, CLASSES[:2], **SETTINGS)


# Reasons

OWN = Agreement(
    CLASSES, shown_C=np.array([0.6, 0.5, 0.4]), companion_C=np.array([0.3, 0.2, 0.1]),
    stray_C=np.array([0.8, 0.7, 0.5]), precision_C=np.full(3, 0.9), recall_C=np.full(3, 0.5),
)  # fmt: skip


@pytest.mark.parametrize(
    ("row", "planned", "target", "reasons"),
    [
        ([0.6, 0.0, 0.0], ["Effusion"], None, []),
        ([0.59, 0.0, 0.0], ["Effusion"], None, ["not shown: Effusion"]),
        ([0.7, 0.3, 0.0], ["Effusion", "Mass"], None, ["not shown: Mass"]),
        ([0.7, 0.3, 0.0], ["Effusion", "Mass"], "Effusion", []),
        ([0.7, 0.3, 0.0], ["Effusion", "Mass"], "Mass", ["not shown: Mass"]),
        ([0.7, 0.1, 0.0], ["Effusion", "Mass"], "Effusion", ["not shown: Mass"]),
        ([0.7, 0.0, 0.6], ["Effusion"], None, ["shows more: Hernia"]),
        ([0.1, 0.0, 0.6], ["Effusion"], None, ["not shown: Effusion", "shows more: Hernia"]),
        ([0.9, 0.0, 0.6], ["Effusion"], "Hernia", []),
        ([0.9, 0.0, 0.0], [], None, ["no planned class", "shows more: Effusion"]),
        ([0.9, 0.0, 0.0], ["Effusion", "Fracture"], None, ["class unknown to the gate: Fracture"]),
        ([0.7, 0.0, 0.0], ["Effusion", "Effusion"], None, []),
        ([math.nan, 0.0, 0.0], ["Effusion"], None, ["not shown: Effusion"]),
        ([0.7, math.nan, 0.0], ["Effusion"], None, ["shows more: Mass"]),
    ],
)
def test_reasons(row, planned, target, reasons):
    assert OWN.reasons(np.array([row]), [planned], [target]) == [reasons]


def test_one_label_set_and_target_per_image():
    with pytest.raises(InputError, match="1 label sets and 2 targets for 2 images"):
        OWN.reasons(np.zeros((2, 3)), [["Mass"]], [None, None])


def test_margins():
    shown, stray = OWN.margins(np.array([[0.7, 0.4, 0.1], [0.0, 0.0, 0.0], [1, 1, 1]]), [CLASSES[:2], [], CLASSES])
    np.testing.assert_allclose(shown, [-0.1, np.nan, 0.4])
    np.testing.assert_allclose(stray, [-0.4, -0.5, np.nan])


def test_stored_and_read_back():
    labels = TABLES[1].copy()
    labels[:, 2] = 0
    own = tune(TABLES[0], labels, TABLES[2], CLASSES, **SETTINGS)
    again = Agreement.from_json(json.loads(json.dumps(own.to_json(), allow_nan=False)))
    assert again.classes == CLASSES
    for name in ("shown_C", "companion_C", "stray_C", "precision_C", "recall_C"):
        np.testing.assert_array_equal(getattr(again, name), getattr(own, name))


# Once images are drawn


def drawn_for(number: int, share: float, count: int = 400) -> np.ndarray:
    """Probabilities of a class among images of which a share shows it, as the classifier would see real ones."""
    own, others = Evidence(*evidence()).of(number)
    rng = generator(1, "drawn", number)
    good = round(share * count)
    return np.concatenate([rng.choice(own, good), rng.choice(others, count - good)])


def evidence() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return TABLES[0], TABLES[1] > 0, TABLES[2]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_the_share_of_drawn_images_is_found_again(share):
    own, others = Evidence(*evidence()).of(0)
    assert drawn_prior(drawn_for(0, share), own, others) == pytest.approx(share, abs=0.08)


def test_a_generator_that_never_draws_it_has_the_least_share():
    own, others = Evidence(*evidence()).of(0)
    assert drawn_prior(np.zeros(99), own, others) == pytest.approx(0.01)
    assert drawn_prior(np.ones(99), own, others) == pytest.approx(0.99)
    assert drawn_prior(own, own, own) == pytest.approx(1 / (len(own) + 1))  # a classifier that can't tell


def test_thresholds_rise_where_little_is_shown():
    drawn = {"Effusion": drawn_for(0, 0.1), "Mass": drawn_for(1, 0.9)}
    own, priors = TUNED.stricter(Evidence(*evidence()), drawn, precision=0.9, prior=0.5)
    assert priors["Effusion"] == pytest.approx(0.1, abs=0.08)
    assert priors["Mass"] == 0.5  # never above the one of the settings
    assert own.shown_C[0] > TUNED.shown_C[0]
    assert own.shown_C[1] == TUNED.shown_C[1]
    assert own.shown_C[2] == TUNED.shown_C[2]  # nothing was drawn for it
    assert own.precision_C[0] == pytest.approx(precision_at(own.shown_C[0], 0, priors["Effusion"]))
    assert (own.stray_C == TUNED.stray_C).all()

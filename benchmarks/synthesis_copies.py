"""Memorisation: how many planted copies of training images the gate catches, and how many real images it refuses.

    python benchmarks/synthesis_copies.py                      # phantom and real images; minutes on two cores
    python benchmarks/synthesis_copies.py --others             # and two plain descriptors at the same false refusals
    python benchmarks/synthesis_copies.py --scale 200000       # and the search among so many training images

Five folds by sha256(patient_id) modulo 5: three are training images, one sets the threshold, one holds the real images
that must not be refused; copies are planted from the training images (see planted.py). Phantom: a cohort of --phantom
images. Real: ../shared/data/nih1993_64. Each share comes with Wilson's 95 % interval. "beyond" are changes that the
search does not promise to find: where it ends. Fails if a promised kind is caught below 99 % or more than 5 % of the
real images are refused.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import report
from scipy.ndimage import zoom

from raymedlt.images.config import ImageLabelsConfig
from raymedlt.images.labels import read_labels
from raymedlt.images.phantom import cohort, draw
from raymedlt.images.readers import read_square
from raymedlt.images.splits import folds
from raymedlt.intervals import wilson
from raymedlt.seeds import generator
from raymedlt.storage import Storage
from raymedlt.synthesis.copies import build_index, cell_centres, fit_copies
from raymedlt.synthesis.features import lite0_features
from raymedlt.synthesis.fingerprint import band_pass
from raymedlt.synthesis.planted import KINDS, degraded, moved, plant

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "nih1993_64"
FOLDS, SIZE, FALSE_REFUSALS, LENGTH = 5, 64, 0.02, 128
Bytes = npt.NDArray[np.uint8]
Change = Callable[[Bytes, Bytes, np.random.Generator], Bytes]
"""A copy of the first image; the second is another training image."""


def promised() -> dict[str, Change]:
    """The kinds of planted.py."""
    return {kind: lambda image, _, rng, kind=kind: plant(image, kind, rng) for kind in KINDS}  # type: ignore[misc]


def beyond() -> dict[str, Change]:
    """Changes that go further, and copies of a part only."""

    def shift(share: float) -> Change:
        return lambda image, _, rng: moved(image, *(share * len(image) * rng.choice([-1.0, 1.0], 2)), 0.0)

    def turn(degrees: float) -> Change:
        return lambda image, _, rng: moved(image, 0.0, 0.0, degrees * float(rng.choice([-1.0, 1.0])))

    def enlarge(factor: float) -> Change:
        def change(image: Bytes, _: Bytes, __: np.random.Generator) -> Bytes:
            larger = zoom(image.astype(np.float32), factor, order=1)
            start = (len(larger) - len(image)) // 2
            return np.rint(larger[start : start + len(image), start : start + len(image)]).astype(np.uint8)

        return change

    def mixed(image: Bytes, other: Bytes, share: float) -> Bytes:
        return np.rint(share * image.astype(np.float32) + (1 - share) * other).astype(np.uint8)

    def part(image: Bytes, other: Bytes, _: np.random.Generator) -> Bytes:
        half = len(image) // 2
        return np.concatenate([image[:, :half], other[:, half:]], axis=1)

    return {
        "shift 6 % both ways": shift(0.06),
        "shift 8 % both ways": shift(0.08),
        "rotate 8 degrees": turn(8),
        "rotate 12 degrees": turn(12),
        "enlarge 5 %": enlarge(1.05),
        "enlarge 10 %": enlarge(1.1),
        "noise and JPEG twice": lambda image, _, rng: degraded(
            degraded(image, rng, exposure=True, noise=True, jpeg=True), rng, exposure=True, noise=True, jpeg=True
        ),
        "grey levels squared": lambda image, _, __: np.rint(image.astype(np.float32) ** 2 / 255).astype(np.uint8),
        "mixed with another image, 70 : 30": lambda image, other, _: mixed(image, other, 0.7),
        "left half, right half of another": part,
    }


def phantom_images(count: int) -> tuple[Bytes, list[str]]:
    """Drawn phantoms and their patients."""
    drawn = cohort(count, seed=0, test_images=0, test_positives=0, texts=False)
    ids = drawn.table["image_id"].to_pylist()
    pixels = [draw(drawn.findings(row), seed=0, image_id=name, size=SIZE) for row, name in enumerate(ids)]
    return np.stack(pixels), drawn.table["patient_id"].to_pylist()


def real_images() -> tuple[Bytes, list[str]]:
    """The real images and their patients."""
    table = read_labels(ImageLabelsConfig(path=str(DATA / "labels.csv"))).images.sort_by("image_id")
    storage = Storage.of(str(DATA / "images"))
    pixels = [read_square(storage, name, SIZE, "pad", 10**7) for name in table["path"].to_pylist()]
    return np.stack(pixels), table["patient_id"].to_pylist()


def parts(patients: list[str]) -> Iterator[tuple[npt.NDArray[np.int64], ...]]:
    """Rows of training, threshold and test images, for each fold."""
    fold_of = folds(patients, FOLDS)
    for fold in range(FOLDS):
        test, held_out = fold_of == fold, fold_of == (fold + 1) % FOLDS
        yield tuple(np.flatnonzero(rows) for rows in (~test & ~held_out, held_out, test))


class Tally:
    """Shares with intervals, by name."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {}

    def add(self, name: str, hits: npt.NDArray[np.bool_]) -> None:
        own = self.counts.setdefault(name, [0, 0])
        own[0] += int(hits.sum())
        own[1] += len(hits)

    def told(self) -> dict[str, Any]:
        return {
            name: {"share": round(hit / of, 4), "of": of, "interval": [round(end, 4) for end in wilson(hit, of)]}
            for name, (hit, of) in self.counts.items()
        }


def copies_of(train: Bytes, change: Change, name: str, count: int, fold: int) -> Bytes:
    """`count` changed copies of different training images."""
    rng = generator(fold, "benchmark", name)
    rows = rng.permutation(len(train))[: count + 1]
    return np.stack([change(train[row], train[rows[(n + 1)]], rng) for n, row in enumerate(rows[:count])])


def measured(pixels: Bytes, patients: list[str], planted: int, others: bool) -> dict[str, Any]:
    """Shares caught by kind, and of real images refused, over all folds."""
    caught, further, refused, margins = Tally(), Tally(), Tally(), []
    plain = {name: Tally() for name in PLAIN} if others else {}
    seconds = {"fit": 0.0, "search": 0.0}
    for fold, (train, held_out, test) in enumerate(parts(patients)):
        began = time.perf_counter()
        search, _ = fit_copies(
            pixels[train], pixels[held_out], false_refusals=FALSE_REFUSALS, least_caught=1e-9, length=LENGTH, seed=fold
        )
        seconds["fit"] += time.perf_counter() - began
        began = time.perf_counter()
        refused.add("real images of other patients", search.are_copies(search.nearest(pixels[test])))
        seconds["search"] += (time.perf_counter() - began) / len(pixels)
        planted_by_kind = {
            name: copies_of(pixels[train], change, name, planted, fold) for name, change in promised().items()
        }
        for name, copies in planted_by_kind.items():
            found = search.nearest(copies)
            caught.add(name, search.are_copies(found))
            margins.append(search.ratios(found) / search.threshold)
        for name, change in beyond().items():
            copies = copies_of(pixels[train], change, name, planted // 4, fold)
            further.add(name, search.are_copies(search.nearest(copies)))
        for name, tally in plain.items() if fold == 0 else ():
            against(PLAIN[name], tally, (pixels[train], pixels[held_out], pixels[test]), planted_by_kind)
        print(f"# fold {fold} done", file=sys.stderr)
    ratios = np.quantile(np.concatenate(margins), [0.5, 0.99, 0.999])
    return {
        "images": len(pixels),
        "patients": len(set(patients)),
        "refused": refused.told(),
        "caught": caught.told(),
        "beyond": further.told(),
        "copies' ratio over the threshold, quantiles .5 .99 .999": [round(float(value), 3) for value in ratios],
        **({"plain descriptors, first fold": {name: tally.told() for name, tally in plain.items()}} if plain else {}),
        "milliseconds": {
            "fit, all folds": round(1000 * seconds["fit"]),
            "search, an image": round(1000 * seconds["search"], 2),
        },
    }


# Plain descriptors, for comparison: the nearest training image by angle, the same false refusals.


def correlation(images: Bytes) -> npt.NDArray[np.float32]:
    """Band-passed pixels."""
    return np.stack([band_pass(image)[6:-6:2, 6:-6:2].ravel() for image in images])


PLAIN: dict[str, Callable[[Bytes], npt.NDArray[np.float32]]] = {
    "band-passed pixels": correlation,
    "frozen EfficientNet-Lite0": lite0_features,
}


def against(
    describe: Callable[[Bytes], npt.NDArray[np.float32]],
    tally: Tally,
    sets: tuple[Bytes, Bytes, Bytes],
    planted_by_kind: dict[str, Bytes],
) -> None:
    """Add what a descriptor catches and refuses."""
    mean = describe(sets[0]).mean(axis=0)

    def unit(images: Bytes) -> npt.NDArray[np.float32]:
        x = describe(images) - mean
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))

    train = unit(sets[0])
    held_out = np.sort((unit(sets[1]) @ train.T).max(axis=1))[::-1]
    limit = held_out[math.floor(FALSE_REFUSALS * (len(held_out) + 1)) - 1]
    tally.add("refused", (unit(sets[2]) @ train.T).max(axis=1) > limit)
    for name, copies in planted_by_kind.items():
        tally.add(name, (unit(copies) @ train.T).max(axis=1) > limit)


# Many training images


def at_scale(pixels: Bytes, count: int, planted: int) -> dict[str, Any]:
    """The search with `count` training images: these, and made-up fingerprints with the same covariance."""
    search, _ = fit_copies(
        pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :], false_refusals=FALSE_REFUSALS, least_caught=1e-9,
        length=LENGTH, seed=0,
    )  # fmt: skip
    own = search.vectors_ND
    rng = generator(0, "benchmark", "scale")
    weights = rng.normal(0, 1, (count - len(own), len(own))).astype(np.float32)
    made = weights @ (own - own.mean(axis=0)) / math.sqrt(len(own)) + own.mean(axis=0)
    vectors = np.concatenate([own, made / np.linalg.norm(made, axis=1, keepdims=True)]).astype(np.float32)
    copies = copies_of(pixels[: len(own)], promised()["all"], "all", planted, 0)
    began = time.perf_counter()
    centres = cell_centres(vectors, 0)
    index = build_index(vectors, centres)
    built = time.perf_counter() - began
    large = replace(search, vectors_ND=vectors, centres_KD=centres, index=index)
    exact = replace(large, centres_KD=centres[:0], index=build_index(vectors, centres[:0]))
    began = time.perf_counter()
    found = large.nearest(copies)
    in_cells = time.perf_counter() - began
    began = time.perf_counter()
    few = exact.nearest(copies[:10])
    one_by_one = time.perf_counter() - began
    return {
        "training images": count,
        "cells": len(centres),
        "megabytes": round(vectors.nbytes / 1e6, 1),
        "seconds to build": round(built, 1),
        "milliseconds an image, in cells": round(1000 * in_cells / len(copies), 2),
        "milliseconds an image, exact": round(1000 * one_by_one / 10, 2),
        "caught": {"share": float(large.are_copies(found).mean()), "of": len(copies)},
        "same neighbour as exact": f"{int((found.rows_B[:10] == few.rows_B).sum())} of 10",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", type=int, default=4000, help="phantom images; 0: none")
    parser.add_argument("--planted", type=int, default=100, help="copies of each kind, per fold")
    parser.add_argument("--others", action="store_true", help="also plain descriptors")
    parser.add_argument("--scale", type=int, default=0, help="also a search among so many training images")
    arguments = parser.parse_args()
    sets: dict[str, tuple[Bytes, list[str]]] = {}
    if arguments.phantom:
        sets["phantom"] = phantom_images(arguments.phantom)
    if DATA.is_dir():
        sets["real"] = real_images()
    found: dict[str, Any] = {
        name: measured(pixels, patients, arguments.planted, arguments.others)
        for name, (pixels, patients) in sets.items()
    }
    missed = [
        f"{name}: {kind}"
        for name, own in found.items()
        for kind, share in [*own["caught"].items(), *own["refused"].items()]
        if (share["share"] < 0.99 if kind in own["caught"] else share["share"] > 0.05)
    ]
    if arguments.scale:
        found["scale"] = at_scale(next(iter(sets.values()))[0], arguments.scale, arguments.planted)
    report("synthesis_copies", {"false refusals asked for": FALSE_REFUSALS, **found, "bars missed": missed})
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()

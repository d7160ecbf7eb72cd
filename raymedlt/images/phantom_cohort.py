"""A cohort of the phantom: who has what, drawn from a real label table's sets of findings. It holds no pixels.

Training and validation follow the table's frequencies and co-occurrences, long tail and all. So does the test part at
first; then images of the rare classes are added until each has enough positives, so that the prevalence of the tail is
higher in the test part than in the table. These rows are marked (`topped_up`): leave them out where prevalence matters.

A patient has one to four images of one chest. The next image shows the same findings (their severity drifts) three
times in four, else a freshly drawn set, so that frequencies stay those of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymedlt.errors import ConfigError
from raymedlt.images.phantom_labels import BEDRIDDEN, FINDINGS, Finding, LabelSets, Prevalence, Side, label_sets
from raymedlt.images.phantom_nuisance import view_of
from raymedlt.images.phantom_text import text
from raymedlt.schema import IMAGE_LABELS, TEST, TRAIN, VALIDATION
from raymedlt.seeds import generator, keyed_seed

FINDING_TYPE = pa.struct([("name", pa.string()), ("side", pa.string()), ("severity", pa.float64())])
_TEXTS = pa.list_(pa.string())

# The columns of a cohort: those of IMAGE_LABELS and what only a phantom knows.
PHANTOM_LABELS = pa.schema(
    [
        *IMAGE_LABELS,
        ("findings", pa.list_(FINDING_TYPE)),
        ("topped_up", pa.bool_()),  # a test image that was added because it shows a rare class
        ("text_findings", pa.string()),
        ("text_impression", pa.string()),
        ("complete_findings", pa.string()),  # the text without omissions
        ("omitted", _TEXTS),  # findings, present or absent, that the text does not speak of
    ]
)

_MOST_IMAGES = 4
_MORE_IMAGES = 0.35  # probability of each further image of a patient
_SAME_FINDINGS = 0.75
_VALIDATION = 0.1


@dataclass(frozen=True, slots=True)
class PhantomCohort:
    """Who has what."""

    table: pa.Table
    """One row per image, columns PHANTOM_LABELS."""
    classes: tuple[str, ...]
    """Names, the commonest first."""
    source: LabelSets
    """What the label sets were drawn from."""

    def findings(self, row: int) -> list[Finding]:
        """What the image in this row shows, for `draw`."""
        return findings_of(self.table.column("findings")[row].as_py())


def findings_of(structs: list[dict[str, object]]) -> list[Finding]:
    """A cell of the column `findings` as `draw` takes it."""
    return [Finding(str(each["name"]), _side(str(each["side"])), float(str(each["severity"]))) for each in structs]


def _side(text_: str) -> Side:
    sides: dict[str, Side] = {"left": "left", "right": "right", "both": "both"}
    return sides.get(text_, "")


def cohort(
    images: int,
    *,
    seed: int,
    prevalence: Prevalence = "padchest",
    classes: int = 20,
    test_images: int = 1000,
    test_positives: int = 100,
    pick: Literal["commonest", "spread"] = "commonest",
    texts: bool = True,
) -> PhantomCohort:
    """A cohort of `images` training and validation images and at least `test_images` test images.

    Args:
        images: training and validation images; a tenth of their patients validate.
        seed: the same seed gives the same cohort, and a larger `images` begins with the smaller one's rows.
        prevalence: the label table whose frequencies and co-occurrences it follows.
        classes: how many of the drawable classes, see `label_sets`.
        test_images: test images with the table's frequencies; then the tail is topped up.
        test_positives: test images with each class, at least.
        pick: which classes, see `label_sets`.
        texts: also write the four text columns (else empty): they take most of the time.

    Raises:
        ConfigError: `images` or `classes` below 1.
        MissingDependencyError: the label table isn't there.

    Complexity: O(rows) time and memory: without texts about 160 bytes and 10 microseconds a row, so that a million
        rows take some seconds; with texts 2 kB and 0.1 ms a row (or call `text` where one is needed).
    """
    if images < 1 or classes < 1:
        raise ConfigError(f"a cohort of {images} images with {classes} classes", "at least one of each")
    source = label_sets(prevalence, classes, pick)
    parts = [_part(source, seed, "p", images), _part(source, seed, "t", test_images)]
    parts.append(_top_up(source, seed, parts[1], test_positives))
    rows = _Rows(
        np.concatenate([part.sets for part in parts]),
        np.concatenate([part.drift for part in parts]),
        [name for part in parts for name in part.patients],
        [name for part in parts for name in part.images],
    )
    return PhantomCohort(
        _table(source, seed, rows, len(parts[0].images), len(parts[2].images), texts), source.names, source
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    sets: NDArray[np.int64]  # [N] rows of LabelSets.sets
    drift: NDArray[np.int64]  # [N] which image of the patient
    patients: list[str]
    images: list[str]


def _part(source: LabelSets, seed: int, letter: str, count: int) -> _Rows:
    """`count` images of patients named by `letter`. Each quantity has its own stream: a longer part begins alike."""
    more = generator(seed, "phantom", "cohort", letter, "images").random((count, _MOST_IMAGES - 1)) < _MORE_IMAGES
    lengths = 1 + np.cumprod(more, axis=1).sum(1)
    patient = np.repeat(np.arange(count), lengths)[:count]
    first = np.concatenate([[True], patient[1:] != patient[:-1]]) if count else np.zeros(0, np.bool_)
    starts = np.flatnonzero(first)
    number = np.arange(count) - starts[patient] if count else np.zeros(0, np.int64)
    fresh = generator(seed, "phantom", "cohort", letter, "same").random(count) >= _SAME_FINDINGS
    u = generator(seed, "phantom", "cohort", letter, "set").random(count)
    drawn = np.searchsorted(np.cumsum(source.counts) / source.counts.sum(), u, side="right")
    drawn = np.minimum(drawn, len(source.counts) - 1)
    origin = np.maximum.accumulate(np.where(first | fresh, np.arange(count), 0)) if count else np.zeros(0, np.int64)
    patients = [f"{letter}{value:07d}" for value in patient]
    images = [f"{name}_{value}" for name, value in zip(patients, number, strict=True)]
    return _Rows(drawn[origin], number, patients, images)


def _top_up(source: LabelSets, seed: int, test: _Rows, wanted: int) -> _Rows:
    """More test images, one per patient, drawn from the sets that show a class which has too few; rarest first."""
    have = source.sets[test.sets].sum(0)
    added: list[NDArray[np.int64]] = []
    for c in range(len(source.names) - 1, -1, -1):
        missing = int(wanted - have[c])
        if missing <= 0:
            continue
        among = np.flatnonzero(source.sets[:, c])
        share = np.cumsum(source.counts[among]) / source.counts[among].sum()
        u = generator(seed, "phantom", "cohort", "top", source.names[c]).random(missing)
        more = among[np.minimum(np.searchsorted(share, u, side="right"), len(among) - 1)]
        have = have + source.sets[more].sum(0)
        added.append(more)
    sets = np.concatenate(added) if added else np.zeros(0, np.int64)
    patients = [f"u{i:07d}" for i in range(len(sets))]
    return _Rows(sets, np.zeros(len(sets), np.int64), patients, [f"{name}_0" for name in patients])


def _table(source: LabelSets, seed: int, rows: _Rows, train: int, topped: int, texts: bool) -> pa.Table:
    count = len(rows.images)
    members = source.sets[rows.sets]
    row_of, class_of = np.nonzero(members)
    offsets = pa.array(np.concatenate([[0], np.cumsum(members.sum(1))]).astype(np.int32))
    names = pa.array(source.names).take(pa.array(class_of))
    sides, severities = _sides_and_severities(source, seed, rows, row_of, class_of)
    flat = pa.StructArray.from_arrays([names, pa.array(sides), pa.array(severities)], fields=list(FINDING_TYPE))
    findings = pa.ListArray.from_arrays(offsets, flat)
    lying = np.asarray([name in BEDRIDDEN for name in source.names])
    bedridden: list[bool] = ((members & lying).sum(axis=1) > 0).tolist()
    splits = [_split(seed, patient) for patient in rows.patients[:train]] + [TEST] * (count - train)
    empty = pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string()))
    columns = {
        "image_id": pa.array(rows.images, pa.string()),
        "study_id": pa.array(rows.images, pa.string()),
        "patient_id": pa.array(rows.patients, pa.string()),
        "split": pa.array(splits, pa.string()),
        "view": pa.array([view_of(seed, *pair) for pair in zip(rows.images, bedridden, strict=True)], pa.string()),
        "source": pa.array(["phantom"] * count, pa.string()),
        "path": pa.array([""] * count, pa.string()),
        "labels": pa.ListArray.from_arrays(offsets, names),
        "uncertain": empty,
        "unknown": empty,
        "synthetic": pa.array(np.zeros(count, np.bool_)),
        "findings": findings,
        "topped_up": pa.array(np.arange(count) >= count - topped),
    }
    written = []
    if texts:
        cells = zip(findings.to_pylist(), rows.images, strict=True)
        written = [text(findings_of(cell), seed=seed, image_id=image) for cell, image in cells]
    columns["text_findings"] = pa.array([each.findings for each in written] or [""] * count, pa.string())
    columns["text_impression"] = pa.array([each.impression for each in written] or [""] * count, pa.string())
    columns["complete_findings"] = pa.array([each.complete_findings for each in written] or [""] * count, pa.string())
    columns["omitted"] = pa.array([list(each.omitted) for each in written] or [[]] * count, _TEXTS)
    return pa.table([columns[name] for name in PHANTOM_LABELS.names], schema=PHANTOM_LABELS)


def _split(seed: int, patient: str) -> str:
    return VALIDATION if keyed_seed(seed, "phantom", patient, "split") / 2.0**63 < _VALIDATION else TRAIN


def _sides_and_severities(
    source: LabelSets, seed: int, rows: _Rows, row_of: NDArray[np.int64], class_of: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.float64]]:
    """Of every (image, finding): fixed by patient and finding, but for a drift of the severity from image to image.

    Severity is Beta(1.7, 2.1): mostly mild to moderate. It is drawn through the quantile function, from the same key
    for all images of a patient, and moved by up to a quarter from the second image on.
    """
    salt = np.uint64(keyed_seed(seed, "phantom", "cohort", "severity"))
    order = {name: i for i, name in enumerate(dict.fromkeys(rows.patients))}
    keys = np.asarray([keyed_seed(seed, "phantom", name) for name in order], np.uint64)
    patient = np.asarray([order[name] for name in rows.patients], np.int64)[row_of]
    names = np.asarray([keyed_seed(0, name) for name in source.names], np.uint64)
    base = _mix(_mix(keys[patient] ^ salt) ^ names[class_of])
    side_u, level_u = _uniform(_mix(base + np.uint64(1))), _uniform(_mix(base + np.uint64(2)))
    drift_u = _uniform(_mix(base + np.uint64(3) + rows.drift[row_of].astype(np.uint64)))
    drift = np.where(rows.drift[row_of] > 0, 0.75 + 0.5 * drift_u, 1.0)
    severity = np.clip(np.interp(level_u, *_severity_quantiles()) * drift, 0.05, 1.0)
    weights = np.asarray([FINDINGS[name].side_weights for name in source.names], np.float64)
    sided = weights.sum(1) > 0
    shares = np.cumsum(weights, axis=1) / np.maximum(weights.sum(1, keepdims=True), 1)
    index = (side_u[:, None] >= shares[class_of]).sum(1).clip(0, 2)
    index = np.where(sided[class_of], index, 3)
    sides = np.asarray(["left", "right", "both", ""], dtype=object)[index]
    return list(sides), np.round(severity, 4)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: neighbouring keys give unrelated numbers."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _uniform(value: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (value >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _severity_quantiles() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Beta(1.7, 2.1): (cumulative probabilities, values) at 201 points, by the trapezoid rule."""
    x = np.linspace(0.0, 1.0, 201)
    density = x**0.7 * (1 - x) ** 1.1
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return total / total[-1], x

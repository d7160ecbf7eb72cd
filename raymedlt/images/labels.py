"""Label tables of image data sets as one schema: who has what, and which rows can't be used.

What the cells of each format mean is in `label_formats`; this module knows the columns and makes the tables. The policy
for uncertain labels is applied by `positives`, not when a table is read.

Shape suffixes: N images, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymedlt.errors import ConfigError, InputError, names_to_show
from raymedlt.images import label_formats as formats
from raymedlt.images.label_files import Cells, column_names, locate, read_cells
from raymedlt.images.label_formats import MISSING, Parsed
from raymedlt.schema import IMAGE_LABELS, REJECTED, TEST, TRAIN, VALIDATION

OURS = ("image", "patient_id", "study_id", "split", "view", "source", "labels")
"""Keys of `labels.columns`."""

_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {  # ours -> theirs, the first that is there
    "nih14": {
        "image": ("Image Index",), "patient_id": ("Patient ID",), "view": ("View Position",),
        "labels": ("Finding Labels",),
    },
    "padchest": {
        "image": ("ImageID",), "patient_id": ("PatientID",), "study_id": ("StudyID",), "view": ("Projection",),
        "labels": ("Labels",),
    },
    "chexpert": {"image": ("Path",)},
    "mimic": {
        "image": ("dicom_id",), "patient_id": ("subject_id",), "study_id": ("study_id",), "split": ("split",),
        "view": ("ViewPosition",),
    },
    "cxr_lt": {
        "image": ("dicom_id",), "patient_id": ("subject_id",), "study_id": ("study_id",), "split": ("split",),
        "view": ("ViewPosition",),
    },
    "csv": {
        "image": ("image", "image_id", "path"), "patient_id": ("patient_id",), "study_id": ("study_id",),
        "split": ("split",), "view": ("view",), "source": ("source",), "labels": ("labels", "finding_labels"),
    },
}  # fmt: skip
_NEEDED: dict[str, tuple[str, ...]] = {
    "nih14": ("image", "patient_id", "labels"),
    "padchest": ("image", "patient_id", "labels"),
    "chexpert": ("image",),
    "mimic": ("image", "patient_id", "study_id"),
    "cxr_lt": ("image", "patient_id", "study_id"),
    "csv": ("image", "patient_id"),
}
_WHY = {
    "image": "the image file, relative to images.path",
    "patient_id": "splits are made by patient, so that nobody is both trained on and tested on",
    "study_id": "a part of the images' paths",
    "labels": "what the image shows",
}
_FIXES = {
    "mimic": "join mimic-cxr-2.0.0-chexpert.csv with mimic-cxr-2.0.0-metadata.csv on subject_id and study_id",
}
_ONE_HOT = ("chexpert", "mimic", "cxr_lt")
_FRONTAL, _PROJECTION = "Frontal/Lateral", "AP/PA"  # CheXpert's
_PATHS = ("fpath", "path")  # CXR-LT's
_NO_CLASSES = frozenset({*_PATHS, "dicom_id", "subject_id", "study_id", "split", "ViewPosition"})
_CHEXPERT_PATH = re.compile(r"(?:^|/)(patient\d+)/(study\d+)/")
_SPLITS = {
    "": "", "train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST,
    "validation": VALIDATION, "validate": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION,
}  # fmt: skip


class LabelSource(Protocol):
    """What `read_labels` reads of a job's section `labels`."""

    @property
    def path(self) -> str | None: ...

    @property
    def format(self) -> str: ...

    @property
    def columns(self) -> Mapping[str, str]: ...

    @property
    def separator(self) -> str: ...

    @property
    def classes(self) -> Sequence[str] | None: ...


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A label table that was read. Rows of the file = rows of `images` + rows of `rejected`."""

    images: pa.Table
    """`schema.IMAGE_LABELS`, in the file's order; split "" where the table has none, source "" where it names none."""
    rejected: pa.Table
    """`schema.REJECTED`, in the file's order; row ids are "<file>:<row>", rows counted from 1 below the header."""
    classes: tuple[str, ...]
    """What the table knows, in the order that `label_formats` gives; with `labels.classes` these, in their order."""
    format: str
    """As in the configuration, never "auto"."""


def read_labels(config: LabelSource) -> LabelTable:
    """Read the label table at `config.path`.

    `config.columns` (our name -> the table's) goes before each format's own columns; "" says that the table has none:
    {"labels": ""} makes the one-hot columns count where a csv has both. CheXpert tables give no split: one file is all
    train or all validation, and there is no public test file; name a split column where there is one.

    Memory: O(rows) on the caller, about 1 kB each.

    Raises:
        InputError: no file, a damaged one, columns that are missing.
        ConfigError: unusable `columns`, or `classes` that the table doesn't have.
    """
    if config.path is None:
        raise ConfigError("labels.path is not given", "the label table of the images", "give --labels.path")
    storage, name = locate(config.path)
    names = column_names(storage, name)
    form = _detect(names) if config.format == "auto" else config.format
    columns = _columns(form, names, config.columns, name)
    wanted = _wanted(form, names, columns)
    cells = read_cells(storage, name, wanted)
    parsed = _parse(form, cells, columns, config, name)
    return _tables(form, cells, columns, parsed, name)


# Format and columns


def _detect(names: Sequence[str]) -> str:
    """The format whose columns these are; csv for any other."""
    found = set(names)
    if {"Image Index", "Finding Labels"} <= found:
        return "nih14"
    if {"ImageID", "PatientID", "Labels"} <= found:
        return "padchest"
    if "Path" in found and len(found & set(formats.CHEXPERT)) >= 5:
        return "chexpert"
    if {"subject_id", "study_id"} <= found and len(found & set(formats.CHEXPERT)) >= 5:
        # CXR-LT extends MIMIC's classes: its tables have a path for each image, and classes that MIMIC's don't.
        return "cxr_lt" if "fpath" in found or "Calcification of the Aorta" in found else "mimic"
    return "csv"


def _columns(form: str, names: Sequence[str], given: Mapping[str, str], name: str) -> dict[str, str]:
    """Our names -> the table's, of the columns that it has.

    Raises:
        ConfigError: `given` has a key that isn't ours.
        InputError: a needed column, or one that is named in `given`, is missing.
    """
    unknown = [key for key in given if key not in OURS]
    if unknown or (form in _ONE_HOT and "labels" in given):
        what = f"the keys {unknown}" if unknown else f"'labels', and the format {form} has a column for each class"
        raise ConfigError(f"labels.columns has {what}", f"any of {', '.join(OURS)}", "change --labels.columns")
    columns = {
        ours: next(column for column in theirs if column in names)
        for ours, theirs in _COLUMNS[form].items()
        if ours not in given and any(column in names for column in theirs)
    }
    columns |= {ours: theirs for ours, theirs in given.items() if theirs}
    lost = [column for column in columns.values() if column not in names]
    missing = [ours for ours in _NEEDED[form] if ours not in columns]
    if lost or missing:
        absent = lost + [" or ".join(_COLUMNS[form][ours]) for ours in missing]
        example = missing[0] if missing else next(iter(given))
        raise InputError(
            f"the label table '{name}', read as {form}, lacks the columns {absent}; it has {names_to_show(names, 60)}",
            "; ".join(f"{ours}: {_WHY[ours]}" for ours in _NEEDED[form]),
            _FIXES.get(form, f"name it with --labels.columns '{{{example}: COLUMN}}', or check --labels.format"),
        )
    return columns


def _wanted(form: str, names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """The columns to read: all that may hold labels where they are one-hot."""
    own = list(dict.fromkeys(columns.values()))
    if "labels" in columns:
        return own
    if form in ("chexpert", "mimic"):
        others = [*formats.CHEXPERT, _FRONTAL, _PROJECTION, *(each for each in names if formats.is_normal(each))]
        return own + [each for each in others if each in names and each not in own]
    return own + [each for each in names if each and not each.startswith("Unnamed:") and each not in own]


# Labels


def _parse(form: str, cells: Cells, columns: Mapping[str, str], config: LabelSource, name: str) -> Parsed:
    if form == "padchest":
        return formats.padchest(cells.columns[columns["labels"]], config.classes)
    if "labels" in columns:
        split = formats.split_by("|" if form == "nih14" else config.separator)
        scheme = formats.NIH14 if form == "nih14" else None
        return formats.separated(cells.columns[columns["labels"]], split, scheme=scheme, wanted=config.classes)
    if form in ("chexpert", "mimic"):
        known = [each for each in formats.CHEXPERT if each in cells.columns]
        normal = [each for each in cells.columns if formats.is_normal(each)]
        codes = {each: formats.codes_of(cells.columns[each]) for each in known + normal}
    else:
        others = [each for each in cells.columns if each not in columns.values() and each not in _NO_CLASSES]
        every = {each: formats.codes_of(cells.columns[each]) for each in others}
        known_names = {*formats.CHEXPERT, *formats.NIH14} if form == "cxr_lt" else set()
        codes = {each: column for each, column in every.items() if each in known_names or formats.is_class(column)}
    if all(formats.is_normal(each) for each in codes):
        raise InputError(
            f"the label table '{name}' has no labels: neither a column of them nor columns of 0, 1, -1 and blanks; "
            f"it has {names_to_show(cells.columns, 60)}",
            "one column with all labels of an image, or a column of 0 and 1 for each class",
            "name it with --labels.columns '{labels: COLUMN}', or check --labels.format",
        )
    return formats.one_hot(codes, blank_is_negative=form in ("chexpert", "mimic"), wanted=config.classes)


# Tables


def _tables(form: str, cells: Cells, columns: Mapping[str, str], parsed: Parsed, name: str) -> LabelTable:
    count = len(cells.numbers)
    own = {ours: cells.columns[columns[ours]] for ours in columns}
    blank = pa.array([""], pa.string()).take(pa.array(np.zeros(count, np.int64)))
    image, patient = own["image"], own.get("patient_id", blank)
    study, view, path = own.get("study_id", blank), own.get("view", blank), image
    if form == "chexpert":
        found = [_CHEXPERT_PATH.search(each) for each in image.to_pylist()]
        if "patient_id" not in own:
            patient = pa.array([match[1] if match else "" for match in found], pa.string())
        if "study_id" not in own:
            study = pa.array([f"{match[1]}/{match[2]}" if match else "" for match in found], pa.string())
        if "view" not in own:
            view = _chexpert_view(cells, blank)
    elif form in ("mimic", "cxr_lt"):
        given = next((cells.columns[each] for each in _PATHS if each in cells.columns), None)
        path = _mimic_path(patient, study, image) if given is None else given
    split, bad_split = _split(own.get("split", blank))
    source = own.get("source", blank if form == "csv" else pc.if_else(pc.equal(blank, ""), form, ""))
    images = pa.table(
        {
            "image_id": image, "study_id": study, "patient_id": patient, "split": split, "view": view,
            "source": source, "path": path, "labels": parsed.labels, "uncertain": parsed.uncertain,
            "unknown": parsed.unknown, "synthetic": pa.array(np.zeros(count, bool)),
        }
    )  # fmt: skip
    missing = pa.array(sorted(MISSING))
    reasons = parsed.reasons.copy()
    reasons[bad_split] = "unknown split (expected train, validation or test)"
    reasons[_mask(pc.is_in(patient, missing))] = "empty patient id"
    reasons[_mask(pc.is_in(image, missing))] = "empty image id"
    broken = np.array([each is not None for each in cells.reasons], dtype=bool)
    reasons[broken] = cells.reasons[broken]
    good = np.array([each is None for each in reasons], dtype=bool)
    places = np.flatnonzero(good)
    codes = image.take(pa.array(places)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    again = np.ones(len(places), bool)
    again[np.unique(codes, return_index=True)[1]] = False
    reasons[places[again]] = "duplicate image id"
    good[places[again]] = False
    rejected = [*cells.skipped, *zip(cells.numbers[~good].tolist(), reasons[~good].tolist(), strict=True)]
    rows = [{"row_id": f"{name}:{number}", "source": name, "reason": reason} for number, reason in sorted(rejected)]
    return LabelTable(
        images.filter(pa.array(good)).select(IMAGE_LABELS.names).cast(IMAGE_LABELS),
        pa.Table.from_pylist(rows, schema=REJECTED),
        parsed.classes,
        form,
    )


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = values.to_numpy(zero_copy_only=False).astype(bool)
    return mask


def _split(cells: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Our names of the splits, and where a cell names none."""
    encoded = pc.utf8_lower(cells).dictionary_encode()
    names = ["" if each in MISSING else each for each in encoded.dictionary.to_pylist()]
    ours = pa.array([_SPLITS.get(each, "") for each in names], pa.string())
    bad = np.array([each not in _SPLITS for each in names], dtype=bool)
    return ours.take(encoded.indices), bad[encoded.indices.to_numpy(zero_copy_only=False)]


def _chexpert_view(cells: Cells, blank: pa.Array) -> pa.Array:
    """ "AP" or "PA" of a frontal image, else what the table says: "Lateral"."""
    projection, frontal = cells.columns.get(_PROJECTION, blank), cells.columns.get(_FRONTAL, blank)
    return pc.if_else(pc.equal(projection, ""), frontal, projection)


def _mimic_path(patient: pa.Array, study: pa.Array, image: pa.Array) -> pa.Array:
    """files/p10/p10000032/s50414267/<dicom_id>.jpg, as in MIMIC-CXR-JPG."""
    group = pc.utf8_slice_codeunits(patient, 0, 2)
    folders = pc.binary_join_element_wise("files/p", group, "/p", patient, "/s", study, "/", image, ".jpg", "")
    return folders


# Arrays


def positives(
    images: pa.Table, classes: Sequence[str], *, uncertain: Literal["ignore", "positive", "negative"] = "ignore"
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Labels as arrays: Y [N, C], float32, 1 or 0, and M [N, C], bool, false where nothing is known (Y is 0 there).

    Args:
        images: `schema.IMAGE_LABELS`; labels outside `classes` are dropped.
        uncertain: what an uncertain label counts as; ignore: nothing is known.
    """
    Y_NC = _marked(images, "labels", classes)
    uncertain_NC = _marked(images, "uncertain", classes)
    M_NC = ~_marked(images, "unknown", classes)
    if uncertain == "ignore":
        M_NC &= ~uncertain_NC
    elif uncertain == "positive":
        Y_NC |= uncertain_NC
    return (Y_NC & M_NC).astype(np.float32), M_NC


def _marked(images: pa.Table, column: str, classes: Sequence[str]) -> NDArray[np.bool_]:
    """[N, C], true where the list in `column` holds the class."""
    marks_NC = np.zeros((images.num_rows, len(classes)), dtype=bool)
    lists = images[column].combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    places = pc.index_in(pc.list_flatten(lists), value_set=pa.array(classes, pa.string()))
    kept = _mask(pc.is_valid(places))
    marks_NC[rows[kept], pc.fill_null(places, 0).to_numpy()[kept]] = True
    return marks_NC

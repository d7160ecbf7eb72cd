"""What the cells of a label table mean: the public data sets' layouts and plain CSV, one-hot or separated.

| format | labels | an empty cell | classes, in this order |
|---|---|---|---|
| nih14 | one cell, "|" between | no labels: rejected | the 14 of ChestX-ray14, as the paper lists them |
| padchest | one cell, a Python list | no labels: rejected | those of the table, sorted |
| chexpert, mimic | a column each: 1, 0, -1, blank | negative (the report does not mention it) | CheXpert's 13 |
| cxr_lt | a column each: 1, 0 | unknown | the table's columns, in its order |
| csv | a column each: 1, 0, -1, blank | unknown | the table's columns, in its order |
| csv | one cell, `labels.separator` between | no labels: rejected | those of the table, sorted |

"No Finding" and "normal" are no classes: they say that there is none. Beside a finding they contradict themselves and
the row is rejected; CheXpert's rule sets "No Finding" beside "Support Devices", so that pair is none. Where it is 1,
blanks are negative in every format. A row of one-hot columns without a single value has no labels either.

PadChest's "exclude", "unchanged" and "suboptimal study" say nothing of the findings: they are left out, and a row
with nothing else has no labels. The other labels of PadChest are classes in the table's spelling.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymedlt.errors import ConfigError, names_to_show

NIH14 = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
"""Wang et al., "ChestX-ray8", CVPR 2017, and its extension to 14 classes."""

CHEXPERT = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
"""Irvin et al., "CheXpert", AAAI 2019; MIMIC-CXR-JPG has the same."""

MISSING = frozenset({"", "nan", "NaN", "NA", "<NA>", "None", "null"})
"""How tables write "no value"."""

NEGATIVE, POSITIVE, UNCERTAIN, BLANK, OTHER = 0, 1, -1, 2, 3  # values of a one-hot cell

_NORMAL = frozenset({"no finding", "normal"})
_BESIDE_NORMAL = frozenset({"Support Devices"})
_SAYS_NOTHING = frozenset({"exclude", "unchanged", "suboptimal study"})
_MAX_LITERAL_CHARS = 10_000
_NAME = re.compile(r"[\w-]{1,30}")  # anything else may be report text in the wrong column, and reasons go to logs

NO_LABELS = "no labels"
CONTRADICTORY = "contradictory: no finding, and findings"


class Parsed(NamedTuple):
    """What the N rows of a table say."""

    classes: tuple[str, ...]
    labels: pa.Array
    """[N] lists of classes, in the order of `classes`; so are the next two."""
    uncertain: pa.Array
    unknown: pa.Array
    reasons: NDArray[np.object_]
    """[N], why a row can't be used; None for a good one."""


def is_normal(label: str) -> bool:
    """Whether a label or column says that there is no finding: "No Finding", "No_Finding", "normal"."""
    return _plain(label) in _NORMAL


def _plain(label: str) -> str:
    return " ".join(label.lower().replace("_", " ").split())


def chosen(classes: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """`wanted`, each once, in its order; all `classes` where nothing is wanted in particular.

    Raises:
        ConfigError: a wanted class isn't among `classes`; the message names the nearest ones.
    """
    if wanted is None:
        return tuple(classes)
    missing = [name for name in wanted if name not in classes]
    if not missing:
        return tuple(dict.fromkeys(wanted))
    by_plain = {_plain(name): name for name in classes}
    near = {name: difflib.get_close_matches(_plain(name), list(by_plain), 3, 0.5) for name in missing}
    nearest = "; ".join(
        f"nearest to '{name}': {', '.join(by_plain[each] for each in found)}" for name, found in near.items() if found
    )
    shown = names_to_show(classes)
    raise ConfigError(
        f"labels.classes names {missing}, which the label table does not have",
        f"classes of the table ({nearest or shown})",
        "change --labels.classes",
    )


# One cell with all labels


def split_by(separator: str) -> Callable[[str], list[str] | None]:
    """A parser of cells such as "Edema|Mass"; a blank cell holds no label."""

    def parse(cell: str) -> list[str] | None:
        return [] if cell in MISSING else [label for part in cell.split(separator) if (label := part.strip())]

    return parse


def python_list(cell: str) -> list[str] | None:
    """The labels in a cell that holds a Python list of strings; None if it doesn't. Only literals are evaluated."""
    if cell in MISSING:
        return []
    if len(cell) > _MAX_LITERAL_CHARS:
        return None
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) and _is_unicode(item) for item in value):
        return None
    return [label for item in value if (label := item.strip())]


def _is_unicode(text: str) -> bool:
    r"""Whether it has no half of a surrogate pair, as the literal "\ud800" does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def separated(
    cells: pa.Array,
    parse: Callable[[str], list[str] | None],
    *,
    scheme: tuple[str, ...] | None = None,
    wanted: Sequence[str] | None = None,
    says_nothing: frozenset[str] = frozenset(),
) -> Parsed:
    """Labels from one cell per row. Each distinct cell is parsed once: O(N + distinct cells).

    Args:
        cells: [N], strings.
        parse: the labels of a cell; None for a cell that can't be parsed.
        scheme: the only classes there are; a row with another label is rejected. Spelling is compared without case and
            underscores. None: every label is a class.
        wanted: the classes to keep; the table's other labels are dropped.
        says_nothing: labels (lower case) that are neither a finding nor the absence of all.

    Raises:
        ConfigError: a wanted class that the table doesn't have.
    """
    encoded = cells.dictionary_encode()
    by_plain = {_plain(name): name for name in scheme or ()}
    found: list[list[str]] = []
    reasons: list[str | None] = []
    for cell in encoded.dictionary.to_pylist():
        findings, reason = _findings(parse(cell), by_plain, says_nothing)
        found.append(findings if reason is None else [])
        reasons.append(reason)
    table_classes = scheme if scheme is not None else sorted({label for labels in found for label in labels})
    classes = chosen(table_classes, wanted)
    place = {name: number for number, name in enumerate(classes)}
    kept = [sorted((label for label in labels if label in place), key=place.__getitem__) for labels in found]
    lists = pa.array(kept, pa.list_(pa.string())).take(encoded.indices)
    none = pa.array([[]] * len(cells), pa.list_(pa.string()))
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return Parsed(classes, lists, none, none, np.array(reasons, dtype=object)[codes])


def _findings(
    labels: list[str] | None, by_plain: Mapping[str, str], says_nothing: frozenset[str]
) -> tuple[list[str], str | None]:
    """The findings among a row's labels, each once, or why there are none to be had."""
    if labels is None:
        return [], "labels cannot be parsed"
    normal = any(is_normal(label) for label in labels)
    names = [label for label in labels if not is_normal(label) and _plain(label) not in says_nothing]
    if by_plain:
        for label in names:
            if _plain(label) not in by_plain:
                return [], f"unknown label '{label}'" if _NAME.fullmatch(label) else "unknown label"
        names = [by_plain[_plain(label)] for label in names]
    if not names and not normal:
        return [], NO_LABELS
    if normal and any(name not in _BESIDE_NORMAL for name in names):
        return [], CONTRADICTORY
    return list(dict.fromkeys(names)), None


def padchest(cells: pa.Array, wanted: Sequence[str] | None) -> Parsed:
    """PadChest's column "Labels": Bustos et al., Medical Image Analysis 2020. As `separated`."""
    return separated(cells, python_list, wanted=wanted, says_nothing=_SAYS_NOTHING)


# A column for each class


def codes_of(cells: pa.Array) -> NDArray[np.int8]:
    """[N] strings as POSITIVE ("1", "1.0"), NEGATIVE, UNCERTAIN ("-1"), BLANK or OTHER."""
    encoded = cells.dictionary_encode()
    of_distinct = np.array([_code(cell) for cell in encoded.dictionary.to_pylist()], dtype=np.int8)
    codes: NDArray[np.int8] = of_distinct[encoded.indices.to_numpy(zero_copy_only=False)]
    return codes


def _code(cell: str) -> int:
    if cell in MISSING:
        return BLANK
    try:
        value = float(cell)
    except ValueError:
        return OTHER
    return int(value) if value in (NEGATIVE, POSITIVE, UNCERTAIN) else OTHER


def is_class(codes: NDArray[np.int8]) -> bool:
    """Whether a column is a class: nothing but 1, 0, -1 and blanks, and not blanks and -1 alone."""
    return not (codes == OTHER).any() and bool(((codes == POSITIVE) | (codes == NEGATIVE)).any())


def one_hot(
    columns: Mapping[str, NDArray[np.int8]],
    *,
    blank_is_negative: bool,
    wanted: Sequence[str] | None = None,
) -> Parsed:
    """Labels from a column for each class, "No Finding" among them where the table has it.

    Args:
        columns: the `codes_of` each, [N].
        blank_is_negative: what a blank says where "No Finding" isn't 1; else it is unknown.
        wanted: the classes to keep.

    Raises:
        ConfigError: a wanted class that the table doesn't have.
    """
    names = [name for name in columns if not is_normal(name)]
    classes = chosen(names, wanted)
    codes_NC = np.stack([columns[name] for name in names], axis=1)
    normals = [codes for name, codes in columns.items() if is_normal(name)]
    normal_N = np.any([codes == POSITIVE for codes in normals] or [np.zeros(len(codes_NC), bool)], axis=0)
    beside_C = np.array([name in _BESIDE_NORMAL for name in names])
    empty_N = (codes_NC == BLANK).all(axis=1) & np.all([codes == BLANK for codes in normals] or [[True]], axis=0)
    reasons: NDArray[np.object_] = np.full(len(codes_NC), None, dtype=object)
    reasons[normal_N & (codes_NC[:, ~beside_C] == POSITIVE).any(axis=1)] = CONTRADICTORY
    reasons[empty_N] = NO_LABELS
    for name, codes in columns.items():
        reasons[codes == OTHER] = f"the column '{name}' holds neither 1, 0, -1 nor a blank"
    picked = [names.index(name) for name in classes]
    blank_NC = (codes_NC == BLANK) & ~(normal_N[:, None] & ~beside_C)
    unknown_NC = np.zeros_like(blank_NC) if blank_is_negative else blank_NC
    labels = _lists((codes_NC == POSITIVE)[:, picked], classes)
    uncertain = _lists((codes_NC == UNCERTAIN)[:, picked], classes)
    return Parsed(classes, labels, uncertain, _lists(unknown_NC[:, picked], classes), reasons)


def _lists(mask_NC: NDArray[np.bool_], classes: Sequence[str]) -> pa.Array:
    """[N] lists of the classes that the mask marks."""
    offsets = np.concatenate([[0], np.cumsum(mask_NC.sum(axis=1))]).astype(np.int32)
    values = pa.array(classes, pa.string()).take(pa.array(np.nonzero(mask_NC)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), values)

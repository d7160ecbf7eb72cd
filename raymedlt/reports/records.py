"""One record per report, checked: a good row, or a rejected one with the reason.

Every reader makes its rows here, so that the same fault has the same reason in every format. A rejected row keeps
where it came from and, if readable, its report id; its texts are emptied, since nobody needs them.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

import pyarrow as pa

from raymedlt.schema import READ_ROWS, TEST, TRAIN, VALIDATION

MAX_CHARS = 100_000
"""Longest text that is taken for a report, in characters, unless the user says otherwise."""

MAX_ID_CHARS = 512
"""Longest id: a longer one is text in the wrong column."""

BATCH_ROWS = 10_000
BATCH_CHARS = 32_000_000
"""A batch ends at so many rows or characters of text, whichever comes first: that bounds a reader's memory."""

NO_TEXT = "no findings and no impression"
NUL_BYTES = "text holds NUL bytes"
NOT_UTF8 = "not UTF-8"
NO_ID = "report_id is missing"
PATH_LEAVES = "image path leaves its root"

_SPLITS = {
    **dict.fromkeys(("", "train", "training"), TRAIN),
    **dict.fromkeys(("validate", "validation", "valid", "val", "dev", "development"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
_PLAIN_WORD = re.compile(r"[\w-]{1,20}")
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]*://")


class Row(TypedDict):
    """One row of `schema.READ_ROWS`."""

    report_id: str
    study_id: str
    patient_id: str
    split: str
    findings: str
    impression: str
    indication: str
    views: list[str]
    image_ids: list[str]
    labels: list[str]
    language: str
    row_id: str
    source: str
    reason: str | None


def make_row(
    *,
    row_id: str,
    source: str,
    report_id: str,
    study_id: str = "",
    patient_id: str = "",
    split: str = "",
    findings: str = "",
    impression: str = "",
    indication: str = "",
    views: Sequence[str] = (),
    image_ids: Sequence[str] = (),
    labels: Sequence[str] = (),
    language: str = "en",
    max_chars: int = MAX_CHARS,
) -> Row:
    """One report as a row of `schema.READ_ROWS`: good (reason None), or rejected with the first fault that is found.

    Args:
        row_id: names the row in its source, unique in a run.
        source: the file that it comes from, relative to what the user gave.
        study_id: "" is the report's own id.
        patient_id: "" is the study's id, as if each study were another patient's.
        split: as the source spells it; "" is "train".
        image_ids: ids, or paths relative to the images' root.
        max_chars: longest findings, impression or indication, in characters.
    """
    study = study_id.strip() or report_id.strip()
    row = Row(
        report_id=report_id.strip(),
        study_id=study,
        patient_id=patient_id.strip() or study,
        split=_SPLITS.get(split.strip().lower(), ""),
        findings=findings.strip(),
        impression=impression.strip(),
        indication=indication.strip(),
        views=list(views),
        image_ids=list(image_ids),
        labels=list(labels),
        language=language,
        row_id=_readable(row_id),
        source=_readable(source),
        reason=None,
    )
    reason = _fault(row, max_chars)
    if reason is None and not row["split"]:
        reason = _unknown_split(split)
    return row if reason is None else reject(row_id, source, reason, row["report_id"])


def reject(row_id: str, source: str, reason: str, report_id: str = "") -> Row:
    """A row that can't be used: its texts are empty, and its report id too where that is the unreadable part."""
    return Row(
        report_id=report_id if len(report_id) <= MAX_ID_CHARS and _text_fault((report_id,)) is None else "",
        study_id="",
        patient_id="",
        split="",
        findings="",
        impression="",
        indication="",
        views=[],
        image_ids=[],
        labels=[],
        language="",
        row_id=_readable(row_id),
        source=_readable(source),
        reason=reason,
    )


def normalise_split(name: str) -> str | None:
    """One of `schema.SPLITS` for a split name as data sets spell it ("validate", "val", "" ...); None if unknown."""
    return _SPLITS.get(name.strip().lower())


def too_long(max_chars: int) -> str:
    """The reason of a text that is longer than allowed."""
    return f"longer than {max_chars} characters"


def path_leaves_root(path: str) -> bool:
    """Whether an image path is absolute, a URI, or climbs out of the folder that it is relative to."""
    if ".." not in path and path[:1] not in ("/", "\\") and ":" not in path:
        return False  # nearly all of them
    if _ABSOLUTE.match(path):
        return True
    return posixpath.normpath(path.replace("\\", "/")).split("/")[0] == ".."


def as_text(value: object) -> str:
    """A cell as text: None and NaN are "", whole floats lose their ".0" (an id that went through pandas).

    Raises:
        TypeError: a list, an object or anything else that isn't one value.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, (bool, int)):
        return str(value)
    raise TypeError(type(value).__name__)


def as_list(value: object) -> list[str]:
    """A cell as a list of texts: a list, or one text with "|" between the items. Empty items are dropped.

    Raises:
        TypeError: an item that isn't one value.
    """
    items = value if isinstance(value, list) else as_text(value).split("|")
    return [text for item in items if (text := as_text(item).strip())]


def tables(rows: Iterable[Row], *, max_rows: int = BATCH_ROWS, max_chars: int = BATCH_CHARS) -> Iterator[pa.Table]:
    """`rows` as tables of `schema.READ_ROWS`, in order, each bounded in rows and characters. No rows give no table."""
    batch: list[Row] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += len(row["findings"]) + len(row["impression"]) + len(row["indication"])
        if len(batch) >= max_rows or chars >= max_chars:
            yield pa.Table.from_pylist(batch, schema=READ_ROWS)
            batch, chars = [], 0
    if batch:
        yield pa.Table.from_pylist(batch, schema=READ_ROWS)


def _fault(row: Row, max_chars: int) -> str | None:
    if not row["report_id"]:
        return NO_ID
    texts = (row["findings"], row["impression"], row["indication"])
    ids = (row["report_id"], row["study_id"], row["patient_id"], row["language"])
    for values in (texts, ids, row["views"], row["image_ids"], row["labels"]):
        fault = _text_fault(values)
        if fault is not None:
            return fault
    if max(map(len, texts)) > max_chars:
        return too_long(max_chars)
    if max(map(len, ids)) > MAX_ID_CHARS:
        return f"an id is longer than {MAX_ID_CHARS} characters"
    if any(map(path_leaves_root, row["image_ids"])):
        return PATH_LEAVES
    if not row["findings"] and not row["impression"]:
        return NO_TEXT
    return None


def _text_fault(values: Iterable[str]) -> str | None:
    for value in values:
        if "\0" in value:
            return NUL_BYTES
        if not value.isascii() and _readable(value) != value:
            return NOT_UTF8
    return None


def _readable(value: str) -> str:
    """`value` with "?" for every byte that wasn't UTF-8 (readers decode those to lone surrogates)."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _unknown_split(split: str) -> str:
    word = split.strip()  # anything but a plain word may be report text in the wrong column
    return f"split '{word}' is unknown" if _PLAIN_WORD.fullmatch(word) and word.isascii() else "split is unknown"

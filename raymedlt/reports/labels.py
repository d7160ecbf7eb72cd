"""Labels of public data sets as findings of the ontology: OpenI's MeSH codes, PadChest, CheXpert 14, NIH 14.

The maps are data (`rules/maps/*.csv`). A row says what a label means:
* label: as the source spells it; case, underscores and repeated blanks don't count;
* finding: ids of `rules/findings.csv`, all of them present; empty: no finding, and `note` says why;
* condition: OpenI only, qualifiers of the code separated by ";", one of which must stand in it. Of a label's rows the
  first whose condition holds counts, a row without a condition always holds;
* covers: findings whose presence makes the class positive, where these aren't `finding` and its kinds;
* note: for the reader.

An OpenI code is a head and its qualifiers: "Opacity/lung/base/left". Labels are for audits and for image classifiers;
enrichment itself never reads them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

from raymedlt.errors import InputError
from raymedlt.reports.vocabulary import is_a, ontology

SCHEMES = ("nih14", "chexpert", "openi_mesh", "padchest")
"""Names of the maps, from the smallest to the largest."""

FOUND_NORMAL = frozenset({"normal", "no finding"})  # labels of a report that was looked at without finding anything
WITH_QUALIFIERS = frozenset({"openi_mesh"})
LEAST_KNOWN = 0.75  # share of a sample's distinct labels that a scheme must know to be taken for theirs


class Labelled(NamedTuple):
    """A finding that a label asserts; side is "left", "right", "bilateral" or "" (not said)."""

    finding: str
    side: str


class Denied(NamedTuple):
    """A finding that a sentence denies; side as in `Labelled`."""

    finding: str
    side: str


class _Row(NamedTuple):
    findings: tuple[str, ...]
    condition: frozenset[str]
    covers: tuple[str, ...]


class _Map(NamedTuple):
    rows: dict[str, tuple[_Row, ...]]  # label in `_plain` spelling -> its rows
    classes: tuple[tuple[str, tuple[str, ...]], ...]  # (label as spelled, what makes it positive)


def findings_of(labels: Iterable[str], scheme: str) -> frozenset[Labelled]:
    """What `labels` assert. Labels that mean no finding give nothing, and so do unknown ones (see `unknown`).

    Raises:
        InputError: no such scheme.
    """
    _map(scheme)
    return frozenset(found for label in labels for found in _meaning(label, scheme) or ())


def looked_at(labels: Iterable[str], scheme: str) -> bool:
    """Whether somebody labelled the report: some label names a finding or says that there is none. "No Indexing",
    "exclude" or an empty list say nothing about the report, and nothing can be checked against them.

    Raises:
        InputError: no such scheme.
    """
    _map(scheme)
    return any(_plain(label) in FOUND_NORMAL or _meaning(label, scheme) for label in labels)


def unknown(labels: Iterable[str], scheme: str) -> list[str]:
    """The labels that the scheme's map lacks, each once, sorted.

    Raises:
        InputError: no such scheme.
    """
    _map(scheme)
    return sorted({label for label in labels if _meaning(label, scheme) is None})


def scheme_of(labels: Iterable[str]) -> str | None:
    """The scheme that knows most of `labels` (a sample, all reports' labels in one row); None below `LEAST_KNOWN`.

    Of schemes that know equally many the smallest counts: names that CheXpert and PadChest share are CheXpert's until
    one is seen that only PadChest has.
    """
    sample = sorted(set(labels))
    if not sample:
        return None
    known = {scheme: len(sample) - len(unknown(sample, scheme)) for scheme in SCHEMES}
    best = max(SCHEMES, key=lambda scheme: known[scheme])  # the first, smallest, of equals
    return best if known[best] >= LEAST_KNOWN * len(sample) else None


def class_of(finding: str, scheme: str) -> tuple[str, ...]:
    """The label classes that are positive where `finding` is present: pneumonia is CheXpert's "Pneumonia",
    "Consolidation" and "Lung Opacity". In the map's order and spelling; none for a finding that has no class.

    Raises:
        InputError: no such scheme.
        KeyError: `finding` is not in the ontology.
    """
    return tuple(name for name, covers in _map(scheme).classes if any(is_a(finding, cover) for cover in covers))


def classes_denied(denied: str, scheme: str) -> tuple[str, ...]:
    """The label classes that can't be positive where `denied` is absent: its own and those of its kinds. "The lungs are
    clear" denies `lung_abnormality`, hence NIH's "Atelectasis", "Mass", ... and not "Effusion".

    Raises:
        InputError: no such scheme.
    """
    rows = _map(scheme).rows
    return tuple(
        name
        for name, _ in _map(scheme).classes
        if any(is_a(finding, denied) for row in rows[_plain(name)] for finding in row.findings)
    )


def contradicted(denied: Iterable[tuple[str, str]], labels: frozenset[Labelled]) -> list[tuple[Denied, Labelled]]:
    """The denials of a sentence (its absent mentions: finding, side) that a report's labels contradict.

    A label contradicts a denial if its finding is what is denied or a kind of it, on a side that the denial speaks of:
    "Opacity" contradicts "the lungs are clear" (`lung_abnormality`), "Cardiomegaly" doesn't contradict "no effusion",
    and a label "Fracture" doesn't contradict "no left rib fracture", as it may be of the right.

    This is stricter than the guard's `clashes`. The guard refuses when in doubt, since a needless refusal costs little;
    an audit that counts doubts as errors measures the guard's caution and not the additions: "no consolidation" beside
    the label "Pulmonary Atelectasis" is no error, though a cautious guard won't add it. Nor does a label contradict the
    denial of one of its kinds: "Pleural Effusion" leaves "no empyema" true.

    Returns:
        Pairs (denial, label) in the order of `denied`, labels sorted. O(denials x labels).

    Raises:
        KeyError: a finding is not in the ontology.
    """
    found = []
    for each in denied:
        denial = Denied(*each)
        found += [(denial, label) for label in sorted(labels) if contradicts(denial, label)]
    return found


def contradicts(denial: Denied, label: Labelled) -> bool:
    """Whether `label` shows that `denial` is wrong; see `contradicted`."""
    sides = denial.side in ("", "bilateral") or label.side in ("bilateral", denial.side)
    return sides and is_a(label.finding, denial.finding)


@cache
def checkable(denied: str, scheme: str) -> bool:
    """Whether any label of the scheme could contradict the denial of `denied`.

    Raises:
        InputError: no such scheme.
    """
    rows = (row for rows in _map(scheme).rows.values() for row in rows)
    return any(is_a(finding, denied) for row in rows for finding in row.findings)


@lru_cache(maxsize=100_000)
def _meaning(label: str, scheme: str) -> tuple[Labelled, ...] | None:
    """What one label asserts; None for an unknown one."""
    book = _map(scheme).rows
    qualifiers: frozenset[str] = frozenset()
    head = _plain(label)
    if scheme in WITH_QUALIFIERS:
        head, *rest = (part.strip() for part in head.split("/"))
        qualifiers = frozenset(rest)
    if head not in book:
        return None
    row = next((row for row in book[head] if not row.condition or row.condition & qualifiers), None)
    if row is None:
        return ()
    named = {side for side in ("left", "right") if side in qualifiers}
    side = "bilateral" if "bilateral" in qualifiers or len(named) == 2 else "".join(named)
    return tuple(Labelled(finding, side) for finding in row.findings)


def _plain(label: str) -> str:
    return " ".join(label.lower().replace("_", " ").split())


@cache
def _map(scheme: str) -> _Map:
    if scheme not in SCHEMES:
        raise InputError(f"no map for labels of the scheme '{scheme}'", f"one of {', '.join(SCHEMES)}")
    rows: dict[str, tuple[_Row, ...]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    table = files("raymedlt.reports").joinpath("rules", "maps", f"{scheme}.csv").read_text(encoding="utf-8")
    for line in csv.DictReader(table.splitlines()):
        findings, covers = tuple(line["finding"].split()), tuple(line["covers"].split())
        for finding in (*findings, *covers):
            if finding not in ontology().ancestors:
                raise InputError(
                    f"rules/maps/{scheme}.csv names the finding '{finding}'", "an id of rules/findings.csv"
                )
        condition = frozenset(part.strip() for part in line["condition"].split(";") if part.strip())
        name = _plain(line["label"])
        rows[name] = (*rows.get(name, ()), _Row(findings, condition, covers or findings))
        if findings:
            classes[line["label"]] = (*classes.get(line["label"], ()), *(covers or findings))
    return _Map(rows, tuple(classes.items()))

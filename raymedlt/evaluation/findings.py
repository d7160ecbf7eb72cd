"""Findings of a report, read by the project's own assertion rules, and how two reports agree on them.

A report claims the findings that one of its sentences calls present; the traces of an operation also count where they
are history ("status post sternotomy"). Doubt ("may represent pneumonia") claims nothing.

Claims are scored in groups, since one finding has many names. Two tables beside this file, which a reader who knows
radiology but not Python can correct, say what counts as one:
* scoring_groups.csv: a finding belongs to the groups of its nearest ancestors (itself first) that the column `findings`
  names; a row with `words` only where the claim's own words have one of them ("chest tube"). Without a row it is a
  group of its own. Collective names ("lung_abnormality", "abnormal") are denied, never scored as present. sided:
  whether left and right are two things.
* signs.csv: what isn't scored beside the finding of which it is the sign, in one sentence: "Airspace opacity in the
  left lung consistent with pneumonia" claims a pneumonia, of the left. With `words` only where the sign's have one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.reports.assertion import Mention, judge
from raymedlt.reports.labels import Denied, Labelled, contradicts
from raymedlt.reports.scope import UNSPECIFIED
from raymedlt.reports.sentences import split_sentences
from raymedlt.reports.vocabulary import is_a, ontology

_REMEMBERED = 200_000  # distinct sentences; some 100 MB
_HISTORY_SHOWS = "postsurgical_change"
_BOTH = ("left", "right")


class Finding(NamedTuple):
    """A scored finding: its group and side ("left", "right", or "" where none is said or the group has none)."""

    group: str
    side: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What a report claims."""

    present: frozenset[Finding]
    """A bilateral finding is there twice, left and right."""
    asserted: frozenset[Labelled]
    """The same as ids of the ontology, with sides as the sentences say them."""
    denied: frozenset[Denied]
    """What it calls absent: ids of the ontology, collective ones too ("the lungs are clear": lung_abnormality)."""

    @property
    def groups(self) -> frozenset[str]:
        """Present findings without their sides."""
        return frozenset(finding.group for finding in self.present)


NOTHING = Claims(frozenset(), frozenset(), frozenset())


def claims_of(text: str, language: str = "en") -> Claims:
    """What a report's text claims; a finding that one sentence asserts and another denies is in both sets.

    Sentences are judged once per process and then remembered.

    Raises:
        InputError: no assertion rules for the language.
    """
    return union(_of_sentence(sentence, language) for sentence in split_sentences(text))


def union(claims: Iterable[Claims]) -> Claims:
    """Everything that is claimed in any of them: findings and impression of one report."""
    parts = list(claims)
    sides: dict[str, set[str]] = {}
    for part in parts:
        for finding in part.present:
            sides.setdefault(finding.group, set()).add(finding.side)
    # "Effusion" in one sentence and "left effusion" in another are one.
    present = {Finding(group, side) for group, named in sides.items() for side in (named - {""} or named)}
    return Claims(
        frozenset(present),
        frozenset[Labelled]().union(*(part.asserted for part in parts)),
        frozenset[Denied]().union(*(part.denied for part in parts)),
    )


@lru_cache(_REMEMBERED)
def _of_sentence(sentence: str, language: str) -> Claims:
    mentions = judge(sentence, language).mentions
    shown = [each for each in mentions if each.assertion == "present" or _history_shows(each)]
    words = {each: _words(sentence, each) for each in shown}
    names = {each.finding for each in shown}
    kept = []
    for each in shown:
        whole = next((name for name in names if _is_sign(each.finding, words[each], name)), None)
        if whole is None:
            kept.append(each)
    present: set[Finding] = set()
    for each in kept:
        side = each.side or _lent(each, shown, words)
        for group, sided in _groups(each.finding, words[each]):
            sides = ("",) if not sided else _BOTH if side == "bilateral" else (side,)
            present.update(Finding(group, one) for one in sides)
    denied = frozenset(Denied(each.finding, each.side) for each in mentions if each.assertion == "absent")
    one = Claims(frozenset(present), frozenset(Labelled(each.finding, each.side) for each in kept), denied)
    return union([one])


def _history_shows(mention: Mention) -> bool:
    return mention.assertion == "historical" and is_a(mention.finding, _HISTORY_SHOWS)


def _words(sentence: str, mention: Mention) -> frozenset[str]:
    """The claim's words and the one before them: the term of "left chest tube" is "tube" alone."""
    before = sentence[: mention.start].lower().replace("-", " ").split()[-1:]
    return frozenset([*before, *sentence[mention.start : mention.end].lower().replace("-", " ").split()])


def _lent(mention: Mention, shown: Sequence[Mention], words: dict[Mention, frozenset[str]]) -> str:
    """The side of the finding's sign, where the finding itself has none."""
    sides = {other.side for other in shown if _is_sign(other.finding, words[other], mention.finding)} - {""}
    return sides.pop() if len(sides) == 1 else ""


def _is_sign(sign: str, words: frozenset[str], finding: str) -> bool:
    return sign != finding and any(not wanted or wanted & words for wanted in _signs().get((finding, sign), ()))


@cache
def _signs() -> dict[tuple[str, str], list[frozenset[str]]]:
    """(finding, sign) -> words, one of which the sign must have; an empty set asks for none."""
    table: dict[tuple[str, str], list[frozenset[str]]] = {}
    for row in _rows("signs.csv"):
        for sign in row["signs"].split():
            _known(row["finding"], sign, table="signs.csv")
            table.setdefault((row["finding"], sign), []).append(frozenset(row["words"].split()))
    return table


@cache
def _table() -> dict[str, list[tuple[frozenset[str], str, bool]]]:
    """Finding -> rows (words, group, sided), those with words first."""
    table: dict[str, list[tuple[frozenset[str], str, bool]]] = {}
    for row in _rows("scoring_groups.csv"):
        for finding in row["findings"].split():
            _known(finding, table="scoring_groups.csv")
            entry = (frozenset(row["words"].split()), row["group"], row["sided"] == "yes")
            table.setdefault(finding, []).append(entry)
    return {finding: sorted(rows, key=lambda row: not row[0]) for finding, rows in table.items()}


@lru_cache(_REMEMBERED)
def _groups(finding: str, words: frozenset[str]) -> tuple[tuple[str, bool], ...]:
    """The groups that a claim with these words counts for, and whether each has sides."""
    book = ontology()
    found = {}
    for ancestor in book.ancestors[finding]:
        rows = _table().get(ancestor, ())
        row = next((row for row in rows if not row[0] or row[0] & words), None)
        if row is not None:
            found[ancestor] = row[1:]
    nearest = [each for each in found if not any(other != each and is_a(other, each) for other in found)]
    if nearest:
        return tuple(sorted({found[each] for each in nearest}))
    return () if book.kinds[finding] == "group" or finding == UNSPECIFIED else ((finding, True),)


@cache
def groups() -> tuple[str, ...]:
    """The groups that scoring_groups.csv names, sorted; a finding without a row is a group too."""
    return tuple(sorted({row["group"] for row in _rows("scoring_groups.csv")}))


@cache
def every_group() -> tuple[str, ...]:
    """All groups that a claim can be of, sorted."""
    alone = {group for finding in ontology().kinds for group, _ in _groups(finding, frozenset())}
    return tuple(sorted(alone.union(groups())))


def _known(*findings: str, table: str) -> None:
    for finding in findings:
        if finding not in ontology().ancestors:
            raise InputError(f"evaluation/{table} names the finding '{finding}'", "an id of reports/rules/findings.csv")


def _rows(name: str) -> list[dict[str, str]]:
    text = files("raymedlt.evaluation").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


# Counting


@dataclass(frozen=True, eq=False)
class Agreement:
    """Of N reports: what each rightly and wrongly claims, and misses. G groups (or groups with sides), sorted."""

    names: tuple[Finding | str, ...]
    hits_NG: npt.NDArray[np.bool_]
    false_NG: npt.NDArray[np.bool_]
    missed_NG: npt.NDArray[np.bool_]
    denials_N: npt.NDArray[np.int64]
    """Findings of the truth that the report expressly denies: worse than to leave them out."""

    @property
    def counts_N3(self) -> npt.NDArray[np.float64]:
        """Hits, false claims and misses of each report."""
        return np.stack([each.sum(1) for each in (self.hits_NG, self.false_NG, self.missed_NG)], 1).astype(np.float64)

    @property
    def counts_NG3(self) -> npt.NDArray[np.float64]:
        """The same per group."""
        return np.stack([self.hits_NG, self.false_NG, self.missed_NG], 2).astype(np.float64)


def compare(truth: Sequence[Claims], claimed: Sequence[Claims], *, sides: bool = False) -> Agreement:
    """Hold what reports claim against what is so: the claims of the references, or of texts without omissions.

    Args:
        truth, claimed: one for each of the N reports.
        sides: a finding on the other side is another finding. Without a side in either text it counts for none.

    Raises:
        InputError: different numbers of reports.

    Memory: 3 N G bytes.
    """
    if len(truth) != len(claimed):
        raise InputError(f"{len(claimed)} reports and {len(truth)} references", "one reference for each report")
    wanted: list[frozenset[Any]] = [each.present if sides else each.groups for each in truth]
    said: list[frozenset[Any]] = [each.present if sides else each.groups for each in claimed]
    names = sorted(frozenset[Any]().union(*wanted, *said))
    place = {name: number for number, name in enumerate(names)}
    there_NG, said_NG = _members(wanted, place), _members(said, place)
    return Agreement(
        tuple(names),
        there_NG & said_NG,
        ~there_NG & said_NG,
        there_NG & ~said_NG,
        np.asarray([_denials(*pair) for pair in zip(truth, claimed, strict=True)], np.int64).reshape(len(truth)),
    )


def _members(sets: Sequence[frozenset[Any]], place: dict[Any, int]) -> npt.NDArray[np.bool_]:
    members = np.zeros((len(sets), len(place)), np.bool_)
    for row, each in enumerate(sets):
        members[row, [place[name] for name in each]] = True
    return members


def _denials(truth: Claims, claimed: Claims) -> int:
    """Findings of the truth that the report denies and doesn't assert in some other sentence."""
    return sum(
        any(contradicts(denial, label) for denial in claimed.denied)
        for label in truth.asserted
        if not any(is_a(own.finding, label.finding) for own in claimed.asserted)
    )


def precision_recall_f1(counts_3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[..., 3] hits, false claims and misses to [..., 3] precision, recall and F1; NaN where nothing is there to count.

    F1 = 2 TP / (2 TP + FP + FN), defined as soon as either side claims something.
    """
    hits, wrong, missed = np.moveaxis(np.asarray(counts_3, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / (hits + wrong), hits / (hits + missed), 2 * hits / (2 * hits + wrong + missed)], -1)

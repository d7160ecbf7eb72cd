"""The guard: no added sentence may contradict or restate what its report says.

What a sentence says is a set of claims (finding, side), each asserted (present, uncertain or historical) or denied
(absent). A set of claims is one Python integer, a bit per finding and side, so that the check of a donor against a
report is two ANDs, whatever the size of either.

A donor sentence denies things (only normal sentences are donated). Against a report it is refused when
* it denies what the report asserts: the same finding, a kind of it, its kind, or one that radiologists use for the same
  shadow (`clashes` of the vocabulary), on the same side or where either side is open: reason "contradicts:<finding>";
* the report denies the same already, or more: reason "restates:<finding>".
Whatever the report, a donor is unfit when the engine flagged it (numbers, time, technique, devices): "unfit:<flag>".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from raymedlt.reports.assertion import Judgement, judge
from raymedlt.reports.vocabulary import clashes, is_a, ontology

_ODD = re.compile(r"[^A-Za-zÀ-ÿ ,.'’/()-]|\.\s*\.|[A-Za-z]\.[A-Za-z]")
# A new sentence that begins inside this one, where a full stop was forgotten.
_RUN_TOGETHER = re.compile(r"[a-z,;] (?:The|There|No|Is|Heart|Lungs?|Normal|Cardiac|Mediastinum|Pleural)\b")
SIDES = ("", "left", "right")  # "" stands for both sides or an open one


@cache
def _numbers() -> dict[str, int]:
    return {finding: number for number, finding in enumerate(sorted(ontology().ancestors))}


def _side(side: str) -> str:
    return side if side in ("left", "right") else ""


def claim_bit(finding: str, side: str = "") -> int:
    """The bit of a claim."""
    return 1 << (_numbers()[finding] * len(SIDES) + SIDES.index(_side(side)))


@cache
def clash_mask(finding: str, side: str) -> int:
    """Claims that conflict with denying `finding` on `side`, when a report asserts them."""
    sides = SIDES if side == "" else ("", side)
    return sum(claim_bit(other, at) for other in _numbers() if clashes(finding, other) for at in sides)


@cache
def cover_mask(finding: str, side: str) -> int:
    """Denials that already say that `finding` is absent on `side`."""
    sides = ("",) if side == "" else ("", side)
    return sum(claim_bit(other, at) for other in _numbers() if is_a(finding, other) for at in sides)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a sentence or a report says, as bit sets of claims."""

    asserted: int = 0
    denied: int = 0

    def __or__(self, other: Claims) -> Claims:
        return Claims(self.asserted | other.asserted, self.denied | other.denied)


def claims_of(judgement: Judgement) -> Claims:
    """The claims of a judged sentence."""
    asserted = denied = 0
    for mention in judgement.mentions:
        bit = claim_bit(mention.finding, mention.side)
        if mention.assertion == "absent":
            denied |= bit
        else:
            asserted |= bit
    return Claims(asserted, denied)


@lru_cache(maxsize=500_000)
def judged(sentence_key: str, language: str) -> tuple[Judgement, Claims]:
    """Judgement and claims of a sentence key; remembered, since most sentences repeat."""
    judgement = judge(sentence_key, language)
    return judgement, claims_of(judgement)


@lru_cache(maxsize=500_000)
def indication_claims(sentence_key: str, language: str) -> Claims:
    """What an indication asserts. A question ("evaluate for pneumonia") is no claim; a history or a diagnosis is."""
    judgement, _ = judged(sentence_key, language)
    asserted = 0
    for mention in judgement.mentions:
        if mention.assertion in ("present", "historical") and "question" not in judgement.flags:
            asserted |= claim_bit(mention.finding, mention.side)
    return Claims(asserted, 0)


@dataclass(frozen=True, slots=True)
class Signature:
    """What the guard needs of a donor: its denials, each with the claims it clashes with and those that cover it."""

    denials: tuple[tuple[str, int, int], ...]  # (finding, clash mask, cover mask)
    denied: int

    @property
    def clash(self) -> int:
        """Claims of a report that this donor would contradict."""
        result = 0
        for _, clash, _ in self.denials:
            result |= clash
        return result


def signature(judgement: Judgement) -> Signature:
    """The signature of a donor."""
    pairs = sorted({(m.finding, _side(m.side)) for m in judgement.mentions if m.assertion == "absent"})
    denials = tuple((finding, clash_mask(finding, side), cover_mask(finding, side)) for finding, side in pairs)
    return Signature(denials, claims_of(judgement).denied)


def refusal(donor: Signature, report: Claims) -> str | None:
    """Why `donor` may not be added to a report that makes the claims `report`; None if it may."""
    for finding, clash, _ in donor.denials:
        if clash & report.asserted:
            return f"contradicts:{finding}"
    for finding, _, cover in donor.denials:
        if cover & report.denied:
            return f"restates:{finding}"
    return None


def unfit(judgement: Judgement, text: str) -> str | None:
    """Why a sentence may not be donated to any report; None if it may. `text` is as it would be written."""
    if _ODD.search(text):
        return "unfit:odd_characters"
    if _RUN_TOGETHER.search(text):
        return "unfit:run_together"
    if judgement.flags:
        return f"unfit:{min(judgement.flags)}"
    if not any(mention.assertion == "absent" for mention in judgement.mentions):
        return "unfit:says_nothing"
    if any(_side(mention.side) for mention in judgement.mentions):
        # "The left lung is clear" tells of a right one that isn't, and nothing vouches for a side.
        return "unfit:one_sided"
    return None

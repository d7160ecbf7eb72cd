"""The verdict on a donor sentence, from what it denies and what its report says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from raymedlt.enrichment.guard.claims import (
    REMEMBERED,
    UNSPECIFIED,
    Claims,
    clash_mask,
    cover_mask,
    history_mask,
    judged,
    kin_mask,
    plain_side,
)
from raymedlt.enrichment.guard.reading import VIEWS, rules, suggested_absent
from raymedlt.enrichment.text import finished
from raymedlt.reports.assertion import Judgement
from raymedlt.reports.sentences import sentence_key

_ODD = re.compile(r"[^A-Za-zÀ-ÿ ,.'’/()-]|\.\s*\.|[A-Za-z]\.[A-Za-z]")
# A new sentence that begins inside this one, where a full stop was forgotten.
_RUN_TOGETHER = re.compile(
    r"[a-z,;] (?:The|There|No|Is|Heart|Lungs?|Normal|Cardiac|Mediastinum|Pleural)\b"
    r"|\b(?:effusions?|pneumothora(?:x|ces)|consolidations?|infiltrates?|disease|edema|clear|normal|limits) no "
    r"|^Without\b"
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What the guard needs of a donor: what it denies, and for each denial the claims that speak against it.

    denials: (finding; masks of claims that clash, of denials that say as much, of histories that clash, of findings
    that must not have gone unread).
    """

    denials: tuple[tuple[str, int, int, int, int], ...]

    @property
    def clash(self) -> int:
        """Claims of a report that this donor would contradict."""
        result = 0
        for _, clash, _, _, _ in self.denials:
            result |= clash
        return result


@lru_cache(maxsize=REMEMBERED)
def signature(sentence_key: str, language: str) -> Signature:
    """The signature of a donor; remembered."""
    judgement, _ = judged(sentence_key, language)
    pairs = sorted({(m.finding, plain_side(m.side)) for m in judgement.mentions if m.assertion == "absent"})
    suggested = 0
    for finding in suggested_absent(sentence_key, language):
        suggested |= clash_mask(finding, "")
    denials = tuple(
        (
            finding,
            clash_mask(finding, side) | suggested,
            cover_mask(finding, side),
            history_mask(finding, side),
            kin_mask(finding, side),
        )
        for finding, side in pairs
    )
    return Signature(denials)


def refusal(donor: Signature, report: Claims) -> str | None:
    """Why `donor` may not be added to a report that makes the claims `report`; None if it may."""
    for finding, clash, _, history, _ in donor.denials:
        if clash & report.asserted or history & report.history:
            return f"contradicts:{finding}"
    for finding, _, cover, _, _ in donor.denials:
        if cover & report.denied:
            return f"restates:{finding}"
    for finding, _, _, _, kin in donor.denials:
        if kin & report.unread:
            return f"unread:{finding}"
    return None


@lru_cache(maxsize=REMEMBERED)
def needed_view(sentence_key: str, language: str) -> int:
    """Bit set (of reading.VIEWS) of the views without which nobody can say the sentence ("the trachea is midline")."""
    needed = 0
    for pattern, view in rules(language).needs:
        if pattern.search(sentence_key):
            needed |= 1 << VIEWS.index(view)
    return needed


def view_refusal(sentence_key: str, report: Claims, language: str) -> str | None:
    """ "view:lateral" or "view:frontal" if the sentence needs a view that the study lacks."""
    missing = needed_view(sentence_key, language) & report.unseen if report.unseen else 0
    return next((f"view:{view}" for place, view in enumerate(VIEWS) if missing >> place & 1), None)


def unfit(judgement: Judgement, text: str) -> str | None:
    """Why a sentence may not be donated to any report; None if it may. `text` is as it would be written."""
    if _ODD.search(text):
        return "unfit:odd_characters"
    if _RUN_TOGETHER.search(text):
        return "unfit:run_together"
    if judgement.flags:
        return f"unfit:{min(judgement.flags, key=lambda flag: (flag == 'anaphora', flag))}"  # "this" tells least
    if all(mention.assertion != "absent" or mention.finding == UNSPECIFIED for mention in judgement.mentions):
        return "unfit:says_nothing"
    if any(plain_side(mention.side) for mention in judgement.mentions):
        # "The left lung is clear" tells of a right one that isn't, and nothing vouches for a side.
        return "unfit:one_sided"
    return None


def verdict(sentence: str, report: Claims, language: str = "en") -> str | None:
    """Why `sentence` may not be added to a report that makes the claims `report` (`report_claims`); None if it may.

    The whole text guard in one call, for checks from outside: `enrich` asks its parts where they cost least.
    """
    key = sentence_key(sentence)
    judgement, _ = judged(key, language)
    return (
        unfit(judgement, finished(sentence))
        or (None if judgement.sign == "normal" else f"unfit:{judgement.sign}_sentence")
        or refusal(signature(key, language), report)
        or view_refusal(key, report, language)
    )

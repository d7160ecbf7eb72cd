"""Claims as bits: a bit per finding and side, and the masks of what conflicts with a denial and what covers it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from raymedlt.reports.assertion import Judgement, judge
from raymedlt.reports.vocabulary import clashes, is_a, ontology

SIDES = ("", "left", "right")  # "" stands for both sides or an open one
UNSPECIFIED = "unspecified_abnormality"
# Parts whose abnormalities have names: in OpenI none of 15 to 122 reports with a nameless abnormality had a code there
# (mediastinum 5 of 55, hila 2 of 96, bones 1 of 65).
_NAMED_WHEN_ABNORMAL = frozenset(
    [
        "cardiac_silhouette_abnormality",
        "diaphragm_abnormality",
        "pleural_abnormality",
        "pulmonary_vascular_abnormality",
        "soft_tissue_abnormality",
    ]
)
REMEMBERED = 500_000  # distinct sentences whose judgement is kept


@cache
def _numbers() -> dict[str, int]:
    return {finding: number for number, finding in enumerate(sorted(ontology().ancestors))}


def plain_side(side: str) -> str:
    """ "left", "right" or "": both sides count as none."""
    return side if side in ("left", "right") else ""


def claim_bit(finding: str, side: str = "") -> int:
    """The bit of a claim.

    Raises:
        KeyError: `finding` is not in the ontology.
    """
    return 1 << (_numbers()[finding] * len(SIDES) + SIDES.index(plain_side(side)))


@cache
def clash_mask(finding: str, side: str) -> int:
    """Claims that conflict with denying `finding` on `side`, when a report asserts them."""
    sides = SIDES if side == "" else ("", side)
    return sum(claim_bit(other, at) for other in _numbers() if _conflict(finding, other) for at in sides)


def _conflict(denied: str, asserted: str) -> bool:
    """`clashes`, and what follows in a chest: a device, hardware in a bone, an abnormality without a name."""
    book = ontology()
    if book.kinds[asserted] == "device" and denied in ("chest_abnormality", "foreign_body"):
        return True  # a chest with a pacemaker isn't simply normal, and a catheter is a foreign body
    if asserted == "device_wires" and denied == "bone_abnormality":
        return True  # sternal wires: the bones aren't intact
    if asserted in (UNSPECIFIED, "lesion") and book.kinds[denied] == "group" and denied not in _NAMED_WHEN_ABNORMAL:
        return True  # it may be there
    return clashes(denied, asserted)


@cache
def kin_mask(finding: str, side: str) -> int:
    """Claims of `finding`, its kinds and what it is a kind of: what must not have gone unread when it is denied.

    Narrower than `clash_mask`: "the mediastinum is XXXX" leaves the mediastinum open, and not the heart.
    """
    nameless = ontology().kinds[finding] == "group" and finding not in _NAMED_WHEN_ABNORMAL
    sides = SIDES if side == "" else ("", side)
    kin = [o for o in _numbers() if is_a(o, finding) or is_a(finding, o) or (nameless and o == UNSPECIFIED)]
    return sum(claim_bit(other, at) for other in kin for at in sides)


@cache
def history_mask(finding: str, side: str) -> int:
    """Claims that an indication must not hold as history when `finding` is denied: itself, its kinds, what it is of.

    A group ("the lungs are clear") is not denied by a history: asthma need not show on a film.
    """
    kinds = ontology().kinds
    if kinds[finding] == "group":
        return 0
    sides = SIDES if side == "" else ("", side)
    same = [o for o in _numbers() if is_a(o, finding) or (is_a(finding, o) and kinds[o] != "group")]
    return sum(claim_bit(other, at) for other in same for at in sides)


@cache
def cover_mask(finding: str, side: str) -> int:
    """Denials that already say that `finding` is absent on `side`."""
    sides = ("",) if side == "" else ("", side)
    return sum(claim_bit(other, at) for other in _numbers() if is_a(finding, other) for at in sides)


@cache
def _open_sides() -> int:
    return sum(claim_bit(finding) for finding in _numbers())


def both_sides(claims: int) -> int:
    """`claims`, and the claim without a side where left and right are both there."""
    return claims | (claims >> 1 & claims >> 2 & _open_sides())


def one_sided(claims: int) -> int:
    """The claims without a side of findings that `claims` holds for one side only."""
    return (claims >> 1 ^ claims >> 2) & _open_sides() & ~claims


@cache
def devices() -> int:
    """All claims of devices."""
    kinds = ontology().kinds
    return sum(claim_bit(finding, side) for finding in _numbers() if kinds[finding] == "device" for side in SIDES)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a sentence or a report says, as bit sets of claims.

    unread: findings that the report may assert, in words that could not be read. unseen: bit set of the views that
    the study lacks (of `reading.VIEWS`). history: diseases of the indication that may not show on the film.
    unchanged: 1 if a sentence calls the whole chest unchanged and says nothing else; it counts where nothing but
    devices is asserted.
    """

    asserted: int = 0
    denied: int = 0
    unread: int = 0
    unseen: int = 0
    history: int = 0
    unchanged: int = 0

    def __or__(self, other: Claims) -> Claims:
        return Claims(
            self.asserted | other.asserted,
            self.denied | other.denied,
            self.unread | other.unread,
            self.unseen | other.unseen,
            self.history | other.history,
            self.unchanged | other.unchanged,
        )


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


@lru_cache(maxsize=REMEMBERED)
def judged(sentence_key: str, language: str) -> tuple[Judgement, Claims]:
    """Judgement and claims of a sentence key; remembered, since most sentences repeat."""
    judgement = judge(sentence_key, language)
    return judgement, claims_of(judgement)

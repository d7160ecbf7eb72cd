"""What a report's sentence claims: which findings are present, absent, uncertain or historical, and its sign.

Three steps: find the vocabulary's phrases (`phrases`), read their scopes (`reading`), and turn what was claimed into
mentions, a sign and flags (here). A statement of normality is the denial of a parent: "the lungs are clear" denies
`lung_abnormality`. The rules lean to one side: a sentence that they can't read is not called normal.

Trigger phrases with a scope are the idea of NegEx (Chapman et al., J Biomed Inform 2001) and ConText (Harkema et al.,
J Biomed Inform 2009).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from raymedlt.reports.breaks import restore
from raymedlt.reports.phrases import Item, find_phrases
from raymedlt.reports.reading import read
from raymedlt.reports.scope import ABSENT, GONE, UNSPECIFIED, Claim, Scope
from raymedlt.reports.vocabulary import (
    FLAG,
    PLAIN,
    SIDES,
    STRUCTURE,
    Vocabulary,
    clashes,
    is_a,
    ontology,
    vocabulary,
)

__all__ = ["Judgement", "Mention", "clashes", "is_a", "judge", "judge_many"]

NORMAL, NEUTRAL, ABNORMAL, MIXED = "normal", "neutral", "abnormal", "mixed"

# Roles of cues after which a sentence without findings is neutral: it speaks of a change, a part or a doubt.
LONGEST = 2000  # characters of a sentence
_NEUTRALISERS = ("gone", "no_change", "limited", "otherwise", "question", "was")
_NAMES = frozenset({STRUCTURE, PLAIN, FLAG, "placeholder"})
_LENDS_ITS_SIDE = frozenset({STRUCTURE, PLAIN, FLAG, "comma", "and", "or", "unknown", "placeholder", *SIDES})
_OTHER_PARTS = "other_body_part_abnormality"


@dataclass(frozen=True, slots=True)
class Mention:
    """One finding that a sentence speaks of."""

    finding: str  # an id of the ontology, "pleural_effusion"
    assertion: str  # "present", "absent", "uncertain", "historical"
    side: str  # "left", "right", "bilateral", ""
    start: int  # the term's first character in the sentence
    end: int  # one past its last
    anatomy: str = ""  # "lung", "pleura", "spine", ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a sentence claims. `flags` say what makes it unfit to be donated to another report, whatever its sign."""

    sign: str  # "normal", "neutral", "abnormal", "mixed"
    mentions: tuple[Mention, ...]
    flags: frozenset[str]


def judge(sentence: str, language: str = "en") -> Judgement:
    """Read one sentence.

    Returns:
        The sign: normal if it only denies or states normality; abnormal if something is present, uncertain or
        historical; mixed if both; neutral if neither, or if it speaks of a change ("has resolved", "no new ...") or of
        a part ("otherwise clear"). Mentions are in the order of the sentence.

    Raises:
        InputError: no rules for the language.

    Complexity: linear in the number of tokens for all but lists, whose commas each look ahead to the clause's end. A
    text of more than `LONGEST` characters is no sentence: it is read piece by piece, flagged "too_long", and never
    normal.
    """
    book = vocabulary(language)
    return _judge(sentence, book) if len(sentence) <= LONGEST else _judge_pieces(sentence, book)


def judge_many(sentences: Iterable[str], language: str = "en") -> list[Judgement]:
    """`judge` for each sentence, in order."""
    book = vocabulary(language)
    return [_judge(text, book) if len(text) <= LONGEST else _judge_pieces(text, book) for text in sentences]


def _judge_pieces(text: str, book: Vocabulary) -> Judgement:
    mentions: list[Mention] = []
    signs: set[str] = set()
    start = 0
    while start < len(text):
        end = text.rfind(" ", start, start + LONGEST) if start + LONGEST < len(text) else len(text)
        end = end if end > start else start + LONGEST  # a piece without a blank is cut where it is full
        piece = _judge(text[start:end], book)
        signs.add(piece.sign)
        mentions += [replace(each, start=each.start + start, end=each.end + start) for each in piece.mentions]
        start = end
    sign = NEUTRAL if signs <= {NEUTRAL} else ABNORMAL if NORMAL not in signs and MIXED not in signs else MIXED
    return Judgement(sign, tuple(mentions), frozenset({"too_long"}))


def _judge(sentence: str, book: Vocabulary) -> Judgement:
    items = find_phrases(sentence, book)
    if book.language.restore_breaks:
        items = restore(items)
    scope = read(items, book.pairs)
    claims = _kept(scope.claims)
    flags = _flags(items, claims)
    mentions = tuple(
        Mention(
            claim.finding,
            claim.assertion,
            _side(claim, claims, items),
            claim.item.start,
            claim.item.end,
            _anatomy(claim, items),
        )
        for claim in claims
    )
    return Judgement(_sign(scope, claims, flags), mentions, flags)


def _kept(claims: list[Claim]) -> list[Claim]:
    """Claims without repeats; an unspecified abnormality counts only where nothing better is said."""
    specific = {(claim.item.chunk, claim.assertion) for claim in claims if claim.finding != UNSPECIFIED}
    kept: dict[tuple[str, str, int], Claim] = {}
    for claim in claims:
        if claim.finding != UNSPECIFIED or (claim.item.chunk, claim.assertion) not in specific:
            kept.setdefault((claim.finding, claim.assertion, claim.item.chunk), claim)
    return sorted(kept.values(), key=lambda claim: claim.item.start)


def _flags(items: list[Item], claims: list[Claim]) -> frozenset[str]:
    flags: set[str] = set()
    for item in items:
        if item.term.flags:
            flags |= item.term.flags
    book = ontology()
    for claim in claims:
        if book.kinds[claim.finding] == "device":
            flags.add("device")
        if _OTHER_PARTS in book.ancestors[claim.finding]:
            flags.add("other_body_part")
    if not claims and items and (items[-1].term.role == "colon" or all(item.term.role in _NAMES for item in items)):
        flags.add("header")
    return frozenset(flags)


def _sign(scope: Scope, claims: list[Claim], flags: frozenset[str]) -> str:
    abnormal = any(claim.assertion != ABSENT for claim in claims)
    normal = scope.normality or any(claim.assertion == ABSENT and claim.kind != GONE for claim in claims)
    if abnormal:
        return MIXED if normal else ABNORMAL
    if not normal:
        return NEUTRAL
    if "except" in scope.cues:
        return MIXED
    if not claims or "recommendation" in flags or any(cue in scope.cues for cue in _NEUTRALISERS):
        return NEUTRAL
    return NORMAL


def _side(claim: Claim, claims: list[Claim], items: list[Item]) -> str:
    """The nearest side word of its chunk; a neighbour that states nothing lends its side ("right and left ...")."""
    if claim.item.side:
        return claim.item.side
    if not any(item.side for item in items):
        return ""
    here = claim.item.chunk
    first, last = _statement(claim, claims, items)
    stated = {item.chunk for item in items if item.term.role not in _LENDS_ITS_SIDE}
    ended = {item.chunk for item in items if item.term.role in ("stop", "break")}
    neighbours = ({here - 1} - ended) | ({here + 1} if here not in ended else set())
    chunks = {here} | (neighbours - stated)
    sides = [item for item in items if item.side and item.chunk in chunks and first <= item.start < last]
    names = {item.side for item in sides}
    alone = all(other.item is claim.item or other.item.chunk != here for other in claims)
    if "bilateral" in names or (len(names) == 2 and alone):
        return "bilateral"
    return min(sides, key=lambda item: abs(item.start - claim.item.start)).side if sides else ""


def _statement(claim: Claim, claims: list[Claim], items: list[Item]) -> tuple[int, int]:
    """Where the statement around a claim begins and ends: a denial cuts "left catheter without effusion" in two.

    "The left lung is clear without effusion" stays whole: it goes on about the same lung.
    """
    here = [other for other in claims if other.item.chunk == claim.item.chunk and other.kind != STRUCTURE]
    first, last = 0, items[-1].end + 1
    for item in items:
        if item.term.role != "deny" or item.chunk != claim.item.chunk:
            continue
        if item.start < claim.item.start:
            first = item.start if any(other.item.start < item.start for other in here) else first
        else:
            last = min(last, item.start)
    return first, last


def _anatomy(claim: Claim, items: list[Item]) -> str:
    """Where the finding is: its table's anatomy, or the part of it that the same chunk names ("lower lobe")."""
    anatomy = claim.anatomy
    if claim.item.term.role == STRUCTURE:
        return anatomy
    parts = [item for item in items if item.term.within and item.chunk == claim.item.chunk]
    fitting = [item for item in parts if not anatomy or item.term.within == anatomy]
    if not fitting:
        return anatomy
    return min(fitting, key=lambda item: abs(item.start - claim.item.start)).term.anatomy

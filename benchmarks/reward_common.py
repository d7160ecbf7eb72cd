"""What the benchmarks of rewards share: held-out real reports, clusters of the others, and rules that change sentences.

A fifth of the patients is held out; clusters are fitted on the reports of the others, as jobs/enrich.py fits them.
"""

from __future__ import annotations

import random
import re
from typing import Any

import pyarrow as pa
from common import openi_reports, remembering

from raymedlt.alignment.rewards import RewardModel
from raymedlt.config import EnrichConfig
from raymedlt.enrichment.audit.errors import own_negated
from raymedlt.enrichment.memory import fit, model_of
from raymedlt.reports.sentences import split_sentences
from raymedlt.seeds import keyed_seed

HELD_OUT = 5  # every fifth patient
RESAMPLES = 2000

_ANY = re.IGNORECASE
_SIDE = re.compile(r"\b(left|right)\b", _ANY)
_DENIED = (
    (re.compile(r"^there (is|are) no (?:evidence of |definite |acute |focal )?(.+)$", _ANY), r"There \1 \2"),
    (
        re.compile(
            r"^no (?:evidence of |definite |acute |focal )?(.+?)(?: (?:is|are) (?:seen|identified|present))?$", _ANY
        ),
        r"There is \1",
    ),
    (re.compile(r"^(.+?) (is|are) not (.+)$", _ANY), r"\1 \2 \3"),
    (re.compile(r"^negative (?:for )?(?:acute )?(.+)$", _ANY), r"Positive for \1"),
)
_DENIES = re.compile(r"\b(?:no|not|without|negative|free|xxxx)\b", _ANY)
# The same in other words, each way round where both are said; the first that fits is taken.
_REWORDED = (
    (re.compile(r"^there (?:is|are) no evidence of (.+)$", _ANY), r"No \1 seen"),
    (re.compile(r"^no evidence of (.+)$", _ANY), r"There is no sign of \1"),
    (re.compile(r"^there (?:is|are) no (.+)$", _ANY), r"No \1 identified"),
    (re.compile(r"^no (.+?) (?:is|are) (?:seen|identified|present|noted)$", _ANY), r"There is no \1"),
    (re.compile(r"^no (.+)$", _ANY), r"There is no \1 seen"),
    (re.compile(r"^(?:the )?heart size (?:is|appears)(?: within)? normal(?: limits)?$", _ANY), r"No enlarged heart"),
    (re.compile(r"^(?:the )?heart (?:is|appears) normal in size$", _ANY), r"Cardiac size is normal"),
    (re.compile(r"^(?:the )?(.+?) (is|are) (?:within normal limits|unremarkable|normal)$", _ANY), r"Normal \1"),
    (re.compile(r"^(?:the )?lungs are clear(?: bilaterally)?$", _ANY), r"Both lungs appear clear"),
    (re.compile(r"^there (is|are) (.+)$", _ANY), r"\2 \1 noted"),
    (re.compile(r"^(.+) (?:is|are) (?:seen|noted|present|identified)$", _ANY), r"There is \1"),
    (re.compile(r"^the (.+?) (is|are) (.+)$", _ANY), r"\1 \2 seen to be \3"),
)  # fmt: skip


def held_out() -> tuple[pa.Table, pa.Table]:
    """Reports with both sections of the patients to learn from and of those held out; column split says which."""
    reports = openi_reports()
    test = [keyed_seed(0, "held out", each) % HELD_OUT == 0 for each in reports["patient_id"].to_pylist()]
    names = pa.array(["test" if each else "train" for each in test])
    reports = reports.set_column(reports.column_names.index("split"), "split", names)
    both = [bool(row["findings"]) and bool(row["impression"]) for row in reports.to_pylist()]
    whole = [mine and there for mine, there in zip(test, both, strict=True)]
    return reports.filter(pa.array([not each for each in test])), reports.filter(pa.array(whole))


def reward_model(train: pa.Table) -> RewardModel:
    """Clusters of the reports to learn from."""
    config = EnrichConfig()
    _, fits = fit(train, config, remembering(config))
    return RewardModel(*(model_of(each, config, "float32") for each in fits))


def negated(sentence: str) -> str:
    """The opposite of a sentence: a denial affirmed, or a statement denied; "" where no rule can do that safely."""
    words = sentence.rstrip(" .")
    for pattern, affirmed in _DENIED:
        if pattern.match(words):
            return _sentence(pattern.sub(affirmed, words))
    return "" if _DENIES.search(words) else own_negated(sentence)


def side_flipped(sentence: str) -> str:
    """The sentence with left for right and right for left; "" where it has neither."""
    other = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
    flipped = _SIDE.sub(lambda match: other.get(match[0], match[0]), sentence)
    return flipped if flipped != sentence else ""


def reworded(sentence: str) -> str:
    """The sentence in other words; as it is where no rule fits."""
    words = sentence.rstrip(" .")
    for pattern, other in _REWORDED:
        if pattern.match(words):
            return _sentence(pattern.sub(other, words))
    return sentence


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def sentences(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Of findings and impression, each with its final point."""
    findings, impression = (
        [each if each[-1] in ".!?" else f"{each}." for each in split_sentences(row[name])]
        for name in ("findings", "impression")
    )
    return findings, impression


def drawn(*keys: str | int) -> random.Random:
    """Draws that depend on the keys alone."""
    return random.Random(keyed_seed(0, *keys))


def interval(found: Any) -> list[float]:
    """Estimate, low, high."""
    return [round(float(each), 4) for each in (found.estimate, found.low, found.high)]

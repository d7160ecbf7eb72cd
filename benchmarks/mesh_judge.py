"""Does a sentence contradict the MeSH codes that a human indexer gave to a report?

The judge knows nothing of raymedlt's assertion engine: it is a table of denials (mesh_denials.csv, fixed before the
engine was tuned), each a pattern over the lower-cased sentence and the codes that contradict it.

A code such as "Opacity/lung/base/left" has the head "Opacity" and qualifiers. `contradicted_by` lists, separated by
"|": `Head`, `Head&word` (some later part holds the word), `Head&-word` (no part holds the word), or `*` (any code but
"normal" and codes about image quality).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

NOT_FINDINGS = ("normal", "no indexing", "technical quality of image unsatisfactory", "")


@dataclass(frozen=True)
class Denial:
    name: str
    pattern: re.Pattern[str]
    contradicted_by: tuple[str, ...]


@cache
def denials() -> tuple[Denial, ...]:
    with open(Path(__file__).with_name("mesh_denials.csv"), encoding="utf-8", newline="") as file:
        return tuple(
            Denial(row["name"], re.compile(row["pattern"]), tuple(row["contradicted_by"].split("|")))
            for row in csv.DictReader(file)
        )


@lru_cache(maxsize=200_000)
def denied(sentence: str) -> tuple[Denial, ...]:
    """The denials that `sentence` makes; empty means that codes can't check it."""
    text = " ".join(sentence.lower().replace(".", " ").split())
    return tuple(denial for denial in denials() if denial.pattern.search(text))


def _code_matches(code: str, rule: str) -> bool:
    code = code.lower().strip()
    if rule == "*":
        return code not in NOT_FINDINGS
    head, _, word = rule.lower().partition("&")
    if not (code == head or code.startswith((head + "/", head + ","))):
        return False
    if not word:
        return True
    return (word[1:] not in code) if word.startswith("-") else (word in code)


def contradictions(sentence: str, codes: list[str]) -> list[tuple[str, str]]:
    """Pairs (denial, code) of `sentence` against a report's `codes`; empty when none contradicts."""
    return [
        (denial.name, code)
        for denial in denied(sentence)
        for code in codes
        if any(_code_matches(code, rule) for rule in denial.contradicted_by)
    ]


def is_finding(code: str) -> bool:
    """Whether a code names something abnormal."""
    return code.lower().strip() not in NOT_FINDINGS

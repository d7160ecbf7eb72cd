"""Signs of patients, staff and places in report texts: names, dates, ids, phone numbers, e-mail, addresses.

A net for reports that were thought to be de-identified, not a de-identifier: a name without a title, a form or a role
beside it passes, and so does everything that is written in small letters only. What de-identification left behind
("XXXX", "___", "[**2101-3-4**]") is no sign. Kinds follow the HIPAA safe harbour; years alone are allowed there.

The rules are data (`rules/phi.csv`): `needs` are words of which the text must hold one before the pattern is tried,
in small letters ("0-9": a digit). Nothing here returns or logs a text, only kinds and counts.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_DIGITS = "0-9"
_DIGIT = re.compile(r"\d")
_PLACEHOLDER = re.compile(r"\[\*\*[^\[\]]{0,100}\*\*\]")


class _Rule(NamedTuple):
    kind: str
    needs: tuple[str, ...]
    pattern: re.Pattern[str]


def kinds_in(text: str) -> frozenset[str]:
    """The kinds of signs that a text holds: "name", "date", "age over 89", "phone", "e-mail", "address", "id".

    About 20 microseconds for a report of 300 characters; linear in the length of `text`.
    """
    if "[**" in text:
        text = _PLACEHOLDER.sub("___", text)
    small, has_digit = text.lower(), _DIGIT.search(text) is not None
    found: set[str] = set()
    for rule in _rules():
        if rule.kind in found:
            continue
        wanted = has_digit if rule.needs == (_DIGITS,) else any(word in small for word in rule.needs)
        if wanted and rule.pattern.search(text):
            found.add(rule.kind)
    return frozenset(found)


def reports_by_kind(texts: Iterable[str]) -> dict[str, int]:
    """How many of `texts` hold each kind of sign, sorted by kind; kinds that none holds are left out."""
    return dict(sorted(Counter(kind for text in texts for kind in kinds_in(text)).items()))


def in_words(counts: dict[str, int]) -> str:
    """ "date in 12, name in 3" """
    return ", ".join(f"{kind} in {count:,}" for kind, count in counts.items())


@cache
def _rules() -> tuple[_Rule, ...]:
    table = files("raymedlt.reports").joinpath("rules", "phi.csv").read_text(encoding="utf-8")
    return tuple(
        _Rule(row["kind"], tuple(row["needs"].split()), re.compile(row["pattern"]))
        for row in csv.DictReader(table.splitlines())
    )

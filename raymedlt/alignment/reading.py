"""Completions and references as two sections each, findings and impression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raymedlt.errors import InputError
from raymedlt.evaluation.answers import split_answer
from raymedlt.reports.vocabulary import languages


@dataclass(frozen=True, slots=True)
class Reference:
    """The original report of a study."""

    findings: str = ""
    impression: str = ""
    language: str = "en"


Given = Reference | Mapping[str, Any] | str | None
"""A reference as it is given: a mapping has the keys of `Reference`, findings or impression at least; a text without
tags is all findings; None where there is none."""


class Section(NamedTuple):
    """One section of a completion and of its reference."""

    said: str
    true: str
    language: str


def score_sections(
    completions: Sequence[str | None],
    references: Sequence[Given],
    score: Callable[[Sequence[Section], str], Sequence[float]],
    *,
    judged: bool = False,
) -> list[float | None]:
    """A reward: findings part + impression part.

    Args:
        score: the parts of some sections, all of one name, "findings" or "impression".
        judged: whether the reward needs assertion rules of the report's language.

    Returns:
        One value each; None where the completion or its reference is missing (None), and where the reference's language
        has no assertion rules, if they are needed. A bad completion is 0.

    Raises:
        InputError: different numbers of completions and references, or a reference of another kind.
    """
    check_lengths(completions, references)
    rewards: list[float | None] = [None] * len(completions)
    findings, impressions, rows = [], [], []
    for row, (completion, given) in enumerate(zip(completions, references, strict=True)):
        reference = reference_of(given)
        if completion is None or reference is None or (judged and reference.language not in languages()):
            continue
        thought, answer = split_answer(completion)
        findings.append(Section(thought, reference.findings, reference.language))
        impressions.append(Section(answer, reference.impression, reference.language))
        rows.append(row)
    parts = zip(score(findings, "findings"), score(impressions, "impression"), strict=True)
    for row, (first, second) in zip(rows, parts, strict=True):
        rewards[row] = float(first) + float(second)
    return rewards


def check_lengths(completions: Sequence[object], references: Sequence[object]) -> None:
    """Raises InputError unless there is one reference for each completion."""
    if len(completions) != len(references):
        raise InputError(
            f"{len(completions)} completions and {len(references)} references", "one reference for each completion"
        )


def reference_of(given: Given) -> Reference | None:
    """A reference in its own form; None where neither section is there.

    Raises:
        InputError: of another kind, or a mapping without findings and impression.
    """
    if given is None or isinstance(given, Reference):
        return given
    if isinstance(given, str):
        return Reference(*split_answer(given))
    if not isinstance(given, Mapping) or not {"findings", "impression"} & given.keys():
        kind = f"keys {sorted(map(str, given))}" if isinstance(given, Mapping) else f"type {type(given).__name__}"
        raise InputError(
            f"a reference of {kind}",
            "a Reference, a mapping with findings or impression, or a text",
            "give one of them, or None where there is no reference",
        )
    findings, impression = given.get("findings"), given.get("impression")
    if findings is None and impression is None:
        return None
    return Reference(findings or "", impression or "", given.get("language") or "en")

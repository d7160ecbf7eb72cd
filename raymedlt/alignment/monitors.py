"""Signs that a policy has found something easier than writing good reports, watched while it learns.

GRPO raises whatever is rewarded. A policy that writes one normal report for everybody, the same sentences again and
again, or sentences that nobody can check, shows it here before its reward does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymedlt.alignment.reading import Given, check_lengths, reference_of
from raymedlt.alignment.rewards import SECTIONS, RewardModel
from raymedlt.evaluation.answers import split_answer
from raymedlt.evaluation.findings import claims_of
from raymedlt.evaluation.sentences import keys_of
from raymedlt.reports.vocabulary import languages

FLAT = 1e-6
"""Rewards of one study's completions that differ by no more are the same: nothing is learnt from them."""


def unmapped_share(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel
) -> list[float | None]:
    """Share of a completion's distinct sentences that belong to no cluster; 0 where it has none. Computed like a
    reward, and not one. None as for rewards."""
    check_lengths(completions, references)
    given = [reference_of(each) for each in references]
    rows = [
        row
        for row, (text, reference) in enumerate(zip(completions, given, strict=True))
        if text is not None and reference is not None and reference.language in languages()
    ]
    unmapped, distinct = dict.fromkeys(rows, 0), dict.fromkeys(rows, 0)
    for place, name in enumerate(SECTIONS):
        texts = [split_answer(str(completions[row]))[place] for row in rows]
        spoken = [reference.language for row in rows if (reference := given[row]) is not None]
        for row, text, mapped in zip(rows, texts, model.maps[name].map(texts, spoken), strict=True):
            unmapped[row] += mapped.unmapped
            distinct[row] += len(set(keys_of(text)))
    return [
        None if row not in distinct else unmapped[row] / distinct[row] if distinct[row] else 0.0
        for row in range(len(completions))
    ]


def signs(
    completions: Sequence[str], rewards: Sequence[float | None], unmapped: Sequence[float | None], generations: int
) -> dict[str, float]:
    """What is watched in a step's completions, each one a share but `words`.

    Args:
        completions: those of a study one after another.
        rewards: of each, the weighted sum.
        unmapped: as `unmapped_share` gives it.
        generations: completions of each study.

    Returns:
        normal: completions that claim no finding as present; distinct: distinct sentences among all; flat: studies
        whose completions have the same reward; none: completions without a reward; words: mean length; unmapped.
    """
    sentences = [key for text in completions for key in keys_of(text)]
    groups = [rewards[start : start + generations] for start in range(0, len(rewards), generations)]
    known = [value for value in unmapped if value is not None]
    count = max(1, len(completions))
    return {
        "normal": sum(not claims_of(text).present for text in completions) / count,
        "distinct": len(set(sentences)) / max(1, len(sentences)),
        "flat": sum(_flat(group) for group in groups) / max(1, len(groups)),
        "none": sum(value is None for value in rewards) / max(1, len(rewards)),
        "words": sum(len(text.split()) for text in completions) / count,
        "unmapped": sum(known) / max(1, len(known)),
    }


def _flat(rewards: Sequence[float | None]) -> bool:
    known = [value for value in rewards if value is not None]
    return not known or max(known) - min(known) <= FLAT


def alarms(history: Sequence[Mapping[str, Any]], *, window: int = 10) -> list[str]:
    """What the last steps show that the first ones did not; a line each.

    Args:
        history: a line per step with the keys of `signs`.
        window: steps that are averaged, at the start and at the end.
    """
    if len(history) < 2 * window:
        return []
    first, last = ({name: _mean(part, name) for name in _SIGNS} for part in (history[:window], history[-window:]))
    found = []
    if last["normal"] > 0.9 and last["normal"] > first["normal"] + 0.1:
        found.append(f"{last['normal']:.0%} of the completions claim no finding ({first['normal']:.0%} at the start)")
    if last["distinct"] < first["distinct"] / 3:
        found.append(f"distinct sentences fell from {first['distinct']:.1%} to {last['distinct']:.1%} of all")
    if last["flat"] > 0.8:
        found.append(f"in {last['flat']:.0%} of the studies all completions have the same reward: nothing to learn")
    if last["words"] > 2 * first["words"] or last["words"] < first["words"] / 2:
        found.append(f"completions went from {first['words']:.0f} to {last['words']:.0f} words")
    if last["unmapped"] > first["unmapped"] + 0.25:
        found.append(f"sentences without a cluster rose from {first['unmapped']:.0%} to {last['unmapped']:.0%}")
    if last["none"] > 0.05:
        found.append(f"{last['none']:.0%} of the completions got no reward in time")
    return found


_SIGNS = ("normal", "distinct", "flat", "none", "words", "unmapped")


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(line[name] for line in lines) / len(lines))

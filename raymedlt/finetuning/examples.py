"""Examples of what a model wrote: which ones a page shows, and how a report compares with what is so, by sentence.

Findings are those of the project's own assertion rules, as in the scores (evaluation.findings).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raymedlt.evaluation.findings import Claims, Finding, claims_of
from raymedlt.reports.labels import contradicts
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.seeds import keyed_seed

SHOWN = 8
WITH_FINDINGS = 0.75  # share of the shown examples whose truth has a finding: most reports have none


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image, what was written about it, and what is so."""

    image_id: str
    image_SS: npt.NDArray[np.uint8]
    completion: str
    """Findings that the model wrote."""
    reference: str
    """Findings of the original report."""
    complete: str = ""
    """The same without omissions; "" where nobody has it."""
    language: str = "en"
    cut: bool = False
    """The model's text ended because it had as many tokens as it may have."""

    @property
    def truth(self) -> str:
        """What the model's claims are held against."""
        return self.complete or self.reference


@dataclass(frozen=True)
class Told:
    """A sentence and what is so of it."""

    text: str
    same: bool = False
    """The other text has it too, word for word."""
    right: tuple[str, ...] = ()
    """Findings that it claims, which are there."""
    side: tuple[str, ...] = ()
    """Findings that it claims, which are there on the other side."""
    wrong: tuple[str, ...] = ()
    """Findings that it claims, which are not there."""
    denied: tuple[str, ...] = ()
    """Findings that are there, which it denies."""
    missed: tuple[str, ...] = ()
    """Of the truth: findings that it names and the model does not."""
    claims: bool = False
    """It names a finding as present."""


@dataclass(frozen=True)
class Compared:
    """A report of the model beside the truth."""

    written: tuple[Told, ...]
    """The model's sentences."""
    reference: tuple[Told, ...]
    """The original report's."""
    left_out: tuple[Told, ...]
    """Sentences of the complete text that say something of which the original report does not speak."""
    found: tuple[str, ...]
    side: tuple[str, ...]
    """Found, but on the other side only."""
    missed: tuple[str, ...]
    wrong: tuple[str, ...]


def chosen(
    ids: Sequence[str], truths: Sequence[str], *, language: str = "en", most: int = SHOWN, seed: int
) -> list[int]:
    """Places of the reports that a page shows: drawn by a hash of their ids, whatever the model wrote about them.

    Args:
        ids: of all reports.
        truths: their texts; three quarters of the examples have a finding there, if enough have one.
    """
    order = sorted(range(len(ids)), key=lambda place: keyed_seed(seed, "example", ids[place]))
    with_findings = [place for place in order if claims_of(truths[place], language).present]
    held = set(with_findings)
    without = [place for place in order if place not in held]
    few = min(len(without), max(round(most * (1 - WITH_FINDINGS)), most - len(with_findings)))
    return with_findings[: most - few] + without[:few]


def compared(example: Example) -> Compared:
    """Sentence by sentence."""
    truth, said = claims_of(example.truth, example.language), claims_of(example.completion, example.language)
    keys = {sentence_key(each) for each in split_sentences(f"{example.reference}\n\n{example.complete}")}
    own_keys = {sentence_key(each) for each in split_sentences(example.completion)}
    known = claims_of(example.reference, example.language)
    found = truth.groups & said.groups
    side = found - {each.group for each in said.present if not _elsewhere(each, truth)}
    return Compared(
        written=tuple(_written(text, claims, keys, truth) for text, claims in _sentences(example.completion, example)),
        reference=tuple(_true(text, claims, own_keys, said) for text, claims in _sentences(example.reference, example)),
        left_out=tuple(
            _true(text, claims, own_keys, said)
            for text, claims in _sentences(example.complete, example)
            if not (claims.groups <= known.groups and claims.denied <= known.denied)
        ),
        found=_names(found - side),
        side=_names(side),
        missed=_names(truth.groups - said.groups),
        wrong=_names(said.groups - truth.groups),
    )


def _sentences(text: str, example: Example) -> Iterator[tuple[str, Claims]]:
    for sentence in split_sentences(text):
        yield sentence, claims_of(sentence, example.language)


def _written(text: str, claims: Claims, keys: set[str], truth: Claims) -> Told:
    there = claims.groups & truth.groups
    other_side = {each.group for each in claims.present if each.group in there and _elsewhere(each, truth)}
    denied = {
        label.finding for label in truth.asserted if any(contradicts(denial, label) for denial in claims.denied)
    } - {label.finding for label in claims.asserted}
    told = Told(
        text, same=sentence_key(text) in keys, right=_names(there - other_side), side=_names(other_side),
        wrong=_names(claims.groups - truth.groups), denied=_names(denied), claims=bool(claims.present),
    )  # fmt: skip
    # A denial that the truth has too ("no focal consolidation" beside a nodule) is no mistake of the model's.
    return replace(told, denied=()) if told.same else told


def _elsewhere(finding: Finding, truth: Claims) -> bool:
    """The truth has the finding, but not on this side."""
    sides = {each.side for each in truth.present if each.group == finding.group}
    return bool(finding.side) and "" not in sides and finding.side not in sides


def _true(text: str, claims: Claims, keys: set[str], said: Claims) -> Told:
    missed = _names(claims.groups - said.groups)
    return Told(text, same=sentence_key(text) in keys, missed=missed, claims=bool(claims.present))


def _names(groups: set[str] | frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(group.replace("_", " ") for group in groups))

"""The report of a phantom: plain radiology English from the same findings, with recorded omissions.

Real reports leave out most of what is normal, and now and then something that is there. So does this text, and it says
what: `omitted` names the findings, present or absent, of which the complete text speaks and this one does not. What is
written is always true. The phrases are in phantom_phrases.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

from raymedlt.images.phantom_labels import FINDINGS, Finding
from raymedlt.seeds import generator

_LUNGS = frozenset(name for name, kind in FINDINGS.items() if kind.region == "lungs")
_SAY_CLEAR = 0.7  # probability that clear lungs are called so, rather than one denial per finding
_LEAVE_OUT_CLEAR = 0.25
_LEAVE_OUT_PRESENT = (0.03, 0.15)  # probability that a plain and that a hardly visible finding is left out
_JOIN = 0.6  # probability of "No pleural effusion or pneumothorax."
_EFFUSION, _PNEUMOTHORAX = "Pleural effusion", "Pneumothorax"
_NORMAL_IMPRESSION = 0.85
_IMPRESSION_LINES = 3


@dataclass(frozen=True, slots=True)
class PhantomText:
    """A report."""

    findings: str
    impression: str
    complete_findings: str
    """The findings without omissions."""
    omitted: tuple[str, ...]
    """Names of findings, present or absent, that the complete text states and this one doesn't."""


@dataclass(frozen=True, slots=True)
class _Statement:
    sentence: str
    about: tuple[str, ...]
    kept: bool


def text(findings: Sequence[Finding], *, seed: int, image_id: str) -> PhantomText:
    """The report of the image that `draw` makes of the same arguments. About 0.3 ms."""
    rng = generator(seed, "phantom", image_id, "text")
    present = {finding.name: finding for finding in findings}
    u, choice = rng.random((len(FINDINGS), 2)), rng.integers(0, 1 << 30, len(FINDINGS) + 2)
    clear = not _LUNGS & present.keys() and rng.random() < _SAY_CLEAR
    lungs_left_out, joined = rng.random() < _LEAVE_OUT_CLEAR, rng.random() < _JOIN
    statements: list[_Statement] = []
    for i, (name, kind) in enumerate(FINDINGS.items()):
        if name in present:
            finding = present[name]
            plain, faint = _LEAVE_OUT_PRESENT
            left_out = u[i, 0] < plain + (faint - plain) * (1 - finding.severity)
            statements.append(_Statement(positive(finding, int(choice[i])), (name,), not left_out))
        elif name in _LUNGS and clear:
            if not any(name_ in _LUNGS for each in statements for name_ in each.about):
                sentence = _pick("lungs", "clear", int(choice[-1]))
                statements.append(_Statement(sentence, tuple(n for n in FINDINGS if n in _LUNGS), not lungs_left_out))
        elif kind.mentioned and not kind.unless & present.keys():
            sentence = _pick(name, "negative", int(choice[i]))
            statements.append(_Statement(sentence, (name,), bool(u[i, 1] < kind.mentioned)))
    impression = _impression(statements, present, rng, int(choice[-2]))
    kept = [each for each in statements if each.kept]
    return PhantomText(
        " ".join(_sentences(kept, present, joined)),
        impression,
        " ".join(_sentences(statements, present, joined)),
        tuple(name for each in statements if not each.kept for name in each.about),
    )


def positive(finding: Finding, choice: int = 0) -> str:
    """One sentence that says that the finding is there, with side and degree; 0 is the shortest."""
    kind = FINDINGS[finding.name]
    both = "both" in kind.sides and finding.side in ("both", "") and (finding.name, "both") in _phrases()
    level = 0 if finding.severity < 0.33 else 1 if finding.severity < 0.66 else 2
    template = _pick(finding.name, "both" if both else "positive", choice)
    filled = template.format(
        degree=("mild", "moderate", "severe")[level], size=("small", "moderate", "large")[level], side=finding.side
    )
    return filled[0].upper() + filled[1:]


def _impression(
    statements: list[_Statement], present: dict[str, Finding], rng: np.random.Generator, choice: int
) -> str:
    if not present:
        return _pick("everything", "normal", choice) if rng.random() < _NORMAL_IMPRESSION else ""
    told = [present[each.about[0]] for each in statements if each.kept and each.about[0] in present]
    told.sort(key=lambda finding: -finding.severity)
    return " ".join(positive(finding) for finding in told[:_IMPRESSION_LINES])


def _sentences(statements: list[_Statement], present: dict[str, Finding], joined: bool) -> list[str]:
    """The sentences; the two commonest denials may share one."""
    about = {name for each in statements for name in each.about}
    pair = {_EFFUSION, _PNEUMOTHORAX}
    if not (joined and pair <= about and not pair & present.keys()):
        return [each.sentence for each in statements]
    sentences = []
    for each in statements:
        if each.about == (_EFFUSION,):
            sentences.append("No pleural effusion or pneumothorax.")
        elif each.about != (_PNEUMOTHORAX,):
            sentences.append(each.sentence)
    return sentences


def _pick(about: str, kind: str, choice: int) -> str:
    templates = _phrases()[about, kind]
    return templates[choice % len(templates)]


@lru_cache(maxsize=1)
def _phrases() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    with resources.files("raymedlt.images").joinpath("phantom_phrases.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["finding"], row["kind"]), []).append(row["template"])
    return found

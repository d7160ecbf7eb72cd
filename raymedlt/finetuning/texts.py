"""What the model is taught to write, and how what it wrote is read back.

    findings        the findings
    think_answer    <think> findings </think><answer> impression </answer>

Source: SemEnrich (arXiv 2604.09887), which teaches the second form before it reinforces it.
"""

from __future__ import annotations

import re

from raymedlt.finetuning.config import TextFormat

_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>")  # a tokenizer may put blanks between the pieces of a tag


def target_text(findings: str, impression: str, form: TextFormat) -> str:
    """The text that a study teaches; outer blanks of the two sections do not count."""
    if form == "findings":
        return findings.strip()
    return f"<think> {findings.strip()} </think><answer> {impression.strip()} </answer>"


def split_answer(completion: str) -> tuple[str, str]:
    """Findings and impression of what a model wrote.

    A text without tags is all findings. A section ends at its closing tag, at the next opening one or where the text
    breaks off; what stands outside the sections is no report. Of a section written twice the first counts.
    """
    tags = list(_TAG.finditer(completion))
    if not tags:
        return completion.strip(), ""
    found: dict[str, str] = {}
    ends = [tag.start() for tag in tags[1:]] + [len(completion)]
    for tag, end in zip(tags, ends, strict=True):
        if not tag[1]:
            found.setdefault(tag[2], completion[tag.end() : end].strip())
    return found.get("think", ""), found.get("answer", "")

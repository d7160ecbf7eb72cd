"""What a model wrote, read back: findings, and an impression where it was taught to write one.

    <think> findings </think><answer> impression </answer>

Source: SemEnrich (arXiv 2604.09887), which teaches this form before it reinforces it.
"""

from __future__ import annotations

import re

_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>")  # a tokenizer may put blanks between the pieces of a tag
_FORM = ["think", "/think", "answer", "/answer"]


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


def in_form(completion: str) -> bool:
    """Whether a text has the four tags in their order, each once, words in both sections and nothing outside."""
    tags = list(_TAG.finditer(completion))
    if [tag[1] + tag[2] for tag in tags] != _FORM:
        return False
    opens, closes, answers, ends = tags
    outside = completion[: opens.start()] + completion[closes.end() : answers.start()] + completion[ends.end() :]
    return not outside.strip() and all(split_answer(completion))

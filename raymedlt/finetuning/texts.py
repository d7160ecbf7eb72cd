"""What the model is taught to write; `evaluation.answers` reads back what it wrote.

    findings        the findings
    think_answer    <think> findings </think><answer> impression </answer>

Source: SemEnrich (arXiv 2604.09887), which teaches the second form before it reinforces it.
"""

from __future__ import annotations

from raymedlt.finetuning.config import TextFormat


def target_text(findings: str, impression: str, form: TextFormat) -> str:
    """The text that a study teaches; outer blanks of the two sections do not count."""
    if form == "findings":
        return findings.strip()
    return f"<think> {findings.strip()} </think><answer> {impression.strip()} </answer>"

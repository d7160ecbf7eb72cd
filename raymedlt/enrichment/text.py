"""How additions are put behind a report's findings, and taken off again."""

from __future__ import annotations


def finished(sentence: str) -> str:
    """The sentence with a capital and one full stop."""
    sentence = sentence.strip().rstrip(" .,;")
    sentence = sentence[:1].upper() + sentence[1:]
    return sentence if sentence.endswith(("!", "?", ":")) else sentence + "."


def append(findings: str, sentences: list[str]) -> str:
    """`findings` with `sentences` behind it; the original stays as it is, byte for byte, at the front."""
    if not sentences:
        return findings
    ended = not findings or findings.rstrip()[-1:] in ".!?"
    blank = not findings or findings[-1].isspace()
    joint = ("" if blank else " ") if ended else ". "
    return findings + joint + " ".join(map(finished, sentences))


def strip_additions(findings: str, enriched_findings: str) -> str:
    """The original back from an enriched text: its first len(findings) characters."""
    return enriched_findings[: len(findings)]

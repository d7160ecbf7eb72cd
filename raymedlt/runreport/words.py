"""Small wordings that pages and cards of several jobs share."""

from __future__ import annotations

from collections.abc import Sequence

NOT_FOR_DIAGNOSIS = (
    "Not for diagnosis: a research model, never tested in a clinic. Nobody may be treated by what it says."
)


def class_count(count: int) -> str:
    """ "1 class", "2 classes"."""
    return f"{count} class" if count == 1 else f"{count:,} classes"


def counted(count: int, what: str) -> str:
    """ "1 thread", "2,000 threads": for words whose plural is an s."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names with commas; the first ones of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def capital(words: str) -> str:
    """With a capital letter in front."""
    return words[:1].upper() + words[1:]

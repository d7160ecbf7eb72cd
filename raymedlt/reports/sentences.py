"""The one sentence splitter: what counts as a sentence of a report, and which spellings are the same sentence.

Used by every stage (the release that the method comes from uses two and drops the reports where they disagree).
Plain compiled regular expressions over one text; nothing here knows tables, languages or embeddings.

A candidate end is a run of `.`, `!` or `?`. Whether it ends a sentence is decided from the word before and the first
character after it, so that decimals, titles, abbreviations, list numbers and missing blanks keep their meaning.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Never the end of a sentence: something always follows.
_TITLES = frozenset({"dr", "drs", "mr", "mrs", "ms", "prof", "st"})
_OPEN = _TITLES | {"e.g", "eg", "i.e", "ie", "vs", "approx", "cf", "ca", "resp", "incl", "esp", "fig", "figs"}

# The end of a sentence unless the next word goes on in lower case or with a number ("5 cm. in diameter", "lat. view").
_CUT_SHORT = frozenset(
    {"cm", "mm", "mg", "kg", "ml", "min", "max", "lat", "post", "ant", "sup", "inf", "bilat", "vert", "mod", "avg"}
    | {"est", "dept", "ext", "int", "temp", "wk", "wks", "yr", "yrs", "mo", "mos"}
)

# Paragraphs, bullets, list numbers and "Lungs:" subheadings begin a new sentence even without punctuation before them;
# any other line break is only where the line was full.
_BLOCKS = re.compile(
    r"\n[ \t\r]*\n\s*"
    r"|\n[ \t]*(?=(?:[-*•–][ \t]|\(?\d{1,2}[.)][ \t]*[A-Z_]|[A-Z][A-Za-z]{2,}(?:[ /,-][A-Za-z]+){0,4}:))"
)
_BULLET = re.compile(r"^(?:[-*•–][ \t]+)+")

_CANDIDATE = re.compile(
    r"(?:(?<=\s)|(?<=^)|(?<=[a-z]\.))\(?(?P<number>\d{1,2})(?P<mark>[.)]+)(?=\s|[A-Z][a-z]|$)"  # "1. ", "2) ", "2.No"
    r"|(?P<stop>[.!?]+)[\"')\]]*(?=\s|$|[A-Z][a-z]|[A-Z]\s)"
    r"|(?<=[a-z])\.(?=\d{1,2}[.)]\s)"  # "clear.2. No"
    r"|(?<=[a-z]{3})\.(?=[a-z]{2})"  # "clear.no effusion"
)
_LOOK_AHEAD = 2_000  # characters; without a bound the search would be quadratic
_SECOND = re.compile(r"\s\(?2[.)]\s?[A-Z]")
_SPACED_DECIMAL = re.compile(r"(?<=\d)\. ?\d+ ?(?:x|[cm]m|centim|milim|millim)|(?<=\d )\. \d+(?! ?[.)\d])")
_WORD = re.compile(r"\w")
_FINAL = " .,;:!?"


def sentence_key(sentence: str) -> str:
    """What makes two sentences the same: Unicode NFKC, lower case, collapsed blanks, final punctuation stripped.

    Idempotent. "" when nothing but punctuation is left.
    """
    if not sentence.isascii():
        sentence = unicodedata.normalize("NFKC", sentence)
        sentence = unicodedata.normalize("NFKC", sentence.lower())  # lower() can leave a form that NFKC composes
    return " ".join(sentence.lower().split()).rstrip(_FINAL)


def split_sentences(text: str) -> list[str]:
    """The sentences of a report's section, in reading order.

    Blanks are collapsed, list numbers ("1.", "2)") and bullets stripped, final punctuation kept; de-identification
    tokens (`XXXX`, `___`) are words like any other; what holds no letter, digit or `_` is dropped. Semicolons don't
    end a sentence. Every key of the result is non-empty. Linear in the length of `text`.
    """
    if "\n" not in text and "\r" not in text:
        return _split_block(text)
    blocks = _BLOCKS.split(text.replace("\r\n", "\n").replace("\r", "\n"))
    return [sentence for block in blocks for sentence in _split_block(block)]


def _split_block(block: str) -> list[str]:
    block = " ".join(block.split())
    block = _BULLET.sub("", block)
    return [sentence for sentence in _pieces(block) if _WORD.search(sentence)]


def _pieces(block: str) -> Iterator[str]:
    """Cut `block` (blanks collapsed) at every true sentence end and around every list number."""
    start = 0  # of the sentence being read
    listed = 0  # the last list number seen
    for match in _CANDIDATE.finditer(block):
        at, end = match.span()
        if match.lastgroup == "mark":
            number = int(match["number"])
            if _is_list_number(block, match, number, listed, opens=not _WORD.search(block, start, at)):
                yield block[start:at].strip()
                start, listed = end, number
                continue
            at = match.start("mark")  # "... at level 5. The"
            if block[at] == ")":
                continue
        if _ends(block, start, at, end):
            yield block[start:end].strip()
            start = end
    yield block[start:].strip()


def _is_list_number(block: str, match: re.Match[str], number: int, listed: int, *, opens: bool) -> bool:
    """Whether a bare number before "." or ")" numbers a list: it opens a sentence, or goes on with the count."""
    end = match.end()
    if end == len(block):
        return False
    goes_on = number == listed + 1
    if opens:
        return number > 0 and (goes_on or not _is_decimal(block, end - 1))  # "1. 8 mm nodule" is number 1 of a list
    if _is_decimal(block, end - 1):
        return False
    if goes_on and listed > 0:
        return not block[end : end + 2].lstrip()[:1].islower()
    # "Impression 1. ... 2. ...": the count starts inside a sentence, and does go on
    return number == 1 and _SECOND.search(block, end, end + _LOOK_AHEAD) is not None


def _is_decimal(block: str, dot: int) -> bool:
    """Whether the "." at `dot` stands in a decimal that was written with blanks ("1 . 5 cm", "1. 5 cm")."""
    return _SPACED_DECIMAL.match(block, dot) is not None


def _ends(block: str, start: int, at: int, end: int) -> bool:
    """Whether the run of stops at `at` ends the sentence that began at `start`; `end` is behind run and quotes."""
    if end == len(block):
        return True
    after_blank = at == start or block[at - 1] == " "
    if block[at] != ".":
        return not after_blank  # "? pneumonia" asks, it doesn't end
    follows = block[end + 1] if block[end] == " " else block[end]
    if block.startswith("...", at):
        return not follows.islower()
    if after_blank:
        return not _is_decimal(block, at)  # "sin derrame . cardiomegalia"
    word = block[max(start, block.rfind(" ", start, at) + 1) : at].lower().lstrip("([\"'")
    if word in _OPEN:
        return False
    if word == "no":
        return not follows.isdigit()  # "No. 3"
    if word in _CUT_SHORT:
        return not (follows.islower() or follows.isdigit())
    if word[-1:].isalpha() and (len(word) == 1 or word[-2] == "."):  # initials, "a.m.", "T.B."
        return follows.isupper() and not _after_title(block, at - len(word))
    return not (word.isdigit() and _is_decimal(block, at))


def _after_title(block: str, at: int) -> bool:
    words = block[max(0, at - 8) : at].split()
    return bool(words) and words[-1].rstrip(".").lower() in _TITLES

"""Phrases of the vocabulary found in a sentence: longest match over tokens, from left to right."""

from __future__ import annotations

import re

from raymedlt.reports.vocabulary import FLAG, PHRASE_END, SIDES, Term, Vocabulary

_TOKEN = re.compile(r"x{3,}|_{2,}|\d+/\d+(?:/\d+)?|\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|[,;:.?()/&]|\[\*\*.*?\*\*\]")
_PUNCTUATION = {
    ",": Term("comma"),
    ";": Term("stop"),
    ".": Term("stop"),
    "?": Term("question", flags=frozenset({"question"})),
    ":": Term("colon"),
    "(": Term("with"),
    ")": Term("with"),
    "/": Term("or"),
    "&": Term("and"),
}
_NUMBER = Term(FLAG, flags=frozenset({"number"}))
_DATE = Term(FLAG, flags=frozenset({"number", "date"}))
_PLACEHOLDER = Term("placeholder", flags=frozenset({"placeholder"}))
_UNKNOWN = Term("unknown", flags=frozenset({"unknown_word"}))


class Item:
    """A phrase found in the sentence."""

    __slots__ = ("chunk", "end", "pending", "side", "start", "term")

    def __init__(self, term: Term, start: int, end: int, side: str) -> None:
        self.term, self.start, self.end = term, start, end
        self.side = side  # "left", "right", "bilateral": of a side word, or of one inside the phrase
        self.chunk = -1  # once read: number of commas, "and"s and clause ends before it
        self.pending = False  # a structure that no predicate has spoken of yet


def find_phrases(sentence: str, book: Vocabulary) -> list[Item]:
    """The sentence as items, none overlapping; what the vocabulary lacks is an item of its own ("unknown").

    Hyphens and other marks are skipped, so "air-space" is two tokens. A placeholder inside a phrase ("pulmonary XXXX")
    is marked by an empty item after it. Linear in the number of tokens times the longest phrase.
    """
    tokens = [(match.group(), match.start(), match.end()) for match in _TOKEN.finditer(sentence.lower())]
    items: list[Item] = []
    index, count = 0, len(tokens)
    while index < count:
        token, start, _ = tokens[index]
        term, after = None, index + 1
        node = book.trie.get(token)
        step = index
        while node is not None:
            if PHRASE_END in node:
                term, after = node[PHRASE_END], step + 1
            step += 1
            if step == count:
                break
            node = node.get(tokens[step][0])
        if term is None:
            term = _PUNCTUATION.get(token) or _unlisted(token)
        side = SIDES.get(term.role, "")
        if after > index + 1:
            words = [word for word, _, _ in tokens[index:after]]
            side = side or next((book.sides[word] for word in words if word in book.sides), "")
            items.append(Item(term, start, tokens[after - 1][2], side))
            if any(_is_placeholder(word) for word in words):
                items.append(Item(_PLACEHOLDER, start, start, ""))
        else:
            items.append(Item(term, start, tokens[index][2], side))
        index = after
    return items


def _unlisted(token: str) -> Term:
    if token[0].isdigit():
        return _DATE if "/" in token else _NUMBER
    return _PLACEHOLDER if _is_placeholder(token) else _UNKNOWN


def _is_placeholder(token: str) -> bool:
    return token[0] in "_[" or token.startswith("xxx")

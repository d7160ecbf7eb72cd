"""Phrases of the vocabulary found in a sentence: longest match over tokens, from left to right."""

from __future__ import annotations

import re

from raymedlt.reports.vocabulary import FLAG, LEAST_STEM, PHRASE_END, PLAIN, SIDES, Language, Term, Vocabulary

_TOKEN = re.compile(
    r"x{3,}|_{2,}|[a-z]/(?:[a-z]\b|(?=\s))|[a-z]\d{1,2}\b|\d+/\d+(?:/\d+)?|\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?"
    r"|[,;:.?()/&]|\[\*\*.*?\*\*\]"
)
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
_PLAIN_LETTERS = str.maketrans("áàâäãåéèêëíìîïóòôöõúùûüñç", "aaaaaaeeeeiiiiooooouuuunc")  # one for one
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

    Abbreviations ("rll", "r/o") are read as the words that they stand for, all at the abbreviation's place. Hyphens
    and other marks are skipped, so "air-space" is two tokens. A placeholder inside a phrase ("pulmonary XXXX")
    is marked by an empty item after it. Linear in the number of tokens times the longest phrase.
    """
    tokens = _tokens(sentence, book)
    short = book.abbreviations
    if any(token in short for token, _, _ in tokens):
        tokens = [(full, start, end) for token, start, end in tokens for full in short.get(token, (token,))]
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
            if not side and term.role != PLAIN:  # not "in the right clinical setting"
                side = next((book.sides[word] for word in words if word in book.sides), "")
            items.append(Item(term, start, tokens[after - 1][2], side))
            if any(_is_placeholder(word) for word in words):
                items.append(Item(_PLACEHOLDER, start, start, ""))
        else:
            items.append(Item(term, start, tokens[index][2], side))
        index = after
    return items


def _tokens(sentence: str, book: Vocabulary) -> list[tuple[str, int, int]]:
    """Token, start and end; tokens are spelled as in the language's tables where these have them."""
    language = book.language
    text = sentence.replace("İ", "I").lower()  # the only letter that lower() makes two of: places would shift
    if language.fold_accents and not text.isascii():
        text = text.translate(_PLAIN_LETTERS)
    tokens = _split(text)
    if not language.endings:
        return tokens
    words, skipped = book.words, language.skipped
    return [
        each if each[0] in words else (_stem(each[0], words, language), each[1], each[2])
        for each in tokens
        if each[0] not in skipped
    ]


def _split(text: str) -> list[tuple[str, int, int]]:
    if "xxx" in text or not text.replace(" ", "").isalpha():
        return [(match.group(), match.start(), match.end()) for match in _TOKEN.finditer(text)]
    tokens, start = [], 0  # nothing but words and blanks: the same as above, in half the time
    for word in text.split(" "):
        if word:
            tokens.append((word, start, start + len(word)))
        start += len(word) + 1
    return tokens


def _stem(token: str, words: frozenset[str], language: Language) -> str:
    """The longest stem of the tables that makes `token` with one of the language's endings; else `token`."""
    for length in range(len(token) - 1, LEAST_STEM - 1, -1):
        if token[:length] in words and token[length:] in language.endings:
            return token[:length]
    return token


def _unlisted(token: str) -> Term:
    if token[0].isdigit() or token[-1].isdigit():  # "12", "t12"
        return _DATE if "/" in token else _NUMBER
    return _PLACEHOLDER if _is_placeholder(token) else _UNKNOWN


def _is_placeholder(token: str) -> bool:
    return token[0] in "_[" or token.startswith("xxx")

"""Finds where statements end in text that has lost its commas and "and"s, as PadChest's stemmed sentences have.

"no apreci infiltr cardiomegali" was "no se aprecian infiltrados, cardiomegalia": the denial ends before the second
finding. A denial goes on over "ni", "o" and from one name of a shadow in the lung to the next ("infiltr condens"), and
ends before anything else that could be a statement of its own: what can't be read is not denied.

Some cues are read by their place here and become the cues that `reading` knows: `deny_not` ("no", which denies and
turns a predicate around), `deny_nor` ("ni"), `image` ("imagen", "signos") and unknown words that are affirmed.
"Sin hallazgos" where no structure is named is said of the whole chest.
"""

from __future__ import annotations

from raymedlt.reports.phrases import Item
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, FLAG, HEALTHY, PLAIN, SIDES, STRUCTURE, Term, clashes, is_a

_BREAK, _COMMA, _DENY, _NOT, _OR = Term("break"), Term("comma"), Term("deny"), Term("not"), Term("or")
_DEGREE = Term("degree")
_CHEST = ("chest_abnormality", "acute_cardiopulmonary_abnormality")
_WHOLE = Term(STRUCTURE, _CHEST, _CHEST[1:], "chest", "chest")  # what "sin hallazgos" is said of
_UNREAD = Term("was", flags=frozenset({"unknown_word"}))  # an unknown word that is affirmed: no normal statement
_DENIES = frozenset({"deny", "deny_not", "gone"})
_ENDS = frozenset({"break", "stop", "with", "question", "except", "colon"})
_DOUBTS = frozenset({"unsure", "unsure_both", "no_change", "double", "not_evidence"})
_LINKS = frozenset({"or", "comma", "unsure_soft"})
_SAYS = frozenset({FINDING, ABNORMAL, "generic"})
_PREDICATES = frozenset({"normal", ABNORMAL, HEALTHY})
_BEGINS = frozenset({"persist", "was", "image"})
_PASSED_OVER = frozenset({PLAIN, FLAG, "unknown", "placeholder", "degree", "image", "place", *SIDES})
_NO_SHADOWS = ("pleural_abnormality", "bone_abnormality", "device")


def restore(items: list[Item]) -> list[Item]:
    """The items with a zero-width break before each new statement; cues of place are replaced, see above.

    Linear in the number of items, but for the look ahead to the next one that means something.
    """
    result: list[Item] = []
    denied: Item | None = None  # what was said last
    denying = doubting = False  # what holds
    linked = False  # by "ni", "o": the list goes on
    subject = sided = False  # since the last break: a structure was named, a side follows a finding
    whole = not any(item.term.role in {STRUCTURE, "acute"} for item in items)
    for index, found in enumerate(items):
        item, role = found, found.term.role
        if role == "deny_nor":  # goes on with what holds: "sin cambi infiltr ni derram" has both
            item = Item(_OR if doubting else _DENY, item.start, item.end, "")
            role = item.term.role
        if role in _DENIES:
            denying, denied, linked, doubting = True, None, False, False
        elif role in _ENDS or role in _DOUBTS:
            denying = linked = subject = sided = False
            doubting = role in _DOUBTS
        elif role in _LINKS:
            linked, sided = True, False
        elif denying and denied is not None and not linked and _is_new(denied, items, index):
            result.append(Item(_BREAK, item.start, item.start, ""))
            denying = subject = sided = False
        if role == "degree" or item.term.affirm:
            linked = False  # "nodul sospech discret engros": the list has ended
        if role == "deny_not":
            result += [Item(_DENY, item.start, item.end, ""), Item(_NOT, item.end, item.end, "")]
            continue
        if role == "image":
            item = Item(_DEGREE, item.start, item.end, "")
        elif role == "unknown" and not denying:
            item = Item(_UNREAD, item.start, item.end, "")
        elif role == FINDING:
            if sided and not denying:
                result.append(Item(_COMMA, item.start, item.start, ""))  # sides stand behind their nouns
            sided = False
        elif role == "generic" and whole and denying and _role_after(items, index) not in {FINDING, "unsure_soft"}:
            result.append(Item(_WHOLE, item.start, item.start, ""))
        sided = sided or role in SIDES
        result.append(item)
        if role in _SAYS:
            denied, linked = item, False
        if role == STRUCTURE:
            subject = True
        elif role == "normal" and subject and _role_after(items, index) in {STRUCTURE, FINDING}:
            result.append(Item(_BREAK, item.end, item.end, ""))  # predicates stand behind their subjects
            denying = linked = subject = sided = False
    return result


def _is_new(denied: Item, items: list[Item], index: int) -> bool:
    """Whether the item at `index` begins another statement than the denial of `denied`."""
    term = items[index].term
    if term.role == FINDING:
        return items[index - 1] is not denied or not _one_shadow(denied.term, term)
    if term.role == "generic":
        return denied.term.role != "generic"
    if term.role == STRUCTURE:
        return _role_after(items, index) in _PREDICATES
    return term.role == ABNORMAL or term.role in _BEGINS


def _one_shadow(first: Term, second: Term) -> bool:
    if first.role != FINDING or not clashes(first.ids[0], second.ids[0]):
        return False
    return not any(is_a(term.ids[0], group) for term in (first, second) for group in _NO_SHADOWS)


def _role_after(items: list[Item], index: int) -> str:
    for item in items[index + 1 :]:
        if item.term.role not in _PASSED_OVER:
            return item.term.role
    return ""

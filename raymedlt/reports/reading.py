"""Reads a sentence's phrases from left to right: each phrase's role has one rule that changes the scope.

The rules lean to one side: what can't be read is not denied.
"""

from __future__ import annotations

from collections.abc import Callable

from raymedlt.reports import scope_claims as claims
from raymedlt.reports import scope_cues as cues
from raymedlt.reports import scope_ends as ends
from raymedlt.reports.phrases import Item
from raymedlt.reports.scope import ABSENT, PRESENT, Scope
from raymedlt.reports.vocabulary import ABNORMAL, FINDING, HEALTHY, STRUCTURE


def read(items: list[Item], pairs: dict[tuple[str, str], str]) -> Scope:
    """What a sentence's phrases claim, in `Scope.claims` and `Scope.cues`; sets each item's chunk.

    Args:
        items: the phrases of one sentence.
        pairs: `Vocabulary.pairs`.
    """
    scope = Scope(items, pairs)
    for index, item in enumerate(items):
        item.chunk = scope.chunk
        if item.term.affirm and scope.assertion == ABSENT and items[index - 1].term.role == FINDING:
            scope.open(index, PRESENT)  # a full stop is missing: "no pneumothorax small effusion"
        handler = _HANDLERS.get(item.term.role)
        if handler is not None:
            handler(scope, index, item)
    ends.end_on_not(scope, len(items))
    return scope


_HANDLERS: dict[str, Callable[[Scope, int, Item], None]] = {
    FINDING: claims.finding,
    STRUCTURE: claims.structure,
    ABNORMAL: claims.abnormal,
    "generic": claims.generic,
    "normal": claims.normal,
    HEALTHY: claims.healthy,
    "deny": cues.deny,
    "double": cues.double,
    "unsure": cues.unsure,
    "unsure_both": cues.unsure_both,
    "unsure_soft": cues.unsure_soft,
    "unsure_post": cues.unsure_post,
    "unsure_is": cues.unsure_is,
    "deny_post": cues.deny_post,
    "negative": cues.negative,
    "not_seen": cues.not_seen,
    "not_evidence": cues.double,
    "gone": cues.gone,
    "removed": cues.removed,
    "no_change": cues.no_change,
    "no_change_in": cues.no_change_in,
    "nothing_acute": cues.nothing_acute,
    "persist": cues.persist,
    "was": cues.note,
    "otherwise": cues.note,
    "limited": cues.limited,
    "not": cues.negate,
    "past": cues.past,
    "history": cues.history,
    "acute": cues.acute,
    "place": cues.place,
    "after": cues.after,
    "or": cues.alternative,
    "seen": cues.seen,
    "present": cues.seen,
    "be": cues.be,
    "degree": claims.degree,
    "show": cues.be,
    "comma": ends.separator,
    "and": ends.separator,
    "break": ends.end_clause,
    "with": ends.aside,
    "stop": ends.stop,
    "question": ends.question,
    "except": ends.exception,
}

"""The guard: no added sentence may contradict or restate what its report says.

What a sentence says is a set of claims (finding, side), each asserted (present, uncertain or historical) or denied
(absent). A set of claims is one Python integer, a bit per finding and side, so that the check of a donor against a
report is a few ANDs, whatever the size of either.

A donor sentence denies things (only normal sentences are donated). Whatever the report, it is unfit when it names a
side, a device, a sex, a view, another body part, a time, a comparison, a number, a technique, a placeholder or a word
that the vocabulary lacks: "unfit:<flag>". Against a report it is refused when
* it denies what findings, impression or indication assert, or what a device or a removed organ implies:
  "contradicts:<finding>" (an acute disease of the indication, or one that need not show on a film, speaks against its
  own denial only, not against "the lungs are clear");
* the report denies the same already, or more: "restates:<finding>";
* the report speaks of the same structure in words that nobody could read ("the heart is XXXX", "not well seen", unknown
  words), of one side only, or calls the chest unchanged and describes nothing: "unread:<finding>";
* it speaks of what only a view shows that the study lacks: "view:lateral", "view:frontal";
* a second guard says so: "nli:contradiction", "image:<class>".

Cost of doubt: a sentence of the report that can't be read lets no addition about its structure pass (but see
`reading.unread` for comparisons), and one that names no structure stops general statements ("the lungs are clear"),
though not specific ones ("no pneumothorax").

    claims.py    bit sets of claims, and which of them conflict
    reading.py   what a whole report says, implies and leaves unread
    text.py      the verdict on a donor
    second.py    the optional second guards of a run
    nli.py       a language model for inference (key guard.nli)
    image.py     scores of an image classifier (key guard.scores)
"""

from raymedlt.enrichment.guard.claims import (
    SIDES,
    Claims,
    claim_bit,
    claims_of,
    clash_mask,
    cover_mask,
    judged,
)
from raymedlt.enrichment.guard.reading import indication_claims, report_claims, sentence_claims
from raymedlt.enrichment.guard.text import Signature, needed_view, refusal, signature, unfit, verdict, view_refusal

__all__ = [
    "SIDES",
    "Claims",
    "Signature",
    "claim_bit",
    "claims_of",
    "clash_mask",
    "cover_mask",
    "indication_claims",
    "judged",
    "needed_view",
    "refusal",
    "report_claims",
    "sentence_claims",
    "signature",
    "unfit",
    "verdict",
    "view_refusal",
]

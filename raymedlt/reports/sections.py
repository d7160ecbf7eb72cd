"""Which part of a free-text report is findings, impression, indication.

Reports are prose with headers in many shapes ("FINDINGS:", "Findings -", "IMPRESSION" alone on a line, all on one
line), with headers missing, and with trailers that are no part of the reading (wet read, who was telephoned). The rules
are those of MIMIC-CXR's and CheXpert Plus' layouts; nothing is guessed from content beyond the layout.
"""

from __future__ import annotations

import re

SECTIONS = ("findings", "impression", "indication", "technique", "comparison")

COMBINED = "findings and impression share one section"
NO_HEADER = "findings have no header"

_START = "start"
_EXAMINATION = "examination"
_OUT = "kept out"
_BOTH = "both"
_VIEW_LINE = "view line"

# Longer names first where one begins another.
_NAMES = {
    _BOTH: r"findings?\s*(?:and|&|/|,)\s*impressions?|impressions?\s*(?:and|&|/|,)\s*findings?",
    "findings": r"(?:chest |lung |radiographic |radiology )?findings?|observations?|interpretation",
    "impression": r"(?:final )?impressions?(?: and recommendations?)?|conclusions?|opinion",
    "indication": r"(?:clinical )?indications?(?: for (?:exam|examination|study))?"
    r"|(?:clinical |patient |brief |medical )?history(?: and indication)?"
    r"|clinical (?:information|data|statement|details)"
    r"|(?:clinical )?reason for (?:this )?(?:exam|examination|study|visit)|medical condition|provisional diagnosis",
    "technique": r"techniques?|procedure(?: comments)?|views?",
    "comparison": r"comparisons?(?: (?:study|studies|exam|exams))?|prior (?:study|studies|exams?)",
    _START: r"final report|preliminary report",
    _EXAMINATION: r"exam(?:ination)?(?: type)?|study|type of exam(?:ination)?",
    _OUT: r"wet read(?: version.*)?|notifications?|communications?|recommendations?(?:\(s\))?|addend(?:um|a)"
    r"|attestation|end of impression|dictated by|signed by|electronically signed(?: by)?|attending"
    r"|accession(?: number)?|summary",
}
_ANY = "|".join(f"(?:{names})" for names in _NAMES.values())
_ROLES = [(role, re.compile(names, re.IGNORECASE)) for role, names in _NAMES.items()]

_HEADER = re.compile(
    rf"^[ \t]*(?P<line>(?i:{_ANY}))[ \t]*:"  # at the start of a line, any case
    rf"|^[ \t]*(?=[A-Z])(?P<dash>(?i:{_ANY}))(?:[ \t]+[-–—]|[-–—][ \t])"  # "Findings - ..."
    rf"|^[ \t]*(?=[A-Z])(?P<alone>(?i:{_ANY}))[ \t]*$"  # alone on its line
    rf"|(?<=[.?!)_])[ \t]+(?=[A-Z])(?P<inline>(?i:{_ANY})):"  # a report on one line
    r"|^[ \t]*(?P<view>(?=[^:\n]*\b(?:CHEST|VIEWS?|RADIOGRAPHS?|X-?RAYS?)\b)[A-Z0-9][A-Z0-9 ,()/&.-]{4,80}):",
    re.MULTILINE,
)
_PROSE = re.compile(r"\b[a-z]{2,}[.!?]")  # a sentence's end: more than a date or a title
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_TRAILER = re.compile(
    r"(?:(?:these|the|above|critical|important)\s+)*(?:findings?|results?|impression|recommendations?|information)\b"
    r"[^.]{0,60}?\b(?:discussed|communicated|conveyed|reported|relayed|telephoned|paged|called|posted|entered)\b"
    r"|(?:dr\.?|doctor)\s[^.]{0,60}\b(?:notified|informed|paged|telephoned|called)\b"
    r"|(?:electronically )?signed by\b|dictated by\b|wet read\b|_{10,}\s*(?:wet read|final attending)",
    re.IGNORECASE,
)


def parse_sections(text: str) -> dict[str, str]:
    """Cut a free-text report into its sections.

    Args:
        text: a whole report, as MIMIC-CXR's files or a CSV cell hold it.

    Returns:
        The `SECTIONS` by name ("" where the report has none) and "note": "", `COMBINED` (one section is headed findings
        and impression: its text is in findings) or `NO_HEADER` (findings are the paragraphs behind the last section
        before the impression, or all of a report without any header). Lines are stripped, paragraphs keep one blank
        line between them. A section that comes twice is joined.

    Linear in the length of `text`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parts = _parts(text)
    if len(parts) == 1 and not parts[0][1]:  # a few words without any layout: "Normal chest"
        parts = [("findings", _body(text, "findings"))]
    found: dict[str, list[str]] = {}
    note = ""
    has_findings = any(role in ("findings", _BOTH) and body for role, body in parts)
    if not has_findings:
        parts, note = _headerless_findings(parts)
    for role, body in parts:
        if body:
            found.setdefault("findings" if role == _BOTH else role, []).append(body)
            note = COMBINED if role == _BOTH else note
    sections = {name: "\n\n".join(found.get(name, ())) for name in SECTIONS}
    return {**sections, "note": note}


def _parts(text: str) -> list[tuple[str, str]]:
    """(role, body) in reading order."""
    parts: list[tuple[str, str]] = []
    role, start = _START, 0
    for match in _HEADER.finditer(text):
        parts.append((role, _body(text[start : match.start()], role)))
        role, start = _role(match), match.end()
    parts.append((role, _body(text[start:], role)))
    return parts


def _role(match: re.Match[str]) -> str:
    name = match["line"] or match["dash"] or match["alone"] or match["inline"]
    if name is None:
        return _VIEW_LINE
    return next(role for role, names in _ROLES if names.fullmatch(name))


def _body(raw: str, role: str) -> str:
    lines = "\n".join(" ".join(line.split()) for line in raw.split("\n")).strip()
    paragraphs = [paragraph for paragraph in _PARAGRAPHS.split(lines) if paragraph]
    if role in (_START, _VIEW_LINE):  # titles, dates and rules
        paragraphs = [paragraph for paragraph in paragraphs if _PROSE.search(paragraph)]
    if role in ("findings", "impression", _BOTH, _START, _VIEW_LINE):
        while paragraphs and _TRAILER.match(paragraphs[-1]):
            paragraphs.pop()
    return "\n\n".join(paragraphs)


def _headerless_findings(parts: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """Give the role "findings" to the text of a report that has no findings header, where the layout tells which."""
    end = next((i for i, (role, _) in enumerate(parts) if role == "impression"), len(parts))
    last = max((i for i in range(end) if parts[i][1] and parts[i][0] not in (_OUT, _EXAMINATION)), default=0)
    for i in range(end - 1, -1, -1):
        role, body = parts[i]
        if not body or role == _OUT or (i < last and role != _VIEW_LINE):
            continue
        paragraphs = body.split("\n\n")
        own = 0 if role in (_START, _VIEW_LINE) else 1  # a header's own text is one paragraph
        if len(paragraphs) > own:
            head, rest = "\n\n".join(paragraphs[:own]), "\n\n".join(paragraphs[own:])
            return [*parts[:i], (role, head), ("findings", rest), *parts[i + 1 :]], NO_HEADER
    return parts, ""

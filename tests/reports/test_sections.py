"""Sections of free-text reports, on reports written for the purpose."""

from __future__ import annotations

import time

import pytest

from raymedlt.reports.sections import COMBINED, NO_HEADER, SECTIONS, parse_sections

FULL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old with cough

 TECHNIQUE:  Two views

 COMPARISON:  ___

 FINDINGS:

 The heart is normal. The lungs
 are clear.

 No effusion.

 IMPRESSION:

 1.  Normal chest.

 NOTIFICATION:  Told to Dr. ___ at noon.
"""


def test_every_section_of_a_full_report() -> None:
    assert parse_sections(FULL) == {
        "findings": "The heart is normal. The lungs\nare clear.\n\nNo effusion.",
        "impression": "1. Normal chest.",
        "indication": "___ year old with cough",
        "technique": "Two views",
        "comparison": "___",
        "note": "",
    }


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Clear lungs.\nIMPRESSION: Normal.",
        "Findings - Clear lungs.\nImpression - Normal.",
        "FINDINGS\nClear lungs.\nIMPRESSION\nNormal.",
        "findings: Clear lungs.\r\nconclusion: Normal.",
        "HISTORY: none. FINDINGS: Clear lungs. IMPRESSION: Normal.",
        "FINDINGS: Clear lungs.\n\nCONCLUSIONS: Normal.\n\nThese findings were discussed with Dr. ___ by telephone.",
        "FINDINGS: Clear lungs.\nIMPRESSION: Normal.\nRECOMMENDATION(S): Come back.",
        "WET READ: ___ 9 PM\n Early reading here.\n____________________\n FINAL REPORT\n FINDINGS: Clear lungs.\n"
        " IMPRESSION: Normal.",
    ],
)
def test_header_shapes_and_trailers(text: str) -> None:
    sections = parse_sections(text)
    assert (sections["findings"], sections["impression"]) == ("Clear lungs.", "Normal.")


@pytest.mark.parametrize(
    "header",
    [
        "INDICATION",
        "HISTORY",
        "REASON FOR EXAM",
        "REASON FOR EXAMINATION",
        "Reason for this examination",
        "CLINICAL INFORMATION",
        "CLINICAL HISTORY",
        "CLINICAL INDICATION",
    ],
)
def test_indication_headers(header: str) -> None:
    assert parse_sections(f"{header}: Cough.\nFINDINGS: Clear.")["indication"] == "Cough."


@pytest.mark.parametrize("header", ["FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "Impression and Findings"])
def test_combined_section_goes_to_findings(header: str) -> None:
    sections = parse_sections(f"INDICATION: Cough.\n{header}: Clear lungs.")
    assert (sections["findings"], sections["impression"], sections["note"]) == ("Clear lungs.", "", COMBINED)


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        (
            "HISTORY: Fall.\n\nCOMPARISON: None.\n\nClear lungs.\n\nBig heart.\n\nIMPRESSION: Fine.",
            "Clear lungs.\n\nBig heart.",
        ),
        ("CHEST, TWO VIEWS: ___\n\nClear lungs.\n\nIMPRESSION: Fine.", "Clear lungs."),
        ("PA AND LATERAL CHEST:  The lungs are clear.\n\nIMPRESSION: Fine.", "The lungs are clear."),
        ("HISTORY: Fall.\n\nAP CHEST: The lungs are clear.\n\nIMPRESSION: Fine.", "The lungs are clear."),
        ("FINAL REPORT\nPORTABLE CHEST\n\nThe lungs are clear.", "The lungs are clear."),
        ("The lungs are clear. No effusion.", "The lungs are clear. No effusion."),
        ("Normal chest", "Normal chest"),
    ],
)
def test_missing_findings_header(text: str, findings: str) -> None:
    sections = parse_sections(text)
    assert sections["findings"] == findings
    assert sections["note"] == NO_HEADER or text == "Normal chest"


def test_what_is_no_reading_is_not_taken_for_findings() -> None:
    assert parse_sections("Chest, two views\n\nINDICATION: Cough.\n\nIMPRESSION: Fine.")["findings"] == ""
    assert parse_sections("WET READ: Clear lungs.\n\nMore early words.")["findings"] == ""
    assert parse_sections("INDICATION: Cough.\n\nCOMPARISON: None.")["findings"] == ""


def test_subheadings_and_words_inside_a_section_stay() -> None:
    text = "FINDINGS:\nHEART: big\nLUNGS: clear\nOther findings: none.\nIMPRESSION: Fine."
    assert parse_sections(text)["findings"] == "HEART: big\nLUNGS: clear\nOther findings: none."


def test_empty_report_has_empty_sections() -> None:
    assert parse_sections("") == {**dict.fromkeys(SECTIONS, ""), "note": ""}


def test_time_is_linear_in_the_length() -> None:
    for piece in ("FINDINGS ", "A ", " \n", "CHEST ", "findings: x\n", "the findings were ", "_", "Dr. "):
        start = time.process_time()
        parse_sections(piece * 20_000)
        assert time.process_time() - start < 4.0, piece

"""Signs of patients and staff in texts: what is found, what must not alarm. Every text was made up."""

from __future__ import annotations

import time

import pytest

from raymedlt.reports.phi import in_words, kinds_in, reports_by_kind

FOUND = {
    "name": [
        "Discussed with Dr. Smith.", "Dr J. Alvarez was called.", "Mrs. Brown is 50.", "DR. SMITH WAS NOTIFIED.",
        "Patient name: Jones", "Findings were discussed with John Smith at 3 pm.", "Signed by: Dr. Ana Gil",
        "Jane Q. Public, MD", "dr. jones was told", "Informado a la Dra. García.", "Dictated by Maria Lopez.",
    ],
    "date": [
        "Compared to 12/31/2019.", "Compared to 3/4/19.", "Exam of 31.12.2019.", "2019-12-31", "Film of 20191231.",
        "March 12, 2019", "12 March", "12-Mar-19", "Since Sept 3rd.", "in May 2019", "12 de marzo de 2019",
        "estudi previ de marz 2016",
    ],
    "age over 89": ["A 93-year-old man.", "101 y/o female", "94 yo", "de 91 años"],
    "phone": ["Call (555) 123-4567.", "555-123-4567", "+34 912 345 678", "pager 51234", "Tel. 5-6789"],
    "e-mail": ["Write to j.smith@hospital.example.org now."],
    "address": ["12 Main Street", "Lives in Springfield, IL 62704.", "P.O. Box 12", "calle de la Luna, 12"],
    "id": ["MRN: 1234567", "Accession number AB-123456", "123-45-6789", "Patient 00123456 was seen", "12345678Z",
           "1.2.840.113619.2.55.3.604", "historia clinica 445566"],
}  # fmt: skip

QUIET = [
    "A 2 cm nodule at T10.", "Level 12/15.", "Grade 1/2 of 3.", "T10/11 and L1-2-3.", "Ribs 9/10/11 are broken.",
    "0.5 x 1.25 x 3.75 cm", "8-10 mm", "An 89-year-old man.", "85 years old", "Stable since 2016.", "2 views of 3",
    "Compared to XXXX.", "Dr. XXXX was called.", "Dr. ___ at ___", "[**2101-3-4**] and [**Doctor Last Name 123**]",
    "MR angiogram and DR chest.", "St. Jude valve.", "DR CHEST PA AND LATERAL", "May be 3 mm.", "may 12 represent",
    "may 5 mm", "Discussed with the Emergency Department.", "Called to Intensive Care.", "C/o pain. W/o fever.",
    "Read by XXXX.", "Mrs. XXXX", "The name of the vessel: unknown.", "Contact the ER.", "100/60 blood pressure",
    "Right Upper Lobe Court line", "Acc. to the film of today, 4 lines.", "1. No effusion. 2. No mass. 3. Normal.",
    "Port-a-Cath 12 French", "Images 1234 and 567", "cardiomegalia , 2015", "de 85 años", "3-4 weeks", "18:45",
    "march of the disease", "Heart rate 120-130.", "500-1000 ml", "Dr.", "",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_signs_are_found(kind: str, text: str) -> None:
    assert kind in kinds_in(f"The lungs are clear. {text} No effusion.")


@pytest.mark.parametrize("text", QUIET)
def test_ordinary_texts_and_placeholders_are_quiet(text: str) -> None:
    assert kinds_in(text) == frozenset()


def test_counts_are_by_report() -> None:
    texts = ["MRN 1234567, MRN 7654321", "Dr. Smith on 12/31/2019", "Clear."]
    assert reports_by_kind(texts) == {"date": 1, "id": 1, "name": 1}
    assert in_words({"date": 1200, "name": 3}) == "date in 1,200, name in 3"


@pytest.mark.parametrize("unit", ["1", "1/", "A", "Dr. ", "1.", "1-", "a@", "Main ", "Dr. A. ", "MRN ", "1 2 ", "[**"])
def test_long_texts_take_linear_time(unit: str) -> None:
    began = time.process_time()
    kinds_in(unit * (100_000 // len(unit)))
    assert time.process_time() - began < 2

"""Sentences are written for these tests; the phantom's come from its tables."""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np
import pytest

from raymedlt.errors import InputError
from raymedlt.evaluation.findings import Claims, Finding, claims_of, compare, groups, precision_recall_f1, union
from raymedlt.images import phantom_text
from raymedlt.images.phantom_cohort import cohort
from raymedlt.images.phantom_labels import FINDINGS
from raymedlt.images.phantom_labels import Finding as Drawn

# Findings of the phantom that reports can't tell apart.
SAME = {"Laminar atelectasis": "Atelectasis", "Apical pleural thickening": "Pleural thickening"}
SIDES = {"left": {"left"}, "right": {"right"}, "both": {"left", "right"}, "": {""}}


def present(text: str) -> set[tuple[str, str]]:
    return {tuple(finding) for finding in claims_of(text).present}


def group_of(name: str) -> str:
    kind = FINDINGS[name]
    (group,) = claims_of(phantom_text.positive(Drawn(name, (kind.sides or ("",))[0]))).groups
    return group


def test_every_phrase_of_the_phantom_claims_its_finding_and_nothing_else() -> None:
    for name, kind in FINDINGS.items():
        for side in kind.sides or ("",):
            for severity in (0.2, 0.5, 0.9):
                for choice in range(6):
                    said = present(phantom_text.positive(Drawn(name, side, severity), choice))
                    assert {group for group, _ in said} == {group_of(name)}, (name, choice)
                    sides = {side for _, side in said}
                    assert sides in (SIDES[side], {""}), (name, choice)
    assert len({group_of(name) for name in FINDINGS}) == len(FINDINGS) - len(SAME)
    assert all(group_of(one) == group_of(other) for one, other in SAME.items())


def test_no_denial_of_the_phantom_claims_anything_and_each_denies_its_finding() -> None:
    table = files("raymedlt.images").joinpath("phantom_phrases.csv").read_text(encoding="utf-8")
    denials = [row for row in csv.DictReader(table.splitlines()) if row["kind"] in ("negative", "clear", "normal")]
    assert len(denials) > 50
    for row in denials:
        claims = claims_of(row["template"])
        assert not claims.present, row["template"]
        assert claims.denied, row["template"]


def test_complete_texts_of_a_cohort_claim_what_the_images_show() -> None:
    table = cohort(400, seed=3, classes=39, test_images=100, test_positives=5).table
    names = {name: group_of(name) for name in FINDINGS}
    for row in table.select(["findings", "complete_findings"]).to_pylist():
        assert claims_of(row["complete_findings"]).groups == {names[each["name"]] for each in row["findings"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Airspace opacity in the left lung consistent with pneumonia.", {("pneumonia", "left")}),
        ("Patchy opacity in the right lung.", {("opacity", "right")}),
        ("Pulmonary edema with Kerley lines.", {("pulmonary_edema", "")}),
        ("Kerley lines.", {("interstitial_opacity", "")}),
        ("Hiatal hernia with an air fluid level.", {("hernia", "")}),
        ("Hiatal hernia and a left pleural effusion.", {("hernia", ""), ("pleural_effusion", "left")}),
        ("Left hydropneumothorax.", {("pleural_effusion", "left"), ("pneumothorax", "left")}),
        ("Status post median sternotomy.", {("sternotomy", "")}),
        ("Prior pneumonia.", set()),
        ("Possible pneumonia.", set()),
        ("Effusion. Small left pleural effusion.", {("pleural_effusion", "left")}),
        ("Right chest tube. Endotracheal tube.", {("chest_drain", "right"), ("endotracheal_tube", "")}),
        ("Bilateral nodules.", {("nodule", "left"), ("nodule", "right")}),
        ("Left lung cyst.", {("cyst", "left")}),
        ("Abnormal lungs.", set()),  # a collective name
        ("", set()),
    ],
)
def test_present_findings(text: str, expected: set[tuple[str, str]]) -> None:
    assert present(text) == expected


def test_tables_name_findings_of_the_ontology() -> None:
    assert {"pleural_effusion", "chest_drain", "sternotomy"} <= set(groups())


def test_agreement_is_counted_by_group_and_by_side() -> None:
    truth = [claims_of("Left pleural effusion. Cardiomegaly."), claims_of("The lungs are clear.")]
    said = [claims_of("Right pleural effusion. Scoliosis."), claims_of("Right nodule.")]
    plain, sided = compare(truth, said), compare(truth, said, sides=True)
    assert plain.names == ("cardiomegaly", "nodule", "pleural_effusion", "scoliosis")
    assert plain.counts_N3.tolist() == [[1, 1, 1], [0, 1, 0]]
    assert plain.counts_NG3.sum(0).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert Finding("pleural_effusion", "right") in sided.names
    assert sided.counts_N3.tolist() == [[0, 2, 2], [0, 1, 0]]


def test_denials_of_what_is_there() -> None:
    truth = [claims_of("Left nodule. Cardiomegaly.")] * 4
    said = [
        claims_of("The lungs are clear."),  # denies the nodule by its parent
        claims_of("No right nodule. The heart is normal."),  # the other side, and the heart
        claims_of("The lungs are clear. Left nodule."),  # takes the denial back
        claims_of("No pleural effusion."),
    ]
    assert compare(truth, said).denials_N.tolist() == [1, 1, 0, 0]


def test_precision_recall_f1_by_hand() -> None:
    counts = np.array([[2, 1, 3], [0, 0, 0], [0, 2, 0]])
    found = precision_recall_f1(counts)
    assert found[0] == pytest.approx([2 / 3, 2 / 5, 0.5])
    assert np.isnan(found[1]).all()
    assert found[2, [0, 2]].tolist() == [0, 0]
    assert np.isnan(found[2, 1])


def test_union_of_sections() -> None:
    both = union([claims_of("Left nodule."), claims_of("Nodule. No effusion.")])
    assert both.present == {Finding("nodule", "left")}
    assert both.denied
    assert union([]) == Claims(frozenset(), frozenset(), frozenset())


def test_spanish() -> None:
    assert claims_of("derram pleural izquierd", "es").present == {Finding("pleural_effusion", "left")}


def test_one_reference_for_each_report() -> None:
    with pytest.raises(InputError, match=r"1 reports and 2 references. Expected: one reference for each"):
        compare([claims_of("")] * 2, [claims_of("")])
    with pytest.raises(InputError, match="no assertion rules for the language 'xx'"):
        claims_of("Nodule.", "xx")

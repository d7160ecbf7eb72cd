"""Label maps: real label sets are covered, every id exists, and contradiction is as strict as documented."""

import csv
from importlib.resources import files

import pyarrow as pa
import pytest

from raymedlt.errors import InputError
from raymedlt.reports.assertion import judge
from raymedlt.reports.labels import (
    SCHEMES,
    Labelled,
    checkable,
    class_of,
    classes_denied,
    contradicted,
    findings_of,
    looked_at,
    scheme_of,
    unknown,
)
from raymedlt.reports.readers import open_reader, padchest, rows
from raymedlt.reports.readers.packaged import packaged_root
from raymedlt.reports.vocabulary import ontology

NO_FINDINGS = {
    "nih14": {"No Finding"},
    "chexpert": {"No Finding"},
    "openi_mesh": {
        "normal", "No Indexing", "Technical Quality of Image Unsatisfactory", "Epicardial Fat", "Nipple Shadow",
        "Adipose Tissue", "Contrast Media",
    },
    "padchest": {
        "normal", "unchanged", "suboptimal study", "exclude", "pseudonodule", "nipple shadow", "end on vessel",
        "azygos lobe", "respiratory distress", "obesity", "lipomatosis",
    },
}  # fmt: skip
XRAYVISION = [
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion",
    "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion", "Fracture",
    "Lung Opacity", "Enlarged Cardiomediastinum",
]  # fmt: skip


def table(scheme):
    text = files("raymedlt.reports").joinpath("rules", "maps", f"{scheme}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def says(sentence, *labels, scheme="openi_mesh"):
    """Findings of the labels that contradict a sentence."""
    denied = [(each.finding, each.side) for each in judge(sentence).mentions if each.assertion == "absent"]
    return {label.finding for _, label in contradicted(denied, findings_of(labels, scheme))}


@pytest.fixture(scope="module")
def openi_labels():
    reader = open_reader(None, "openi")
    labels = pa.concat_tables([batch for unit in reader.units() for batch in reader.read(unit)])["labels"]
    return sorted({label for report in labels.to_pylist() for label in report})


@pytest.fixture(scope="module")
def padchest_labels():
    found = set()
    for row in rows.read_csv(packaged_root(), padchest.PACKAGED, ("Labels",)):
        found.update(padchest.parse_labels(row.values.get("Labels", "")) or ())
    return sorted(found)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_row_names_findings_of_the_ontology_or_says_why_not(scheme):
    for row in table(scheme):
        ids = row["finding"].split() + row["covers"].split()
        assert not [each for each in ids if each not in ontology().ancestors], row["label"]
        assert ids or row["note"], f"{row['label']} means nothing, without a reason"
        assert None not in row.values(), f"{row['label']} lacks a column"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_no_finding_is_listed_on_purpose(scheme):
    silent = {row["label"] for row in table(scheme) if not row["finding"] and not row["condition"]}
    assert silent == NO_FINDINGS[scheme]


def test_rows_behind_one_without_a_condition_would_never_count():
    for scheme in SCHEMES:
        open_labels = set()
        for row in table(scheme):
            assert row["label"].lower() not in open_labels, row["label"]
            if not row["condition"]:
                open_labels.add(row["label"].lower())
        assert open_labels == {row["label"].lower() for row in table(scheme)}  # each label has a last resort


def test_all_labels_of_openi_are_known(openi_labels):
    heads = {label.split("/")[0] for label in openi_labels}
    assert len(heads) >= 120
    assert unknown(openi_labels, "openi_mesh") == []
    mapped = {row["label"].lower() for row in table("openi_mesh")}
    assert mapped == {" ".join(head.lower().split()) for head in heads}  # none is made up either
    words = {part.strip().lower() for label in openi_labels for part in label.split("/")[1:]}
    used = {word.strip() for row in table("openi_mesh") for word in row["condition"].split(";") if word.strip()}
    assert used <= words, "a condition that no code meets"


def test_all_labels_of_padchest_are_known(padchest_labels):
    assert len(padchest_labels) == 193 == len(table("padchest"))
    assert unknown(padchest_labels, "padchest") == []
    assert {row["label"] for row in table("padchest")} == set(padchest_labels)


@pytest.mark.parametrize(
    ("label", "meaning"),
    [
        ("Opacity/lung/base/left", {("opacity", "left")}),
        ("Opacity/lung/base/bilateral/interstitial", {("interstitial_opacity", "bilateral")}),
        ("Cardiomegaly/mild", {("cardiomegaly", "")}),
        ("Calcinosis/lung/hilum/lymph nodes/right", {("lymph_node_calcification", "right")}),
        ("Calcinosis/aorta, thoracic", {("aortic_calcification", "")}),
        ("Granulomatous Disease", {("granulomatous_disease", "")}),
        ("Deformity/thoracic vertebrae/multiple", {("bone_deformity", "")}),
        ("Catheters, Indwelling/right", {("device_line", "right")}),
        ("Lung/hypoinflation", {("low_lung_volumes", "")}),
        ("Fractures, Bone/ribs/left/healed", {("bone_deformity", "left")}),
        ("Fractures, Bone/ribs/left/right", {("fracture", "bilateral")}),
        ("Hemopneumothorax/right", {("hemothorax", "right"), ("pneumothorax", "right")}),
        ("Subcutaneous  Emphysema/right", {("subcutaneous_emphysema", "right")}),
        ("Heart/left/obscured", set()),
        ("normal", set()),
    ],
)
def test_openi_codes(label, meaning):
    assert findings_of([label], "openi_mesh") == {Labelled(*each) for each in meaning}


def test_case_and_underscores_do_not_count():
    expected = {Labelled("pleural_thickening", "")}
    assert findings_of(["PLEURAL_thickening"], "nih14") == expected == findings_of(["pleural  Thickening"], "nih14")


def test_unknown_labels_are_left_out_and_named():
    assert findings_of(["Effusion", "Flower", "No Finding"], "nih14") == {Labelled("pleural_effusion", "")}
    assert unknown(["Effusion", "Flower", "Flower", "No Finding"], "nih14") == ["Flower"]
    with pytest.raises(InputError, match=r"no map for labels of the scheme 'mesh'.*openi_mesh"):
        findings_of([], "mesh")


def test_a_report_that_nobody_labelled_is_not_a_normal_one():
    assert looked_at(["normal"], "openi_mesh")
    assert looked_at(["No Finding"], "chexpert")
    assert looked_at(["exclude", "nodule"], "padchest")
    assert not looked_at(["No Indexing", "Technical Quality of Image Unsatisfactory "], "openi_mesh")
    assert not looked_at(["exclude", "unchanged"], "padchest")
    assert not looked_at([], "nih14")


def test_scheme_is_guessed_from_a_sample(openi_labels, padchest_labels):
    assert scheme_of(openi_labels) == "openi_mesh"
    assert scheme_of(padchest_labels) == "padchest"
    assert scheme_of(XRAYVISION) == scheme_of(["Effusion", "Infiltration", "Mass"]) == "nih14"
    assert scheme_of(["Lung Opacity", "Edema", "Cardiomegaly", "No Finding"]) == "chexpert"
    assert scheme_of(["Opacity/lung/base/left", "Cardiomegaly/mild", "normal"]) == "openi_mesh"
    assert scheme_of(["apple", "pear", "Pneumonia"]) is None
    assert scheme_of([]) is None


def test_classes_that_a_finding_makes_positive():
    assert class_of("pneumonia", "chexpert") == ("Lung Opacity", "Consolidation", "Pneumonia")
    assert class_of("hydropneumothorax", "nih14") == ("Effusion", "Pneumothorax")
    assert class_of("nodule", "chexpert") == ("Lung Opacity", "Lung Lesion")
    assert class_of("device_pacemaker", "chexpert") == ("Support Devices",)
    assert class_of("scar", "nih14") == ("Fibrosis",)
    assert class_of("scoliosis", "nih14") == ()
    assert "scoliosis" in class_of("scoliosis", "padchest")


def test_classes_that_a_denial_rules_out():
    lungs = classes_denied("lung_abnormality", "nih14")
    assert {"Atelectasis", "Mass", "Pneumonia", "Infiltration"} <= set(lungs)
    assert not {"Effusion", "Cardiomegaly", "Hernia", "No Finding"} & set(lungs)
    assert classes_denied("pleural_effusion", "chexpert") == ("Pleural Effusion",)
    assert classes_denied("empyema", "chexpert") == ()


def test_denials_that_labels_contradict():
    assert says("The lungs are clear.", "Opacity/lung/base/left") == {"opacity"}
    assert says("No pleural effusion.", "Pleural Effusion/left/small") == {"pleural_effusion"}
    assert says("No acute bony abnormality.", "Fractures, Bone/ribs/right") == {"fracture"}
    assert says("Heart size is normal.", "Cardiac Shadow/enlarged") == {"cardiomegaly"}
    assert says("The lungs are clear.", "Infiltration", scheme="nih14") == {"infiltrate"}


def test_denials_that_stand():
    assert not says("No pleural effusion.", "Cardiomegaly/mild")
    assert not says("No consolidation.", "Pulmonary Atelectasis/base")  # the guard's `clashes` would say otherwise
    assert not says("No empyema.", "Pleural Effusion/left")
    assert not says("The lungs are clear.", "Thoracic Vertebrae/degenerative", "normal")
    assert not says("There is a pleural effusion.", "Pleural Effusion/left")
    assert not says("No acute fracture.", "Fractures, Bone/ribs/left/healed")


@pytest.mark.parametrize(
    ("denied", "label", "clash"),
    [
        ("", "", True), ("", "left", True), ("bilateral", "left", True), ("bilateral", "", True),
        ("left", "left", True), ("left", "bilateral", True), ("left", "right", False), ("left", "", False),
        ("right", "left", False),
    ],
)  # fmt: skip
def test_sides(denied, label, clash):
    found = contradicted([("pleural_effusion", denied)], frozenset({Labelled("pleural_effusion", label)}))
    assert found == ([(("pleural_effusion", denied), ("pleural_effusion", label))] if clash else [])


def test_a_denial_that_no_label_could_contradict_is_not_checkable():
    assert checkable("lung_abnormality", "nih14")
    assert checkable("pleural_effusion", "chexpert")
    assert not checkable("scoliosis", "nih14")
    assert not checkable("empyema", "openi_mesh")

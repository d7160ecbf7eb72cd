"""Sentences are written for these tests; each checks one rule of reading."""

from __future__ import annotations

import time

import pytest

from raymedlt.errors import InputError
from raymedlt.reports.assertion import clashes, is_a, judge, judge_many
from raymedlt.reports.vocabulary import expand, ontology, vocabulary

NORMAL = [
    "The lungs are clear.",
    "Clear lungs.",
    "Left lung clear",
    "Heart size is normal.",
    "Heart and mediastinum normal",
    "Cardiomediastinal silhouette is within normal limits.",
    "The heart is of normal size.",
    "Heart is not enlarged.",
    "Pulmonary vascularity is normal.",
    "Bony structures are intact.",
    "No acute bony abnormality.",
    "The ribs show no acute abnormality.",
    "Normal chest.",
    "Negative chest.",
    "Unremarkable.",
    "No acute cardiopulmonary disease.",
    "No active disease",
    "Trachea is midline.",
    "Costophrenic angles are sharp.",
    "Hilar contours are normal.",
    "The diaphragm is unremarkable.",
    "No free air under the diaphragm.",
    "Soft tissues are unremarkable.",
    "The aorta is normal.",
    "The aorta is not tortuous.",
    "The visualised upper abdomen is unremarkable.",
    "Lungs are well expanded.",
    "Normal lung volumes.",
    "No pneumonia, effusion, or pneumothorax.",
    "No focal consolidation, pneumothorax or large pleural effusion.",
    "No consolidation, effusion or pneumothorax is seen.",
    "No pneumothorax, visible effusion or consolidation.",
    "Without focal consolidation, effusion, or edema.",
    "Lungs are free of consolidation.",
    "Negative for pneumothorax or effusion.",
    "Pleural effusion is not seen.",
    "Pneumothorax: none.",
    "Pneumothorax has been excluded.",
    "Neither effusion nor pneumothorax.",
    "No airspace opacity to suggest pneumonia.",
    "No nodule suspicious for malignancy.",
    "Heart size normal and lungs are clear.",
    "The lungs are clear without infiltrate or effusion.",
    "Clear lungs, with no pleural effusion.",
    "Normal heart size, mediastinal contours and pulmonary vasculature.",
    "The aortic valve is normal.",
    "There does not appear to be an effusion.",
    "No acute, displaced rib fracture.",
    "No cardiac, pulmonary or pleural disease.",
    "Heart is stable, lungs are clear.",
]

ABNORMAL = [
    "Stable COPD.",
    "Unchanged deformity of a left rib.",
    "Heart size is at the upper limits of normal.",
    "The heart is borderline in size.",
    "The heart is top normal in size.",
    "Mildly prominent right hilum.",
    "The heart is slightly enlarged.",
    "Tortuous aorta.",
    "Pneumonia cannot be excluded.",
    "Effusion is not excluded.",
    "Opacity at the left base may represent atelectasis.",
    "Atelectasis versus early infiltrate.",
    "Findings suggestive of edema.",
    "Suspicious density in the right apex.",
    "Possible small effusion.",
    "Question of a nodule.",
    "Likely scar.",
    "Concerning for pneumonia.",
    "A small effusion is difficult to exclude.",
    "Consider atelectasis.",
    "Pneumonia is unlikely.",
    "Cannot rule out a fracture.",
    "Not without effusion.",
    "No absence of effusion.",
    "No new infiltrate.",
    "No change in the left effusion.",
    "No significant interval change in cardiomegaly.",
    "No increase in the effusion.",
    "The lungs are not clear.",
    "The left base is not entirely clear.",
    "The right apex is unclear.",
    "The left hemidiaphragm is obscured.",
    "Stable tiny calcified nodule.",
    "Nodule of 4 mm in the lingula.",
    "Healed fracture of the right fifth rib.",
    "Old granulomatous disease.",
    "History of tuberculosis.",
    "Status post sternotomy.",
    "Postoperative changes at the right base.",
    "Left-sided pacemaker in place.",
    "Sternal wires are intact.",
    "Degenerative changes of the spine.",
    "Scoliosis.",
    "Hyperexpanded lungs.",
    "The lungs are over-inflated.",
    "Low lung volumes.",
    "Lung volumes remain low.",
    "Eventration of the right hemidiaphragm.",
    "The right hemidiaphragm is elevated.",
    "Blunting of the left costophrenic angle.",
    "Hiatal hernia.",
    "Bronchovascular crowding.",
    "Increased interstitial markings.",
    "Decreased vascular markings.",
    "Atherosclerotic aorta.",
    "Emphysema.",
    "The cardiac contour is abnormal.",
    "Abnormal appearance.",
    "The trachea is deviated to the right.",
    "The mediastinum is wider than normal.",
    "Mild XXXX at the base.",
    "Pleural effusion?",
    "The heart is large.",
    "Without a prior study, the age of the fracture is unknown.",
    "The opacity has nearly resolved.",
    "Opacity may be due to atelectasis.",
    "Trace effusion, if any.",
    "Doubt pneumonia.",
]

MIXED = [
    "No effusion but cardiomegaly.",
    "No pneumonia, atelectasis is present.",
    "No effusion, mild cardiomegaly.",
    "No acute disease, cardiomegaly.",
    "No pneumothorax and stable scarring.",
    "No pneumothorax the lungs are hyperinflated.",
    "No effusion is seen, left basilar atelectasis.",
    "The lungs are clear except for a granuloma.",
    "Aside from scoliosis, no bony abnormality.",
    "Clear lungs apart from a calcified granuloma.",
    "The chest is normal other than mild scoliosis.",
    "Band of scar at the right base, lungs otherwise clear.",
    "Heart size is enlarged, pulmonary vascularity within normal limits.",
    "Hyperinflated but clear lungs.",
    "Left lung is clear, right is not.",
    "A shadow at the left base, heart normal.",
    "Atelectasis rather than pneumonia.",
    "Normal heart size with a tortuous aorta.",
    "Cardiomegaly without edema.",
    "Chronic lung changes without acute abnormality.",
    "The heart is not enlarged, however the aorta is calcified.",
    "No effusion; right rib fracture.",
    "Lungs are clear (old rib fracture).",
    "No focal consolidation with low lung volumes.",
    "Heart size is within normal limits but increased.",
    "No pneumothorax small effusion.",
    "The left costophrenic angle is blunted, the right is sharp.",
]

NEUTRAL = [
    "PA and lateral views.",
    "Comparison XXXX.",
    "Chest:",
    "Findings:",
    "There is XXXX.",
    "No XXXX.",
    "XXXX are normal.",
    "The mediastinal contours are stable.",
    "No significant interval change.",
    "No change.",
    "The pneumothorax has resolved.",
    "Interval resolution of the effusion.",
    "The opacity is no longer visible.",
    "Removal of the chest tube.",
    "Lungs otherwise clear.",
    "Otherwise no effusion.",
    "Limited evaluation of the lungs.",
    "The apices are not well evaluated.",
    "Recommend follow-up CT.",
    "Discussed with the referring physician.",
    "The patient is slightly rotated.",
    "No foo.",
    "The lungs.",
    "",
    "...",
    "Lungs are relatively clear.",
]


@pytest.mark.parametrize(
    ("sign", "sentence"),
    [
        (sign, sentence)
        for sign, sentences in [("normal", NORMAL), ("abnormal", ABNORMAL), ("mixed", MIXED), ("neutral", NEUTRAL)]
        for sentence in sentences
    ],
)
def test_sign(sign: str, sentence: str) -> None:
    judgement = judge(sentence)
    assert judgement.sign == sign, judgement
    assert judge(sentence.upper()).sign == sign
    assert judge(f"  {sentence}  ").sign == sign


def claims(sentence: str) -> set[tuple[str, str, str]]:
    return {(mention.finding, mention.assertion, mention.side) for mention in judge(sentence).mentions}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The lungs are clear", {("lung_abnormality", "absent", "")}),
        ("Heart is stable, lungs are clear", {("lung_abnormality", "absent", "")}),
        ("Heart is XXXX and the lungs are clear", {("lung_abnormality", "absent", "")}),
        ("Heart size is stable and normal", {("cardiomegaly", "absent", "")}),
        ("No acute pleural abnormality", {("pleural_abnormality", "absent", "")}),
        ("No left effusion", {("pleural_effusion", "absent", "left")}),
        ("Left lung clear", {("lung_abnormality", "absent", "left")}),
        ("Heart size is normal", {("cardiomegaly", "absent", "")}),
        (
            "Cardiomediastinal silhouette is within normal limits",
            {("cardiac_silhouette_abnormality", "absent", ""), ("mediastinal_abnormality", "absent", "")},
        ),
        ("Bony structures are intact", {("bone_abnormality", "absent", "")}),
        ("No acute bony abnormality", {("acute_bone_abnormality", "absent", "")}),
        ("No acute cardiopulmonary abnormality", {("acute_cardiopulmonary_abnormality", "absent", "")}),
        ("Trachea is midline", {("tracheal_deviation", "absent", "")}),
        ("No free air", {("pneumoperitoneum", "absent", "")}),
        ("The heart is enlarged", {("cardiomegaly", "present", "")}),
        ("The heart is not enlarged", {("cardiomegaly", "absent", "")}),
        ("Elevation of the left hemidiaphragm", {("elevated_hemidiaphragm", "present", "left")}),
        ("Bilateral effusions", {("pleural_effusion", "present", "bilateral")}),
        ("Effusion in the right and left costophrenic angles", {("pleural_effusion", "present", "bilateral")}),
        (
            "Left effusion and right pneumothorax",
            {("pleural_effusion", "present", "left"), ("pneumothorax", "present", "right")},
        ),
        (
            "Opacity may represent pneumonia or atelectasis",
            {("opacity", "present", ""), ("pneumonia", "uncertain", ""), ("atelectasis", "uncertain", "")},
        ),
        ("No pneumonia, atelectasis is present", {("pneumonia", "absent", ""), ("atelectasis", "present", "")}),
        (
            "Effusion and pneumothorax are not seen",
            {("pleural_effusion", "absent", ""), ("pneumothorax", "absent", "")},
        ),
        ("Healed rib fracture", {("fracture", "historical", "")}),
        ("Prior granulomatous disease", {("granulomatous_disease", "historical", "")}),
        ("No new effusion", {("pleural_effusion", "uncertain", "")}),
        ("The effusion has resolved", {("pleural_effusion", "absent", "")}),
        ("Edema and effusion have resolved", {("pulmonary_edema", "absent", ""), ("pleural_effusion", "absent", "")}),
        ("Pneumonia is unlikely", {("pneumonia", "uncertain", "")}),
        ("The cardiac contour is deformed", {("bone_deformity", "present", "")}),
        ("The aorta is calcified", {("aortic_calcification", "present", "")}),
        ("A nodule that is calcified", {("nodule", "present", ""), ("calcification", "present", "")}),
        (
            "The heart is normal, lungs clear",
            {
                ("cardiomegaly", "absent", ""),
                ("cardiac_silhouette_abnormality", "absent", ""),
                ("lung_abnormality", "absent", ""),
            },
        ),
        ("Abnormal", {("unspecified_abnormality", "present", "")}),
        ("No findings of edema", {("pulmonary_edema", "absent", "")}),
        ("Atelectasis/scarring", {("atelectasis", "present", ""), ("scar", "present", "")}),
    ],
)
def test_mentions(sentence: str, expected: set[tuple[str, str, str]]) -> None:
    assert claims(sentence) == expected


@pytest.mark.parametrize("word", ["nodule", "abnormal", "unclear", "now", "noted", "known", "nonspecific", "note"])
def test_no_and_normal_inside_a_word_mean_nothing(word: str) -> None:
    assert judge(f"The {word} effusion").sign == "abnormal"


def test_denial_of_normality_at_once_covers_effusion_and_chest() -> None:
    found = {finding for finding, assertion, _ in claims("Normal chest.") if assertion == "absent"}
    assert {"chest_abnormality", "acute_cardiopulmonary_abnormality"} <= found


def test_spans_point_at_the_term() -> None:
    sentence = "There is no Pleural Effusion or air-space disease."
    spans = [sentence[mention.start : mention.end] for mention in judge(sentence).mentions]
    assert spans == ["Pleural Effusion", "air-space disease"]


@pytest.mark.parametrize(
    ("sentence", "anatomy"),
    [
        ("Osteophytes of the thoracic spine", "spine"),
        ("Opacity in the right lower lobe", "lower_lobe"),
        ("Opacity", "lung"),
        ("Effusion at the left base", "pleura"),
        ("The heart is enlarged", "heart"),
        ("The hila are abnormal", "hilum"),
        ("The ribs are normal", "rib"),
    ],
)
def test_anatomy(sentence: str, anatomy: str) -> None:
    (mention,) = judge(sentence).mentions
    assert mention.anatomy == anatomy


@pytest.mark.parametrize(
    ("sentence", "flag"),
    [
        ("No nodule above 4 mm.", "number"),
        ("Compared with 3/4/2020, no effusion.", "date"),
        ("No XXXX effusion.", "placeholder"),
        ("No ___ effusion.", "placeholder"),
        ("No effusion at this time.", "time"),
        ("Heart size is unchanged and normal.", "comparison"),
        ("No effusion on the PA view.", "technique"),
        ("Lungs:", "header"),
        ("No pacemaker.", "device"),
        ("She has no effusion.", "sex"),
        ("No effusion on the lateral view.", "lateral_view"),
        ("No effusion on the frontal view.", "frontal_view"),
        ("Recommend CT.", "recommendation"),
        ("Discussed by phone.", "communication"),
        ("The knee is normal.", "other_body_part"),
        ("No free air.", "other_body_part"),
        ("Upper abdomen is unremarkable.", "other_body_part"),
        ("Effusion?", "question"),
        ("The lungs are otherwise clear.", "otherwise"),
        ("Normal for the patient's age.", "patient"),
        ("No gribbly effusion.", "unknown_word"),
        ("This is normal.", "anaphora"),
    ],
)
def test_flags(sentence: str, flag: str) -> None:
    assert flag in judge(sentence).flags


@pytest.mark.parametrize(
    "sentence", ["The lungs are clear.", "No pleural effusion or pneumothorax.", "Heart size normal."]
)
def test_plain_normal_sentences_carry_no_flag(sentence: str) -> None:
    assert judge(sentence).flags == frozenset()


@pytest.mark.parametrize(
    ("child", "parent", "expected"),
    [
        ("pneumonia", "lung_abnormality", True),
        ("pneumonia", "pneumonia", True),
        ("pneumonia", "acute_cardiopulmonary_abnormality", True),
        ("lung_abnormality", "pneumonia", False),
        ("fracture", "acute_bone_abnormality", True),
        ("degenerative_change", "acute_bone_abnormality", False),
    ],
)
def test_is_a(child: str, parent: str, expected: bool) -> None:
    assert is_a(child, parent) is expected


@pytest.mark.parametrize(
    ("denied", "asserted", "expected"),
    [
        ("pleural_effusion", "pleural_effusion", True),
        ("lung_abnormality", "nodule", True),
        ("pneumonia", "airspace_disease", True),
        ("consolidation", "infiltrate", True),
        ("consolidation", "atelectasis", False),  # compatible.csv
        ("atelectasis", "consolidation", True),  # one way only
        ("lung_abnormality", "atelectasis", True),
        ("pleural_effusion", "costophrenic_blunting", True),
        ("acute_cardiopulmonary_abnormality", "pneumothorax", True),
        ("chest_abnormality", "device_pacemaker", True),
        ("acute_bone_abnormality", "degenerative_change", False),
        ("bone_abnormality", "degenerative_change", True),
        ("pleural_effusion", "cardiomegaly", False),
        ("pneumothorax", "fracture", False),
        ("cardiomegaly", "tortuous_aorta", False),
    ],
)
def test_clashes(denied: str, asserted: str, expected: bool) -> None:
    assert clashes(denied, asserted) is expected


def test_a_denial_clashes_with_every_kind_of_what_it_denies() -> None:
    for finding, ancestors in ontology().ancestors.items():
        assert all(clashes(ancestor, finding) and clashes(finding, ancestor) for ancestor in ancestors)


def test_judge_many_equals_judge() -> None:
    sentences = [*NORMAL, *ABNORMAL, *MIXED, *NEUTRAL]
    assert judge_many(sentences) == [judge(sentence) for sentence in sentences]


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(InputError, match=r"no assertion rules for the language 'xx'.*en, es"):
        judge("x", language="xx")


def test_the_tables_agree_with_each_other() -> None:
    book = vocabulary("en")
    assert book.terms > 3000
    assert set(book.pairs.values()) <= set(ontology().kinds)


def test_expand() -> None:
    assert expand(" pleural? fluid/effusion ") == [
        ("pleural", "fluid"),
        ("pleural", "effusion"),
        ("fluid",),
        ("effusion",),
    ]
    assert expand("  ") == []


@pytest.mark.parametrize(
    "text", ["\x00", "no" * 5000, "no " * 5000, "é" * 10, "[**name**]", "no ,,,; effusion", "x" * 100]
)
def test_odd_text_is_read_without_complaint(text: str) -> None:
    assert judge(text).sign in {"normal", "neutral", "abnormal", "mixed"}


def test_a_very_long_text_is_read_in_linear_time_and_never_normal():
    text = "no pleural effusion and the lungs are clear and " * 20_000 + "there is a left pneumothorax"
    began = time.perf_counter()
    judgement = judge(text)
    assert time.perf_counter() - began < 30
    assert judgement.sign == "mixed"
    assert "too_long" in judgement.flags
    last = judgement.mentions[-1]
    assert (last.finding, last.assertion, last.side) == ("pneumothorax", "present", "left")
    assert text[last.start : last.end] == "pneumothorax"
    assert judge("no pleural effusion and " * 200).sign != "normal"

import random
import re

import pytest

from raymedlt.errors import InputError
from raymedlt.images.label_formats import CHEXPERT, NIH14
from raymedlt.images.phantom_labels import FINDINGS
from raymedlt.reports.assertion import judge
from raymedlt.reports.labels import findings_of
from raymedlt.synthesis.prompts import Described, _wordings, check_prompt, prompt_of, readable, vocabulary, words_of

SEVERITIES = (None, 0.1, 0.5, 0.9)
SPOKEN = {"both": "bilateral"}
DIFFUSE = {name for name, kind in FINDINGS.items() if kind.sides == ("both",)}  # on both sides, and nobody says so


def meaning(name: str) -> set[str]:
    """What a finding of the phantom is called by the assertion engine."""
    return {found.finding for label in FINDINGS[name].labels["padchest"] for found in findings_of([label], "padchest")}


def one(name: str, side: str = "", severity: float | None = None) -> str:
    return prompt_of([Described(name, side, severity)], varied=False)


def test_a_prompt_says_side_severity_and_every_finding():
    findings = [Described("Pleural effusion", "left", 0.2), Described("Cardiomegaly")]
    prompt = prompt_of(findings, varied=False)
    assert prompt == "Frontal chest X-ray with a small left pleural effusion and cardiomegaly."
    three = prompt_of([*findings, Described("Endotracheal tube")], varied=False, view="PA")
    assert three == "PA chest X-ray with a small left pleural effusion, cardiomegaly and an endotracheal tube."
    assert one("Scoliosis", "right", 0.9) == "Frontal chest X-ray with severe scoliosis convex to the right."
    assert one("Scoliosis") == "Frontal chest X-ray with scoliosis."


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("Pleural_Thickening", "pleural thickening"),
        ("PleuralThickening", "pleural thickening"),
        ("Effusion", "a pleural effusion"),
        ("Edema", "pulmonary edema"),
        ("Calcification of the Aorta", "aortic atherosclerosis"),
        ("NSG tube", "a nasogastric tube"),
        ("NSG_tube", "a nasogastric tube"),
        ("bullas", "bullae"),
        ("COPD signs", "changes of chronic obstructive pulmonary disease"),
        ("pectum excavatum", "pectus excavatum"),
        ("Round(ed) Atelectasis", "round atelectasis"),
        ("Azygos_Lobe", "azygos lobe"),  # not in the file: by its own name
        ("SubcutaneousEmphysema", "subcutaneous emphysema"),
        ("Hernia, Hiatal", "a hiatal hernia"),
    ],
)
def test_names_of_public_tables_read_naturally(name, phrase):
    assert one(name) == f"Frontal chest X-ray with {phrase}."


def test_readable_keeps_abbreviations():
    assert readable("COPD_signs") == "COPD signs"
    assert readable("double J stent") == "double J stent"


@pytest.mark.parametrize("name", list(FINDINGS))
def test_the_assertion_engine_reads_each_finding_as_planned(name):
    for side in FINDINGS[name].sides or ("",):
        for severity in SEVERITIES:
            for key in range(8):
                prompt = prompt_of([Described(name, side, severity)], key=(key,))
                judged = judge(prompt)
                assert judged.sign == "abnormal", prompt
                assert [mention.assertion for mention in judged.mentions] == ["present"], prompt
                assert judged.mentions[0].finding in meaning(name), prompt
                if name not in DIFFUSE:
                    assert judged.mentions[0].side == SPOKEN.get(side, side), prompt


def test_the_assertion_engine_reads_label_sets_as_planned():
    chance = random.Random(5)
    for key in range(400):
        findings = [
            Described(name, chance.choice(FINDINGS[name].sides or ("",)), chance.choice(SEVERITIES))
            for name in chance.sample(list(FINDINGS), chance.randint(2, 7))
        ]
        prompt = prompt_of(findings, key=(key,))
        mentions = judge(prompt).mentions
        assert all(mention.assertion == "present" for mention in mentions), prompt
        assert {mention.finding for mention in mentions} <= set().union(*(meaning(each.name) for each in findings))
        for each in findings:
            sides = {mention.side for mention in mentions if mention.finding in meaning(each.name)}
            assert sides, f"{each.name} is lost in: {prompt}"
            assert each.name in DIFFUSE or SPOKEN.get(each.side, each.side) in sides, prompt


@pytest.mark.parametrize("scheme", ["nih14", "chexpert"])
def test_the_assertion_engine_reads_the_classes_of_public_tables(scheme):
    names = {"nih14": NIH14, "chexpert": CHEXPERT}[scheme]
    for name in names:
        mentions = judge(one(name)).mentions
        assert [mention.assertion for mention in mentions] == ["present"], name
        assert mentions[0].finding in {found.finding for found in findings_of([name], scheme)}, name


def test_wording_and_order_follow_from_seed_and_key_alone():
    findings = [Described("Nodule", "left", 0.5), Described("Cardiomegaly", "", 0.9), Described("Emphysema")]
    prompts = [prompt_of(findings, seed=1, key=("a", number)) for number in range(60)]
    assert len(set(prompts)) > 25
    assert prompts == [prompt_of(findings[::-1], seed=1, key=("a", number)) for number in range(60)]
    assert prompts != [prompt_of(findings, seed=2, key=("a", number)) for number in range(60)]
    assert len({prompt_of(findings, key=(number,), varied=False) for number in range(9)}) == 1
    first = {re.search(r"nodule|cardi|emphysema", prompt)[0] for prompt in prompts}
    assert first == {"nodule", "cardi", "emphysema"}  # each comes first at times


def test_nothing_known_and_nothing_found_are_two_prompts():
    assert prompt_of([], varied=False) == "Frontal chest X-ray."
    for key in range(6):
        assert judge(prompt_of([], key=(key,))).sign == "neutral"
        assert judge(prompt_of([Described("No_Finding")], key=(key,))).sign == "normal"
        assert judge(prompt_of([Described("sano")], key=(key,), normal_classes=["sano"])).sign == "normal"
    beside = prompt_of([Described("No Finding"), Described("Support Devices")], varied=False)
    assert beside == "Frontal chest X-ray with support devices."


def test_every_listed_wording_is_a_clean_sentence():
    for name in [*_wordings().phrases, "some other class"]:
        for side in ("", "left", "right", "both"):
            for severity in SEVERITIES:
                for key in range(4):
                    prompt = prompt_of([Described(name, side, severity)], key=(key,))
                    assert re.fullmatch(r"[A-Z][A-Za-z,() -]+\.", prompt), prompt
                    assert not re.search(r"  | ,| \.|\ba [aeio]|\ban [^aeiou]|\b(\w+) \1\b|\bthe \.", prompt), prompt


def test_the_vocabulary_is_what_prompts_are_made_of():
    classes = ("Pleural effusion", "Scoliosis", "Azygos_Lobe", "Endotracheal tube", "No Finding")
    sides, used = ("", "left", "right", "both"), set()
    for key in range(1500):
        chance = random.Random(key)
        chosen = chance.sample(classes, chance.randint(0, 4))
        findings = [Described(name, chance.choice(sides), chance.choice(SEVERITIES)) for name in chosen]
        used |= set(words_of(prompt_of(findings, key=(key,))))
    words = vocabulary(classes)
    assert used <= set(words)
    assert set(words) - used <= {"no", "finding"}  # the name of the normal class is never said ("no abnormality" is)
    assert list(words) == sorted(set(words))


@pytest.mark.parametrize("text", ["Chest X-ray of ___ with edema.", "XXXX effusion", "xxxx", "seen on [**2012-3-4**]"])
def test_marks_of_removed_patient_data_are_refused(text):
    with pytest.raises(InputError, match=r"a prompt with '.*' at character \d+.*Expected: words only") as caught:
        check_prompt(text)
    assert "effusion" not in str(caught.value)
    assert "2012" not in str(caught.value)
    with pytest.raises(InputError, match="an empty prompt"):
        check_prompt("  ")
    with pytest.raises(InputError, match="a prompt with 'XXXX'"):
        one("XXXX opacity")


def test_unusable_descriptions_are_refused():
    with pytest.raises(InputError, match=r"Nodule on side 'up'\. Expected: left, right, both or nothing"):
        one("Nodule", "up")
    with pytest.raises(InputError, match=r"Nodule of severity 3\.0\. Expected: a number from 0 to 1"):
        one("Nodule", "left", 3.0)

"""Spanish: sentences written for these tests, stemmed without accents as PadChest has them, and as a doctor writes."""

from __future__ import annotations

import time

import pytest

from raymedlt.reports.assertion import judge, judge_many
from raymedlt.reports.vocabulary import languages, vocabulary

NORMAL = [
    # stemmed
    "normal",
    "dentr normal",
    "estudi dentr limit normal",
    "torax normal",
    "torax anodin",
    "sin alter",
    "sin hallazg signific",
    "sin alter radiolog signific",
    "no hallazg patolog",
    "indic cardiotorac normal",
    "ict dentr limit normal",
    "siluet cardiac taman normal",
    "siluet cardiomediastin parenquim pulmonar sin alter",
    "sen costofren libr",
    "traque centr",
    "no apreci infiltr ni condens",
    "no apreci infiltr condens parenquimat",
    "no derram pleural",
    "no sign neumotorax ni derram pleural",
    "sin evident enfermed metastas",
    "no visualiz nodul pulmonar sospech metastasis",
    "no apreci imagen sug neumoni",
    "boton aortic no prominent",
    "pleur no estan engros",
    "no lin fractur costal",
    "estructur ose sin alter",
    "indic cardiotorac normal no apreci derram",
    "siluet cardiac normal sen costofren libr",
    "sin infiltr indic cardiotorac normal",
    # as written
    "Normal.",
    "Sin hallazgos patológicos.",
    "Tórax sin alteraciones significativas.",
    "Índice cardiotorácico normal.",
    "Silueta cardiomediastínica dentro de los límites de la normalidad.",
    "La silueta cardíaca es de tamaño normal.",
    "No se observa derrame pleural.",
    "No se aprecian infiltrados ni condensaciones.",
    "No hay derrame pleural ni neumotórax.",
    "Senos costofrénicos libres.",
    "Sin signos de insuficiencia cardíaca.",
    "No se identifican nódulos pulmonares.",
    "Se descarta neumotórax.",
    "No existe cardiomegalia.",
    "Parénquima pulmonar sin alteraciones.",
    "No se visualizan imágenes sugestivas de neumonía.",
    "Mediastino y silueta cardíaca normales.",
    "No hay adenopatías hiliares ni mediastínicas.",
    "Hilios y mediastino sin alteraciones.",
    "Ausencia de derrame pleural.",
]

ABNORMAL = [
    "cardiomegali",
    "derram pleural izquierd",
    "sign radiolog epoc",
    "aort elong",
    "elongacion aortic",
    "indic cardiotorac limit alto normal",
    "aument indic cardiotorac",
    "hili prominent orig vascul",
    "pinzamient sen costofren izquierd",
    "atelectasi lamin bas izquierd",
    "elevacion hemidiafragm derech",
    "escoliosis dorsolumb",
    "marcapas bicameral",
    "sond nasogastr",
    "canul traqueostomi situacion correct",
    "cerclaj esternotomi",
    "engros pleural apical bilateral",
    "granulom calcific lsd",
    "posibl neumoni",
    "probabl granulom",
    "infiltr lid descart neumoni",
    "sin pod descart neumoni",
    "no pued descart derram",
    "no descart nodul",
    "valor insuficient cardiac",
    "neumoni versus atelectasi",
    "sin cambi infiltr basal",
    "sin cambi infiltr ni derram",
    "derram pleural sin cambi",
    "derram establ",
    "cardiomegali conoc",
    "pers infiltr derech",
    "mejori infiltr",
    "resolucion parcial infiltr",
    "antecedent tuberculosis",
    "cambi secundari mastectomi",
    "call fractur costal antigu",
    "pulmon no normal",
    "no sin derram",
    "imag paravertebral izquierd",
    "nodul relacion con mamil",
    "cambi pulmonar cronic",
    "fractur sext arco costal",
    "Cardiomegalia.",
    "Derrame pleural bilateral.",
    "El corazón no es normal.",
    "No se puede descartar neumonía.",
    "Infiltrado en lóbulo inferior derecho a descartar neumonía.",
    "Posible atelectasia en la base izquierda.",
    "Aumento del índice cardiotorácico.",
    "Índice cardiotorácico en el límite alto de la normalidad.",
    "Hallazgos sugestivos de edema pulmonar.",
    "Nódulo calcificado estable.",
    "Antecedentes de tuberculosis pulmonar.",
    "Los hilios no son normales.",
    "Opacidad compatible con neumonía.",
    "Podría corresponder a una masa.",
    "Sin cambios en el derrame pleural izquierdo.",
]

NEUTRAL = [
    "sin cambi",
    "sin cambi signific respect estudi previ",
    "no apreci cambi respect control anterior",
    "rest sin alter",
    "rest estudi normal",
    "resolucion derram pleural",
    "desaparicion infiltr",
    "retir tub endotraqueal",
    "radiografi torax posteroanterior lateral",
    "estudi rot",
    "recomiend control radiolog",
    "cit tac torac",
    "no dispon estudi previ",
    "valor con dat clinic",
    "mejori radiolog",
    "mejori radiolog sin derram",
    "cambi acord edad pacient",
    "sin cambi relev",
    "Sin cambios respecto al estudio previo.",
    "Resto sin alteraciones.",
    "Radiografía de tórax en proyección lateral.",
    "Resolución del neumotórax.",
]

MIXED = [
    "cardiomegali sin derram",
    "no apreci infiltr cardiomegali",
    "no derram pleural atelectasi lamin izquierd",
    "no infiltr ni derram elongacion aortic",
    "sin hallazg signific escoliosis dorsal",
    "sin alter signific sign radiolog sugest epoc",
    "no apreci infiltr indic cardiotorac aument",
    "indic cardiotorac normal hili prominent",
    "no identific nodul sospech discret aument tram",
    "sin alter salv cardiomegali",
    "sin infiltr pero con derram",
    "no condens persist derram",
    "no derram pero cardiomegali",
    "sin alter signific salv lobulacion diafragmat",
    "atelectasi sin derram ni neumotorax",
    "No hay derrame, pero existe cardiomegalia.",
    "Sin infiltrados, salvo una atelectasia laminar.",
    "Cardiomegalia sin signos de insuficiencia cardíaca.",
    "No se aprecian condensaciones. Escoliosis dorsal.",
]

CASES = [
    (text, sign)
    for sign, texts in (("normal", NORMAL), ("abnormal", ABNORMAL), ("neutral", NEUTRAL), ("mixed", MIXED))
    for text in texts
]


@pytest.mark.parametrize(("text", "sign"), CASES)
def test_signs(text: str, sign: str) -> None:
    assert judge(text, "es").sign == sign


MENTIONS = [
    ("derram pleural izquierd", "pleural_effusion", "present", "left"),
    ("Derrame pleural derecho.", "pleural_effusion", "present", "right"),
    ("engros pleural bilateral", "pleural_thickening", "present", "bilateral"),
    ("granulom lsd", "granuloma", "present", "right"),
    ("Atelectasia en LII.", "atelectasis", "present", "left"),
    ("derram pleural izquierd atelectasi derech", "pleural_effusion", "present", "left"),
    ("derram pleural izquierd atelectasi derech", "atelectasis", "present", "right"),
    ("infiltr ambas bas", "infiltrate", "present", "bilateral"),
    ("elevacion hemidiafragm izquierd", "elevated_hemidiaphragm", "present", "left"),
    ("no derram pleural derech", "pleural_effusion", "absent", "right"),
    ("no apreci infiltr ni derram ni neumotorax", "infiltrate", "absent", ""),
    ("no apreci infiltr ni derram ni neumotorax", "pleural_effusion", "absent", ""),
    ("no apreci infiltr ni derram ni neumotorax", "pneumothorax", "absent", ""),
    ("no apreci infiltr cardiomegali", "cardiomegaly", "present", ""),
    ("No se observan infiltrados, derrame o neumotórax.", "pneumothorax", "absent", ""),
    ("Sin derrame y sin neumotórax.", "pneumothorax", "absent", ""),
    ("no pued descart neumoni", "pneumonia", "uncertain", ""),
    ("No se descarta neumonía.", "pneumonia", "uncertain", ""),
    ("infiltr a descartar neumoni", "pneumonia", "uncertain", ""),
    ("Se descarta fractura.", "fracture", "absent", ""),
    ("probabl nodul", "nodule", "uncertain", ""),
    ("opac sugest neumoni", "pneumonia", "uncertain", ""),
    ("opac sugest neumoni", "opacity", "present", ""),
    ("aument densid relacion con atelectasi", "atelectasis", "present", ""),
    ("no imagen sugest neumoni", "pneumonia", "absent", ""),
    ("antecedent tuberculosis", "tuberculosis", "historical", ""),
    ("no sin derram", "pleural_effusion", "uncertain", ""),
    ("resolucion neumotorax", "pneumothorax", "absent", ""),
    ("resolucion parcial neumotorax", "pneumothorax", "present", ""),
    ("sin cambi infiltr ni derram", "pleural_effusion", "uncertain", ""),
    ("siluet cardiac aument taman", "cardiomegaly", "present", ""),
    ("no apreci infiltr siluet cardiac aument", "cardiomegaly", "present", ""),
    ("siluet cardiac normal hili prominent", "hilar_prominence", "present", ""),
    ("siluet cardiac normal hili prominent", "cardiomegaly", "absent", ""),
    ("sen costofren libr", "pleural_effusion", "absent", ""),
    ("parenquim pulmonar sin alter", "lung_abnormality", "absent", ""),
    ("Corazón de tamaño normal.", "cardiomegaly", "absent", ""),
    ("Tráquea centrada.", "tracheal_deviation", "absent", ""),
    ("Nódulo en lóbulo superior derecho.", "nodule", "present", "right"),
    ("mam izquierd mastectomi", "mastectomy", "present", "left"),
    ("sond nasogastr", "device_tube", "present", ""),
    ("cambi degener column", "degenerative_change", "present", ""),
    ("sin alter salv cardiomegali", "cardiomegaly", "present", ""),
    ("sin hallazg signific", "chest_abnormality", "absent", ""),
    ("No se aprecian alteraciones.", "chest_abnormality", "absent", ""),
    ("Estructuras óseas sin alteraciones.", "bone_abnormality", "absent", ""),
    ("No se evidencian lesiones óseas agudas.", "bone_lesion", "absent", ""),
]


@pytest.mark.parametrize(("text", "finding", "assertion", "side"), MENTIONS)
def test_mentions(text: str, finding: str, assertion: str, side: str) -> None:
    found = {(mention.finding, mention.assertion, mention.side) for mention in judge(text, "es").mentions}
    assert (finding, assertion, side) in found


@pytest.mark.parametrize(
    ("stemmed", "written"),
    [
        ("no apreci derram pleural", "No se aprecia derrame pleural"),
        ("indic cardiotorac normal", "Índice cardiotorácico normal"),
        ("sign radiolog sugest epoc", "Signos radiológicos sugestivos de EPOC"),
        ("elevacion hemidiafragm derech", "Elevación del hemidiafragma derecho"),
        ("sin pod descart neumoni", "Sin poder descartar neumonía"),
        ("atelectasi lamin bas izquierd", "Atelectasias laminares en la base izquierda"),
    ],
)
def test_stemmed_and_written_spanish_read_the_same(stemmed: str, written: str) -> None:
    first, second = judge(stemmed, "es"), judge(written, "es")
    assert (first.sign, first.flags) == (second.sign, second.flags)
    assert [(m.finding, m.assertion, m.side) for m in first.mentions] == [
        (m.finding, m.assertion, m.side) for m in second.mentions
    ]


def test_mentions_point_into_the_written_text() -> None:
    text = "No se observa derrame pleural."
    (mention,) = judge(text, "es").mentions
    assert text[mention.start : mention.end] == "derrame pleural"


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("no apreci derram xilofon", "unknown_word"),
        ("sin alter respect estudi previ", "comparison"),
        ("no derram 12 10 2010", "number"),
        ("sin hallazg edad pacient", "patient"),
        ("no apreci tub endotraqueal", "device"),
        ("mam sin alter", "sex"),
        ("cam gastric normal", "other_body_part"),
        ("actual sin infiltr", "time"),
        ("no sign neumotorax ni complicacion", "technique"),
        ("proyeccion lateral sin alter", "lateral_view"),
    ],
)
def test_flags(text: str, flag: str) -> None:
    assert flag in judge(text, "es").flags


@pytest.mark.parametrize(
    "text", ["sin hallazg signific", "no apreci infiltr ni condens pulmonar", "Senos costofrénicos libres."]
)
def test_plain_denials_have_no_flags(text: str) -> None:
    assert judge(text, "es").flags == frozenset()


def test_an_affirmed_unknown_word_is_not_normal() -> None:
    assert judge("xilofonitis derech sin derram", "es").sign == "neutral"


def test_short_cues_take_no_endings() -> None:
    """ "sino" isn't "sin" + "o", "noche" isn't "no"."""
    assert not any(mention.assertion == "absent" for mention in judge("sino derram", "es").mentions)


def test_languages_are_folders() -> None:
    assert {"en", "es"} <= set(languages())
    assert vocabulary("es").language.restore_breaks
    assert not vocabulary("en").language.restore_breaks


def test_speed() -> None:
    """Tens of thousands of sentences a second; the bound leaves room for a busy machine."""
    texts = [text for text, _ in CASES] * 30
    judge_many(texts[:10], "es")
    started = time.process_time()
    judge_many(texts, "es")
    assert len(texts) / (time.process_time() - started) > 5_000

"""The finetune job's cards: headers that hubs can read, figures, and nothing of a patient."""

import dataclasses
import re

import yaml
from finetune_report_world import finetune_report, rows

from raymedlt.finetuning.card import data_card, model_card
from raymedlt.finetuning.report import FindingCounts
from raymedlt.reports.sentences import split_sentences

EVIL = '<img src=x> | [a](b) `x` "y"\n# c'


def header_of(card):
    _, words, _ = card.split("---\n", 2)
    return yaml.safe_load(words)


def test_model_card_says_what_it_is_and_how_good():
    card = model_card(finetune_report(), folder="runs/x/model", base_model="org/name", license_words="apache-2.0")
    head = header_of(card)
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == "org/name"
    assert head["pipeline_tag"] == "image-text-to-text"
    assert "synthetic-data" in head["tags"]
    (result,) = head["model-index"][0]["results"]
    metrics = {each["type"]: each["value"] for each in result["metrics"]}
    assert metrics["complete_micro_f1"] == round(finetune_report().scored[0].scores["complete_micro_f1"].estimate, 4)
    assert result["dataset"]["split"] == "test"
    for words in (
        'load("runs/x/model").generate(images)', "Not for diagnosis", "2,600,123 of 2,600,123", "safetensors",
        "epoch 3, validation loss", "131 of 144 training studies", "| train | 144 | 96 |", "2, then 1, then 2",
        "0.625 (", "hyperinflation", "BERTScore", "made by code", "0123456789abcdef",
        "optimizer and gradients (DeepSpeed, ZeRO 2)",
    ):  # fmt: skip
        assert words in card, words


def test_data_card_names_the_table_and_says_whose_reports_it_holds():
    report = finetune_report()
    card = data_card(report)
    head = header_of(card)
    assert [each["config_name"] for each in head["configs"]] == ["generations", "rejected"]
    assert head["size_categories"] == ["n<1K"]
    assert "The original reports are made by code." in card
    assert "| test | 320 | 211 | 3 |" in card
    real = data_card(dataclasses.replace(report, data=dataclasses.replace(report.data, phantom=False), rejected={}))
    assert "of patients: keep this folder where they may be kept" in real
    assert len(header_of(real)["configs"]) == 1


def test_cards_hold_no_report_and_no_id():
    report = finetune_report()
    for card in (model_card(report), data_card(report)):
        for row in rows()[:60]:
            assert row["image_id"] not in card
            assert not [each for each in split_sentences(row["completion"]) if each in card]


def test_words_from_outside_stay_words_and_nothing_is_nan():
    report = finetune_report()
    nothing = dataclasses.replace(report.scored[0], complete=[FindingCounts(EVIL, 0, 0, 0)], absent=[EVIL])
    evil = dataclasses.replace(
        report, scored=[nothing], rejected={EVIL: 3}, versions={EVIL: EVIL},
        data=dataclasses.replace(report.data, words=EVIL),
        model=dataclasses.replace(report.model, base=EVIL, prompt=EVIL),
    )  # fmt: skip
    none = dataclasses.replace(report, scored=[], training=dataclasses.replace(report.training, history=()))
    for card in (model_card(evil, folder=EVIL), data_card(evil), model_card(none), data_card(none)):
        body = card.split("---\n", 2)[2]
        assert "<img" not in re.sub(r"```.*?```", "", body, flags=re.DOTALL)
        assert "\n# c" not in body
        assert not re.findall(r"\bnan\b|\bNone\b", body)
    assert "model-index" not in header_of(model_card(none))
    assert "No report was scored." in data_card(none)

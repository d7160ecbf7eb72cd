"""The finetune job's page, of a run that was made up from the phantom's texts."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from finetune_report_world import finetune_report
from PIL import Image
from plotly.offline import get_plotlyjs

from raymedlt.evaluation.scores import evaluate
from raymedlt.finetuning.examples import Example
from raymedlt.finetuning.figures import MOST_FINDINGS, finding_bars, finding_forest, loss_curves, seeing_curves
from raymedlt.finetuning.page import finetune_page, verdict
from raymedlt.finetuning.page_making import times, zero_words
from raymedlt.finetuning.report import Cost, FindingCounts, Scored
from raymedlt.runreport.page import figure_json

EVIL = "<img src=x onerror=\"document.title='owned'\">"


def page_of(report, **words):
    text = finetune_page(report, **words)
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


@pytest.fixture(scope="module")
def page():
    return page_of(
        finetune_report(), folder="runs/finetune/model", command="python jobs/finetune.py",
        paths={"generations": "runs/finetune/generations"},
    )  # fmt: skip


def section(text, anchor):
    return re.search(rf'<section id="{anchor}">(.*?)</section>', text, re.DOTALL)[1]


def bare():
    """A run of which next to nothing is known: nothing was claimed, found or left out."""
    report = finetune_report()
    texts = ["No pleural effusion.", ""]
    found = evaluate(texts, ["No pneumothorax.", "Heart is normal."], ["a", "b"])
    own = Scored.of(found, split="test", completions=texts, references=texts, cut=0, resamples=0, seed=0)
    return dataclasses.replace(
        report, scored=[own], examples=(), cost=Cost(), rejected={}, rejected_rows=(),
        training=dataclasses.replace(report.training, history=(), seeing=()),
    )  # fmt: skip


def test_first_screen_says_how_good_it_is_and_what_to_distrust(page):
    first = page.split('<section id="what-the-model-writes">')[0]
    total = finetune_report().main.total
    assert total.positives == 233
    for words in (
        "The model wrote reports for 320 test images: it names 60\u00a0% of the 233 findings that they show, and"
        f" {100 * total.hits / total.claimed:.0f}\u00a0% of the {total.claimed} findings that it claims are there.",
        "against complete texts", ">0.625<", "F1 of exact sentences", "Reports without a finding",
        "48\u00a0% of complete texts", ">0.830<", "per token, epoch 3 of 4", "Not for diagnosis", "made by code",
    ):  # fmt: skip
        assert words in first, words


def test_the_page_is_light_makes_no_request_and_shows_its_images(page):
    assert len(page.encode()) < 600_000
    sources = re.findall(r'<img src="([^"]*)"', page)
    assert len(sources) == page.count("<img") == len(finetune_report().examples) == 8
    for source, own in zip(sources, finetune_report().examples, strict=True):
        data = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
        assert (np.asarray(Image.open(io.BytesIO(data))) == own.image_SS).all()
    assert not re.findall(r"https?://|@import|url\(|<link|\ssrc=\"(?!data:)", page)


def test_examples_are_marked_sentence_by_sentence():
    one = Example(
        image_id="x_0", image_SS=np.zeros((64, 64), np.uint8), cut=True,
        completion="Mild cardiomegaly. Right pleural effusion. No scoliosis. Calcified granuloma. No pneumothorax.",
        reference="Left pleural effusion. No pneumothorax. There is a hiatal hernia.",
        complete="Cardiomegaly. Left pleural effusion. No pneumothorax. There is a hiatal hernia. No rib fracture."
        " Scoliosis.",
    )  # fmt: skip
    text = section(page_of(dataclasses.replace(finetune_report(), examples=[one])), "what-the-model-writes")
    pieces = {
        re.sub(r"<.*", "", words, flags=re.DOTALL): (marks.split(), note)
        for marks, words, note in re.findall(
            r'<span class="piece([^"]*)"[^>]*>([^<]*)(?:<span class="evidence" role="tooltip">([^<]*)</span>)?</span>',
            text,
        )
    }
    assert pieces["Mild cardiomegaly."] == (["piece-right"], "cardiomegaly: there")
    assert pieces["Right pleural effusion."] == (["piece-partly"], "pleural effusion: there, but on the other side")
    assert pieces["No scoliosis."] == (["piece-wrong"], "scoliosis: denied, but there")
    assert pieces["Calcified granuloma."] == (["piece-wrong"], "granuloma: not there")
    assert pieces["No pneumothorax."] == (["piece-same"], "")
    assert pieces["There is a hiatal hernia."] == (["piece-missed"], "hernia: not named by the model")
    assert pieces["Scoliosis."] == (["piece-missed", "piece-unsaid"], "scoliosis: not named by the model")
    assert "(1 more sentence without a finding)" in pieces
    assert "(ends here: generation.max_tokens)" in pieces
    assert "2 of 4 findings named, 1 on the wrong side, 1 wrongly claimed" in text
    assert re.findall(r'<span class="tag tag-([a-z]+)">([^<]*)</span>', text) == [
        ("right", "found: cardiomegaly"), ("partly", "wrong side: pleural effusion"), ("missed", "missed: hernia"),
        ("missed", "missed: scoliosis"), ("wrong", "not there: granuloma"),
    ]  # fmt: skip


def test_untrusted_words_stay_text():
    report = finetune_report()
    evil = dataclasses.replace(
        report,
        examples=[
            Example(
                image_id=EVIL, image_SS=np.zeros((8, 8), np.uint8), completion=EVIL, reference=EVIL, complete=EVIL
            )
        ],
        data=dataclasses.replace(report.data, words=EVIL),
        model=dataclasses.replace(report.model, vision=EVIL, base=EVIL, prompt=EVIL),
        scored=[
            dataclasses.replace(
                report.scored[0], absent=[EVIL], complete=[FindingCounts(EVIL, 1, 1, 1)], findings=(),
                scores=report.scored[0].scores | {EVIL: report.scored[0].scores["bleu"]},
            )
        ],
        rejected={EVIL: 1}, rejected_rows=[(EVIL, EVIL, EVIL)],
    )  # fmt: skip
    own = page_of(evil, folder=EVIL, command=EVIL, paths={"generations": EVIL, "rejected": EVIL})
    assert "<img src=x" not in own
    assert own.count("<img") == 1


def test_every_finding_and_every_score_has_its_row(page):
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    cells = [
        [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)] for row in rows
    ]
    table = {row[0]: row[1:] for row in cells if row}
    scored = finetune_report().main
    for each in scored.truth:
        assert table[each.name][:3] == [str(each.positives), str(each.claimed), str(each.hits)]
    one = scored.scores["complete_micro_f1"]
    assert table["Findings, F1"][2:4] == [f"{one.estimate:.3f}", f"{one.low:.3f} to {one.high:.3f}"]
    assert table["ROUGE-L"][2:4] == ["", ""]  # not against complete texts
    names = [name for name in scored.scores if not name.startswith("complete_") and name != "words"]
    assert sum(row[0] in table for row in cells if len(row) == 6) == len(names)
    told = section(page, "scores")
    for words in ("Words of a report", "the original ones: ", "Not computed", "BERTScore", "CheXbert F1", "Cluster F1"):
        assert words in told, words


def test_undefined_figures_are_never_nan():
    own = page_of(bare())
    for words in (
        "none of them shows a finding, and it claims 0", "No examples", "Neither the model nor the truth names a",
        "Nothing was learnt in this run", "not measured: the reports were there", "No row was rejected", "not defined",
        "A true finding that the original report leaves out counts as wrong here",
    ):  # fmt: skip
        assert words in own, words
    none = page_of(dataclasses.replace(bare(), scored=[]))
    assert none.count("No report was scored") == 3  # two sections and a warning
    for text in (own, none):
        visible = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
        assert not re.findall(r"\bnan\b|\bNone\b|\binf\b", visible)


def test_verdict_of_a_silent_and_of_a_blind_model():
    report = finetune_report()
    silent = dataclasses.replace(report.scored[0], complete=[FindingCounts("mass", 0, 0, 9)])
    told = verdict(dataclasses.replace(report, scored=[silent], blind=True))
    assert told.startswith("Without seeing an image, the model wrote reports for 320 test images: it names 0\u00a0% of")
    assert told.endswith("the 9 findings that they show, and it claims no finding at all.")
    original = verdict(dataclasses.replace(report, scored=[dataclasses.replace(report.scored[0], complete=None)]))
    assert "findings that the original reports name" in original


def test_two_splits_have_a_panel_each():
    report = finetune_report()
    validation = dataclasses.replace(report.scored[0], split="validation", reports=16)
    text = section(page_of(dataclasses.replace(report, scored=[validation, report.scored[0]])), "scores")
    assert re.findall(r'class="panel" data-label="([a-z]+)"', text) == ["test", "validation"]
    assert "16 validation reports" in text


def test_training_data_and_use_are_told(page):
    learnt = section(page, "how-it-learnt")
    for words in (
        "4 of at most 6", "stopped early", "2, then 1, then 2", "2 times",
        "optimizer and gradients (DeepSpeed, ZeRO 2)", "float32 on cpu", "validation loss 0.8300 per token",
    ):  # fmt: skip
        assert words in learnt, words
    data = section(page, "what-it-learnt-from")
    for words in ("with the additions of jobs/enrich.py", "131 of 144 studies", "38 tokens", "the longest has 97"):
        assert words in data, words
    assert "load(&#34;runs/finetune/model&#34;).generate" in section(page, "how-to-use-it")
    assert "348.0 s of work; 9.0 s of start-up" in section(page, "cost")
    assert re.search(r"text.use</dt><dd>enriched <span class=\"remark\">changed; the default is original", page)


def test_wordings():
    assert [times(count) for count in (0, 1, 2)] == ["never", "once", "2 times"]
    training = finetune_report().training
    assert zero_words(dataclasses.replace(training, zero=0)) == "nothing: every process holds the whole model"
    assert zero_words(dataclasses.replace(training, zero=3, offload=True)).endswith("ZeRO 3), in the memory of the CPU")


def test_figures_are_valid_and_tell_their_numbers():
    report = finetune_report()
    many = [FindingCounts(f"finding <{n}>", 900 - n, n, 3 * n) for n in range(60)]
    bars = finding_bars(many)
    found, missed, wrong = (trace["x"] for trace in bars.data)
    assert (found[2], missed[2], wrong[2]) == (898, 6, -2)
    assert len(found) == MOST_FINDINGS
    assert "the 40 commonest of 60" in bars.caption
    assert bars.layout["xaxis"]["ticktext"][0] == f"{-bars.layout['xaxis']['tickvals'][0]:,}"
    assert len(bars.layout["xaxis"]["tickvals"]) < 16
    figures = [
        bars, finding_forest([*many[:3], FindingCounts("never", 0, 0, 0)]), loss_curves(report.training),
        seeing_curves(report.training.seeing), seeing_curves([{"epoch": 0, "loss": 1.0}]),
        finding_bars([FindingCounts("one", 0, 1, 0)]),
    ]  # fmt: skip
    for figure in figures:
        text = figure_json(figure)
        assert "finding <" not in text
        go.Figure(json.loads(re.sub(r"var\(--[a-z-]+\)", "#123456", text)))
    assert loss_curves(report.training).layout["shapes"][0]["x0"] == 3
    assert len(figures[4].data) == 1

"""The classify job's page and model card, from figures written for this test."""

import base64
import dataclasses
import io
import itertools
import math
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from raymedlt.classifier.attentionmaps import overlay
from raymedlt.classifier.card import model_card
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.confusion import call_rates, outranked
from raymedlt.classifier.figures import class_forest
from raymedlt.classifier.graphfigure import circle_order, cooccurrence_graph
from raymedlt.classifier.page import classifier_page
from raymedlt.classifier.report import (
    AblationRow,
    ClassScores,
    Estimate,
    MapExample,
    Reliability,
    Report,
    SplitCounts,
    WorthRow,
    judged,
    undefined_classes,
    warnings_of,
)
from raymedlt.config import config_hash
from raymedlt.images.config import SplitConfig
from raymedlt.runreport.page import figure_json

NAMES = [
    "effusion", "cardiomegaly", "atelectasis", "nodule", "mass", "consolidation", "edema", "emphysema", "scoliosis",
    "pacemaker", "fracture", "pneumothorax", "hernia", "device <line> | tip", "pneumoperitoneum", "dextrocardia",
]  # fmt: skip
EVIL = "<img src=x onerror=\"document.title='owned'\">"


def chest(rng, size=64):
    """A grey picture with two dark lungs."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lungs = sum(np.exp(-((x - c) ** 2 / 0.06 + y**2 / 0.3)) for c in (-0.42, 0.42))
    return np.clip(190 - 130 * lungs + rng.normal(0, 5, (size, size)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def report():
    """Plausible figures: what is rarer is found less well; the last class has no test positive."""
    rng = np.random.default_rng(0)
    images, count = 1500, len(NAMES)
    frequency = 0.3 * 0.62 ** np.arange(count)
    labels = (rng.random((images, count)) < np.maximum(frequency, 0.02)).astype(np.float64)
    labels[:, -1] = 0
    labels[rng.random((images, count)) < 0.02] = np.nan
    logit = rng.normal(0, 1, (images, count)) + 2.2 * np.nan_to_num(labels) + np.log(np.maximum(frequency, 0.01))
    probabilities = 1 / (1 + np.exp(-logit))
    thresholds = [np.quantile(p, 1 - max(f, 0.02)) for p, f in zip(probabilities.T, frequency, strict=True)]
    classes = []
    for n, name in enumerate(NAMES):
        positives = int(np.nansum(labels[:, n]))
        ap, auc = 0.75 - 0.03 * n, 0.93 - 0.01 * n
        undefined = positives == 0
        classes.append(
            ClassScores(
                name=name,
                group="head" if frequency[n] > 0.1 else "medium" if frequency[n] > 0.01 else "tail",
                training_positives=int(4000 * frequency[n]),
                test_positives=positives,
                test_known=int(np.isfinite(labels[:, n]).sum()),
                ap=Estimate(math.nan) if undefined else Estimate(ap, ap - 0.04 - 0.006 * n, ap + 0.05 + 0.004 * n),
                auc=Estimate(math.nan) if undefined else Estimate(auc, auc - 0.03, auc + 0.02),
                f1=math.nan if undefined else ap - 0.08,
                threshold=float(thresholds[n]),
                ece=0.01 + 0.001 * n,
            )
        )
    together = np.nan_to_num(labels).T @ np.nan_to_num(labels)
    adjacency = together / (np.diag(together) + 1)
    adjacency = np.where(adjacency + adjacency.T > 0.1, (adjacency + adjacency.T) / 2, 0)
    epochs = np.arange(1, 12)
    bins = np.linspace(0.05, 0.95, 10)
    spots = [np.exp(-(((np.mgrid[0:4, 0:4] - rng.uniform(0, 3, (2, 1, 1))) ** 2).sum(0))) for _ in range(12)]
    return Report(
        config=ClassifyConfig(split=SplitConfig(tail_up_to=0.02)),
        data="phantom images with PadChest's label sets",
        model="resnet10t from random weights, with gate, class-aware attention and label graph",
        phantom=True,
        splits={
            "train": SplitCounts(images=4000, patients=3100, synthetic=200),
            "validation": SplitCounts(images=440, patients=350),
            "test": SplitCounts(images=images, patients=1210),
        },
        summary={
            group: {"ap": Estimate(*ap), "auc": Estimate(*auc), "f1": Estimate(*f1)}
            for group, ap, auc, f1 in (
                ("all", (0.52, 0.49, 0.55), (0.86, 0.84, 0.88), (0.44, 0.41, 0.47)),
                ("head", (0.72, 0.69, 0.75), (0.92, 0.9, 0.94), (0.65, 0.6, 0.7)),
                ("medium", (0.58, 0.54, 0.61), (0.9, 0.88, 0.92), (0.5, 0.4, 0.6)),
                ("tail", (0.37, 0.31, 0.44), (0.81, 0.77, 0.84), (0.3, 0.2, 0.4)),
            )
        },
        classes=classes,
        curves={
            "epoch": epochs,
            "loss": 0.9 * np.exp(-epochs / 4) + 0.2,
            "validation_map": np.r_[0.55 * (1 - np.exp(-epochs[:-1] / 3)), 0.5],
            "rate": 1e-3 * np.cos((epochs - 1) / 7) ** 2,
        },
        best_epoch=10,
        reliability={
            "before calibration": Reliability(
                predicted=bins, observed=bins**1.4, counts=(20000 * np.exp(-8 * bins)).astype(np.int64) + 5, ece=0.041
            ),
            "after calibration": Reliability(
                predicted=bins, observed=bins**1.07, counts=(21000 * np.exp(-8 * bins)).astype(np.int64) + 5, ece=0.012
            ),
        },
        temperature=1.31,
        labels_NC=labels,
        probabilities_NC=probabilities,
        adjacency_CC=adjacency,
        maps=[
            MapExample(
                image_id=f"phantom-{n:05}",
                class_name=NAMES[10 + n % 5],
                probability=0.9 / (n + 1),
                positive=n % 3 != 2,
                truth=[NAMES[10 + n % 5], "effusion"] if n % 3 != 2 else [],
                image_SS=chest(rng),
                map_HW=spots[n],
            )
            for n in range(12)
        ],
        ablation=[
            AblationRow(variant="full network", tail=Estimate(0.37, 0.31, 0.44), macro=Estimate(0.52, 0.49, 0.55)),
            AblationRow(
                variant="plain BCE", tail=Estimate(0.25, 0.2, 0.3), macro=Estimate(0.45, 0.42, 0.48),
                tail_difference=Estimate(-0.12, -0.16, -0.08), macro_difference=Estimate(-0.07, -0.09, -0.05),
            ),
            AblationRow(
                variant="no label graph", tail=Estimate(0.372, 0.31, 0.44), macro=Estimate(0.521, 0.49, 0.55),
                tail_difference=Estimate(0.002, -0.01, 0.014), macro_difference=Estimate(0.001, -0.004, 0.006),
            ),
            AblationRow(
                variant="no gate", tail=Estimate(0.39, 0.33, 0.46), macro=Estimate(0.53, 0.5, 0.56),
                tail_difference=Estimate(0.02, 0.004, 0.036), macro_difference=Estimate(0.01, 0.001, 0.02),
            ),
        ],
        left_out=[("situs inversus", 3, "fewer than 10 positive training images")],
        rejected={"the image can't be decoded": 2, "no label": 1},
        rejected_rows=[("a.png", "labels.csv", "the image can't be decoded")],
        warnings=["A warning of the job's own."],
        seconds={"prepare": 12.1, "train": 301.5, "score": 4.2, "explain": 2.0},
        startup_seconds=6.5,
        parameters=4_900_000,
        where="8 CPU cores",
        versions={"raymedlt": "0.1.0", "torch": "2.14.1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(report):
    return classifier_page(
        report, command="python jobs/classify.py", paths={"predictions": "runs/classify/predictions"}
    )


def own_parts(text):
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def test_first_screen_says_what_how_good_and_what_to_distrust(page):
    first = own_parts(page).split('<section id="class-by-class">')[0]
    assert (
        "Trained on 4,000 phantom images with PadChest&#39;s label sets: mean average precision 0.72 on head,"
        " 0.58 on medium and 0.37 on tail classes, 15 in all" in first
    )
    assert "1,500 test images of 1,210 patients that had no part in training" in first
    for words in (
        "95 %: 0.310 to 0.440", "in at most 2\u00a0%", "Not for diagnosis", "not on patients&#39;", "A warning of",
        "1 class without a positive or without a negative test image: dextrocardia", "1 class of the label table not",
    ):  # fmt: skip
        assert words in first, words


def test_the_page_is_light_makes_no_request_and_shows_its_images(page, report):
    own = own_parts(page)
    assert len(own.encode()) < 1_000_000
    sources = re.findall(r'<img src="([^"]*)"', own)
    assert len(sources) == own.count("<img") == 2 * len(report.maps)
    for source in sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)))
        assert image.size == (64, 64)
    assert not re.findall(r"https?://|@import|url\(|<link|\ssrc=\"(?!data:)", own)


def test_untrusted_names_stay_text(report):
    classes = [dataclasses.replace(c, name=EVIL if n == 3 else c.name) for n, c in enumerate(report.classes)]
    maps = [dataclasses.replace(report.maps[0], image_id=EVIL, class_name=EVIL, truth=[EVIL])]
    evil = dataclasses.replace(report, classes=classes, maps=maps, data=EVIL, warnings=[EVIL], model=EVIL)
    own = own_parts(classifier_page(evil))
    assert own.count("<img") == 2
    assert "<img src=x" not in own.replace('<img src="data:', "")
    assert "<img" not in model_card(evil).split("---\n", 2)[2]


def test_undefined_classes_are_said_and_have_no_figures(report, page):
    assert undefined_classes(report) == ["dextrocardia"]
    own = own_parts(page)
    assert "Undefined: dextrocardia." in own
    assert re.search(r'<td class="tight">0\.71–0\.80</td>', own)
    row = re.search(r"<td class=\"\">dextrocardia</td>(.*?)</tr>", own, re.DOTALL)[1]
    assert row.count('data-value=""') == 2
    assert "undefined" in row
    assert not re.findall(r"\bnan\b", re.sub(r"<(script|style).*?</\1>", "", own, flags=re.DOTALL), re.IGNORECASE)


def test_a_run_without_tail_maps_ablation_and_rejected_rows_has_its_page(report):
    classes = [dataclasses.replace(c, group="head") for c in report.classes]
    bare = dataclasses.replace(
        report, classes=classes, summary={}, maps=(), ablation=(), rejected={}, rejected_rows=(), reliability={},
        temperature=None, left_out=(), adjacency_CC=np.eye(len(classes)), phantom=False, best_epoch=None,
    )  # fmt: skip
    own = own_parts(classifier_page(bare))
    for words in ("No class is in the tail", "No attention maps", "Not measured in this run", "No row was rejected",
                  "No two classes are seen together", "The probabilities were not checked"):  # fmt: skip
        assert words in own
    assert "<img" not in own
    assert "phantom" not in warnings_of(bare)
    assert "synthetic-data" not in model_card(bare)


def test_call_rates_by_hand():
    labels = np.array([[1, 0], [1, 1], [1, np.nan], [0, 1.0]])
    probabilities = np.array([[0.6, 0.7], [0.4, 0.9], [0.8, 0.9], [0.9, 0.1]])
    rates = call_rates(labels, probabilities, np.array([0.5, 0.5]), [0, 1])
    # Class 0: called on images 0 and 2 of 0, 1, 2. Class 1 on them: image 0 alone is known not to show it; called.
    np.testing.assert_allclose(rates, [[2 / 3, 1.0], [1.0, 0.5]])
    assert np.isnan(call_rates(labels * 0, probabilities, np.array([0.5, 0.5]), [0, 1])).all()
    assert (call_rates(labels, probabilities, np.array([np.nan, 0.5]), [0])[0, 0]) == 0


def test_outranked_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, np.nan, 0], [0, 1, 1.0]])
    probabilities = np.array([[0.2, 0.5, 0.7], [0.1, 0.9, 0.1], [0.1, 0.9, 0.1], [0.9, 0.9, 0.9]])
    thresholds = np.array([0.1, 0.5, 0.6])
    # Image 0: class 0 clears its threshold by logit 0.81; class 1 by 0; class 2 by 0.44. On images 1 and 2 class 1 is
    # shown or unknown, and class 2 is far below its threshold.
    np.testing.assert_allclose(outranked(labels, probabilities, thresholds, 0), [0, 0, 0])
    probabilities[0, 2] = 0.9
    np.testing.assert_allclose(outranked(labels, probabilities, thresholds, 0), [0, 0, 1 / 3])
    assert np.isnan(outranked(labels * 0, probabilities, thresholds, 0)).all()


def test_overlay_colours_where_the_map_is_high_and_leaves_the_rest():
    image = np.full((64, 64), 120, np.uint8)
    map_HW = np.zeros((4, 4), np.float32)
    map_HW[0, 3] = 7.0
    pixels = np.asarray(Image.open(io.BytesIO(overlay(image, map_HW)))).astype(int)
    assert pixels.shape == (64, 64, 3)
    assert (pixels[32:, :32] == 120).all()
    red, green, blue = pixels[2, 61]
    assert red > 170
    assert max(green, blue) < 80
    grey = np.asarray(Image.open(io.BytesIO(overlay(image, np.zeros((2, 2))))))
    assert (grey == 120).all()


def test_circle_puts_what_goes_together_side_by_side():
    rng = np.random.default_rng(1)
    mixed = rng.permutation(12)
    weights = np.full((12, 12), 0.01)
    for group in np.split(mixed, 3):
        weights[np.ix_(group, group)] = 1
    order = circle_order(weights)
    assert sorted(order.tolist()) == list(range(12))
    group_of = {int(c): n // 4 for n, c in enumerate(mixed)}
    groups = [group_of[int(c)] for c in order]
    assert sum(a != b for a, b in itertools.pairwise(groups)) <= 3
    assert (circle_order(weights) == order).all()
    weights[weights < 0.1] = 0  # three parts that nothing joins
    groups = [group_of[int(c)] for c in circle_order(weights)]
    assert sum(a != b for a, b in itertools.pairwise(groups)) == 2


def test_graph_of_many_classes_keeps_the_commonest_and_the_rarest():
    classes = [
        ClassScores(name=f"c{n}", group="head", training_positives=1000 - n, test_positives=1, test_known=9)
        for n in range(100)
    ]
    figure = cooccurrence_graph(np.full((100, 100), 0.5), classes)
    shown = {note["text"] for note in figure.layout["annotations"]}
    assert len(shown) == 40
    assert {"c0", "c99"} <= shown
    assert "the 40 commonest and rarest" in figure.caption
    assert "160 strongest" in figure.caption
    forest = class_forest(classes)
    assert len(forest.layout["yaxis"]["ticktext"]) == 60
    assert "Shown are the 60" in forest.caption


def test_figures_are_valid_plotly(report):
    import plotly.graph_objects as go

    own = own_parts(classifier_page(report))
    figures = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', own, re.DOTALL)
    assert len(figures) == 7
    for text in figures:
        go.Figure(yaml.safe_load(re.sub(r"var\(--[a-z-]+\)", "#123456", text)))
    assert "NaN" not in figure_json(class_forest(report.classes))


def test_verdicts_on_parts():
    assert judged(Estimate(-0.1, -0.2, -0.01)) == "helps"
    assert judged(Estimate(0.1, 0.01, 0.2)) == "hurts"
    assert judged(Estimate(-0.1, -0.2, 0.01)) == "no clear difference"
    assert judged(Estimate(-0.1)) == judged(None) == ""


def test_card_has_a_header_figures_limits_and_no_ids(report):
    card = model_card(report, folder="runs/classify/model")
    header, body = card.split("---\n")[1], card.split("---\n", 2)[2]
    read = yaml.safe_load(header)
    assert read["library_name"] == "raymedlt"
    assert {"type": "ap", "name": "AP, tail", "value": 0.37} in read["model-index"][0]["results"][0]["metrics"]
    for words in (
        "Not for diagnosis", 'load("runs/classify/model").predict(images)', "arXiv 2607.00975", "phantom",
        "0.370 (0.310 to 0.440)", config_hash(report.config), "| train | 4,000 | 3,100 | 200 |", "situs inversus",
        "1,000 resamples", "Undefined for want of", "device &lt;line&gt; \\| tip", "no clear difference",
        "torch | 2.14.1",
    ):  # fmt: skip
        assert words in body, words
    assert "phantom-0" not in card  # image ids
    assert "a.png" not in card
    assert not re.findall(r"\bnan\b", card, re.IGNORECASE)


def test_what_synthetic_images_are_worth(report):
    assert "synthetic images are worth" not in classifier_page(report)
    rows = [
        WorthRow(use="mix", tail=Estimate(0.41, 0.35, 0.47), macro=Estimate(0.53), seeds=[0.4, 0.42]),
        WorthRow(
            use="real-images-again", tail=Estimate(0.38, 0.32, 0.44), macro=Estimate(0.52), seeds=[0.371, 0.389],
            tail_difference=Estimate(-0.03, -0.05, -0.01),
        ),
    ]  # fmt: skip
    told = dataclasses.replace(report, worth=rows)
    page, card = classifier_page(told), model_card(told)
    assert "2 networks each" in page
    assert "0.371 0.389" in page
    assert "0.030 (-0.050 to -0.010)" in page.replace("\u2212", "-")
    assert "real-images-again" in card

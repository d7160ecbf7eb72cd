"""The synthesize job's page and cards, from figures written for this test."""

import base64
import dataclasses
import io
import math
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from raymedlt.intervals import Share
from raymedlt.synthesis import gate
from raymedlt.synthesis.agreement import NOT_SHOWN, STRAY, UNKNOWN, UNPLANNED, UNTUNED
from raymedlt.synthesis.card import data_card, generator_card
from raymedlt.synthesis.page import synthesis_page
from raymedlt.synthesis.page_making import GATE
from raymedlt.synthesis.plan_summary import ClassPlan, PlanSummary
from raymedlt.synthesis.quality import Quality
from raymedlt.synthesis.report import (
    ClassReport,
    Cost,
    Figures,
    GeneratorReport,
    HeldOutLoss,
    Likeness,
    Memorisation,
    Report,
)
from raymedlt.synthesis.report_words import COPY, PHANTOM, REASONS, REPEAT, kind_of
from raymedlt.synthesis.settings import GateSettings
from raymedlt.synthesis.sheets import accepted_sheets, nearest_pairs, refused_sheets
from raymedlt.synthesis.warnings import is_far, warnings_of

EVIL = "<img src=x onerror=\"document.title='owned'\">"
REAL = Figures(kid=0.002, kid_error=0.004, precision=0.9, recall=0.9, density=1.0, coverage=0.95, ms_ssim=0.4)
GOOD = Likeness(
    synthetic=Figures(kid=0.01, kid_error=0.003, precision=0.8, recall=0.7, density=0.9, coverage=0.8, ms_ssim=0.42),
    real=REAL,
    compared=90,
)


def class_of(name, **changes):
    usual = {
        "real": 30, "planned": 400, "drawn": 400, "accepted": 260, "refused": {"not shown": 100, "shows more": 55},
        "likeness": GOOD, "validation": 60, "threshold": 0.31, "gate_precision": 0.93, "gate_recall": 0.7,
    }  # fmt: skip
    return ClassReport(name=name, **{**usual, **changes})


@pytest.fixture(scope="module")
def report():
    """Two classes that went well, one with nothing accepted."""
    rng = np.random.default_rng(0)
    classes = [
        class_of(
            "hernia", real=9, accepted=0, refused={"not shown": 390, COPY: 10}, validation=3, threshold=None,
            gate_precision=None, gate_recall=None, likeness=Likeness(why="no image was accepted"),
        ),
        class_of("mass"),
        class_of("device <line> | tip", refused={"not shown": 120, COPY: 4, REPEAT: 20}),
    ]  # fmt: skip
    images = rng.integers(0, 256, (24, 64, 64)).astype(np.uint8)
    targets = [("mass", "hernia")[n % 2] for n in range(24)]
    entries = [{"step": 50.0 * n, "loss": 1 / n, "rate": 1e-3, "seconds": 4.0} for n in range(1, 31)]
    return Report(
        data="phantom images with label sets of padchest",
        phantom=True,
        plan=PlanSummary(
            rows=1200, smoothed=300, label_sets=120, new_sets=44, new_rows=210,
            classes=tuple(
                ClassPlan(name=each.name, real=each.real, rows=400, planned=450, label_sets=40, new_sets=14)
                for each in classes
            ),
            shift=0.04, shift_pair=("mass", "effusion"),
        ),
        classes=classes,
        generator=GeneratorReport(
            words="a small latent diffusion model from scratch", method="full", checkpoint_hash="ab" * 32, size=64,
            parameters=9_000_000, images=3600,
            held_out=HeldOutLoss(images=400, before=0.4, after=0.2),
        ),
        likeness=GOOD,
        memorisation=Memorisation(
            threshold=0.6, synthetic_N=rng.normal(1, 0.1, 1200), held_out_N=rng.normal(1, 0.1, 400),
            planted_N=rng.normal(0.3, 0.05, 300), caught=Share(299, 300), false_refusals=Share(8, 400),
        ),
        classifier="test_resnet, trained on 3,600 real images",
        gate=[("distance of copies", "0.6"), ("false copies", "0.02")],
        gate_precision=0.9,
        curves={"autoencoder": entries, "denoiser": entries},
        accepted_sheets=accepted_sheets(images[:12], ["mass"] * 12, {"mass": 260}),
        refused_sheets=refused_sheets(
            images, targets, [["not shown: mass", COPY][: 1 + n % 2] for n in range(24)], {"not shown": 610, COPY: 14}
        ),
        pairs=nearest_pairs(
            images[:10], images[10:20], ["mass"] * 10, [["mass", "effusion"]] * 10, rng.normal(1, 0.1, 10)
        ),
        cost=Cost(seconds={"draw": 600.0, "gate": 50.0}, startup_seconds=7.0, images_per_second=2.0,),
        rejected={"the image can't be decoded": 2},
        rejected_rows=[("a.png", "labels.csv", "the image can't be decoded")],
        config={"plan.count": 400, "seed": 3, "images.path": None},
        defaults={"plan.count": None, "seed": 0, "images.path": None},
        config_hash="0123456789abcdef",
        versions={"raymedlt": "0.1.0", "diffusers": "0.42.1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(report):
    return own_parts(
        synthesis_page(
            report,
            folder="runs/synthesize",
            command="python jobs/synthesize.py",
            paths={"images": "runs/synthesize/images", "plan": "runs/synthesize/plan"},
        )
    )


def own_parts(text):
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def section(text, anchor):
    return re.search(rf'<section id="{anchor}">(.*?)</section>', text, re.DOTALL)[1]


def bare(report):
    """A run of which next to nothing is known."""
    return Report(
        data="images of the folder x",
        phantom=False,
        plan=PlanSummary(
            rows=1, smoothed=0, label_sets=1, new_sets=0, new_rows=0, classes=(), shift=0.0, shift_pair=("", "")
        ),
        classes=[ClassReport(name="mass", real=9, planned=5, drawn=0, accepted=0)],
        generator=dataclasses.replace(report.generator, parameters=None, images=None, held_out=None, method=""),
    )


def test_first_screen_says_how_many_why_and_what_to_distrust(page):
    first = page.split('<section id="class-by-class">')[0]
    assert (
        "1,200 images were drawn for 3 classes: 520 were accepted (43\u00a0%) and 680 refused,"
        " mostly: not shown (610), shows more (55)." in first
    )
    for words in (
        "43.3\u00a0% (40.6 to 46.2) of the drawn", "0.01 ± 0.003", "real images get 0.002 ± 0.004",
        "all that were planned", "of 3 classes planned for",
        "99.7\u00a0% (98.1 to 99.9) of planted copies caught", "they show no patient", "drawn by code",
        "1 class without an accepted image: hernia",
        "14 of 1,200 drawn images were refused as copies",
        "1 class with too few real validation images for a threshold: hernia",
        "2 rows of the label table were rejected",
    ):  # fmt: skip
        assert words in first, words
    for words in (
        "not defined for",
        "whose thresholds rest",
        "acceptance under",
        "more alike",
        "publish",
        "no threshold reaches",
        "KID is more than",
    ):
        assert words not in first, words


def test_the_page_is_light_makes_no_request_and_shows_its_images(page, report):
    assert len(page.encode()) < 1_000_000
    sources = re.findall(r'<img src="([^"]*)"', page)
    refused = sum(len(sheet.images_NSS) for sheet in report.refused_sheets)
    assert len(sources) == page.count("<img") == 1 + refused + 2 * len(report.pairs)
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True))).load()
    assert not re.findall(r"https?://|@import|url\(|<link|\ssrc=\"(?!data:)", page)
    assert "12 of 260 accepted" in page


def test_untrusted_names_stay_text(report):
    evil = dataclasses.replace(
        report,
        classes=[dataclasses.replace(report.classes[0], name=EVIL, refused={EVIL: 400}), *report.classes[1:]],
        data=EVIL, classifier=EVIL, curves={EVIL: report.curves["denoiser"]},
        generator=dataclasses.replace(report.generator, words=EVIL),
        accepted_sheets=[dataclasses.replace(report.accepted_sheets[0], class_name=EVIL)],
        refused_sheets=[dataclasses.replace(report.refused_sheets[0], reason=EVIL)],
        pairs=[dataclasses.replace(report.pairs[0], class_name=EVIL, labels=[EVIL])],
        plan=dataclasses.replace(report.plan, shift=0.3, shift_pair=(EVIL, EVIL)),
    )  # fmt: skip
    own = own_parts(synthesis_page(evil, folder=EVIL, command=EVIL))
    assert "<img src=x" not in own
    assert own.count("<img") == 1 + len(report.refused_sheets[0].images_NSS) + 2
    for card in (data_card(evil), generator_card(evil)):
        assert "<img" not in card.split("---\n", 2)[2]


def test_every_row_of_the_class_table_has_its_figures(page):
    rows = re.findall(r"<tr>(.*?)</tr>", section(page, "class-by-class"), re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    table = {row[0]: row[1:] for row in cells if len(row) == 8}
    assert table["hernia"] == ["9", "400", "400", "0", "0", "0–1", "not shown (390)"]
    assert table["mass"] == ["30", "400", "400", "260", "65", "60–70", "not shown (100)"]


def test_undefined_figures_are_said_with_the_reason_and_never_nan(page, report):
    quality = section(page, "how-real-how-varied")
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", quality, re.DOTALL) if "hernia" in row)
    assert row.count("not defined") == 2
    assert quality.count("hernia") == 1  # in the table that says why, not among the figures
    assert "no image was accepted" in row
    assert re.search(r">0\.01 ± 0\.003</td>\s*<td[^>]*>0\.002 ± 0\.004</td>", quality)
    assert "0.42 (0.40)" in quality
    assert "every image for it is refused" in section(page, "the-gate")
    for text in (page, own_parts(synthesis_page(bare(report))), data_card(bare(report)), generator_card(bare(report))):
        visible = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
        assert not re.findall(r"\bnan\b|\bNone\b|\binf\b", visible)


def test_a_run_of_which_little_is_known_has_its_page(report):
    own = own_parts(synthesis_page(bare(report)))
    for words in (
        "0 of 5 planned images were drawn for 1 class.", "No image was refused", "No image was accepted", "No pairs",
        "Not measured.", "Nothing was trained in this run", "No row was rejected", "the images were there",
        "5 of 5 planned images were not drawn", "Memorisation was not measured", "none: on CPU only",
    ):  # fmt: skip
        assert words in own, words
    assert "drawn by code" not in own
    assert "<img" not in own


def test_use_plan_cost_and_configuration_are_told(page):
    assert "python jobs/classify.py --synthetic.path runs/synthesize" in page
    plan = section(page, "the-plan")
    for words in ("44 of them on no real training image", "4.0 points", "effusion with mass", "runs/synthesize/plan"):
        assert words in plan, words
    assert "650.0 s of work; 7.0 s of start-up" in page
    settings = section(page, "configuration")
    assert re.search(r"plan.count</dt><dd>400 <span class=\"remark\">changed</span>", settings)
    assert re.search(r"seed</dt><dd>3 <span class=\"remark\">changed; the default is 0</span>", settings)
    assert "−0.2 <" in section(page, "training")
    assert "Distance of copies" in section(page, "the-gate")
    assert '0.02 <span class="remark">of held-out real images' in section(page, "the-gate")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accepted": 60}, "acceptance under 20 %: mass"),
        ({"drawn": 60, "accepted": 40}, "fewer than 50 accepted images: mass"),
        ({"drawn": 390}, "10 of 1,200 planned images were not drawn"),
        ({"refused": {COPY: 140}}, "don't publish its weights"),
        ({"refused": {REPEAT: 140}}, "160 of 1,200 drawn images repeat an earlier one"),
        (
            {"likeness": dataclasses.replace(GOOD, synthetic=dataclasses.replace(GOOD.synthetic, kid=0.05))},
            "KID is more",
        ),
        ({"likeness": Likeness(why="2 held-out images show it")}, "not defined for mass"),
        ({"likeness": dataclasses.replace(GOOD, synthetic=dataclasses.replace(GOOD.synthetic, ms_ssim=0.6))}, "alike"),
        ({"likeness": dataclasses.replace(GOOD, synthetic=dataclasses.replace(GOOD.synthetic, recall=0.3))}, "alike"),
        ({"likeness": dataclasses.replace(GOOD, compared=20)}, "fewer than 50 images a set for mass"),
        ({"validation": 12}, "fewer than 30 real validation images: mass"),
        ({"gate_precision": 0.7}, "no threshold reaches the wanted precision of 0.9: mass"),
    ],
)
def test_what_a_class_warns_of(report, changes, words):
    classes = [report.classes[0], dataclasses.replace(report.classes[1], **changes), report.classes[2]]
    assert words not in " ".join(warnings_of(report))
    assert words in " ".join(warnings_of(dataclasses.replace(report, classes=classes)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memorisation": None}, "Memorisation was not measured"),
        ({"caught": Share(280, 300)}, "caught only 280 of 300 planted copies"),
        ({"caught": Share(0, 0)}, "not tried on planted copies"),
        ({"held_out": HeldOutLoss(images=9, before=0.2, after=0.3)}, "did not lower"),
        ({"shift": 0.3}, "how often effusion goes with mass by 30 points"),
    ],
)
def test_what_the_run_warns_of(report, changes, words):
    changed = {
        "memorisation": lambda value: {"memorisation": value},
        "caught": lambda value: {"memorisation": dataclasses.replace(report.memorisation, caught=value)},
        "held_out": lambda value: {"generator": dataclasses.replace(report.generator, held_out=value)},
        "shift": lambda value: {"plan": dataclasses.replace(report.plan, shift=value)},
    }
    ((name, value),) = changes.items()
    assert words not in " ".join(warnings_of(report))
    assert words in " ".join(warnings_of(dataclasses.replace(report, **changed[name](value))))


def test_real_data_has_no_phantom_warning(report):
    assert PHANTOM in warnings_of(report)
    assert PHANTOM not in warnings_of(dataclasses.replace(report, phantom=False))


def test_far_is_measured_by_the_floor_and_its_noise():
    def far(kid, floor, error=None):
        return is_far(Likeness(synthetic=Figures(kid=kid), real=Figures(kid=floor, kid_error=error)))

    assert far(0.6, 0.1)
    assert not far(0.4, 0.1)
    assert not far(0.6, 0.1, error=0.1)  # the floor itself is as uncertain as that
    assert far(0.6, -0.1)
    assert not far(None, 0.1)


def test_figures_from_quality_are_none_where_they_do_not_exist():
    nan = math.nan
    quality = Quality(kid=0.1, kid_error=0.02, precision=nan, recall=nan, density=1.1, coverage=0.5, ms_ssim=nan)
    assert Figures.of(quality) == Figures(kid=0.1, kid_error=0.02, density=1.1, coverage=0.5)


def test_shares_by_hand():
    assert str(Share(0, 0)) == "not defined"
    assert str(Share(1, 2)) == "50\u00a0% (9 to 91)"


def test_the_gates_own_words_are_explained():
    assert (COPY, REPEAT) == (gate.COPY, gate.REPEAT)
    assert {gate.FAR, gate.UNREADABLE, gate.COPY, gate.REPEAT} <= set(REASONS)
    kinds = [NOT_SHOWN, STRAY, UNKNOWN, UNPLANNED, UNTUNED]
    assert {kind_of(f"{kind}: mass") for kind in kinds} <= set(REASONS)
    assert kind_of(f"{STRAY}: pleural effusion: left") == STRAY
    assert kind_of(f"{UNTUNED}: mass") == "too few validation images"
    assert set(GATE) == {name.replace("_", " ") for name in dataclasses.asdict(GateSettings())}


def test_figures_are_valid_plotly(page):
    import plotly.graph_objects as go

    figures = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert len(figures) == 7
    for text in figures:
        go.Figure(yaml.safe_load(re.sub(r"var\(--[a-z-]+\)", "#123456", text)))
    held_out, synthetic, planted = yaml.safe_load(
        next(re.sub(r"var\(--[a-z-]+\)", "x", text) for text in figures if "planted copies" in text)
    )["data"]
    for trace in (held_out, synthetic, planted):
        assert sum(trace["y"]) == pytest.approx(1)
    assert max(x for x, y in zip(planted["x"], planted["y"], strict=True) if y) < 0.6


def test_data_card_has_a_header_figures_limits_and_no_ids(report):
    card = data_card(report, folder="runs/synthesize", license_words="cc-by-4.0")
    header, body = card.split("---\n")[1], card.split("---\n", 2)[2]
    read = yaml.safe_load(header)
    assert [each["config_name"] for each in read["configs"]] == [
        "images",
        "plan",
    ]  # rejected rows name files of patients
    assert read["configs"][0] == {"config_name": "images", "data_files": "images/*.parquet", "default": True}
    assert read["license"] == "cc-by-4.0"
    assert read["size_categories"] == ["1K<n<10K"]
    assert "synthetic" in read["tags"]
    for words in (
        "they show no patient", "520 of them were accepted", "--synthetic.path runs/synthesize", "| hernia | 9 | 400 |",
        "device &lt;line&gt; \\| tip", "| not shown | 610 |", "0.01 ± 0.003 (0.002 ± 0.004)", "no image was accepted",
        "299 of 300", "no proof of privacy", "0123456789abcdef", "drawn by code", "diffusers | 0.42.1",
    ):  # fmt: skip
        assert words in body, words
    assert "a.png" not in card


def test_generator_card_tells_training_privacy_and_use(report):
    card = generator_card(report, folder="runs/synthesize/generator")
    header, body = card.split("---\n")[1], card.split("---\n", 2)[2]
    assert yaml.safe_load(header)["library_name"] == "diffusers"
    for words in (
        'load_generator("runs/synthesize/generator")', "ab" * 32, "| denoiser | 1,500 | 1 | 0.03333 |",
        "0.4 before and 0.2 after", "Privacy", "safetensors",
    ):  # fmt: skip
        assert words in body, words
    own = dataclasses.replace(report.generator, method="lora", base="org/base")
    card = generator_card(
        dataclasses.replace(report, generator=own), folder="runs/x/adapters", adapters=True, base_model="org/base"
    )
    read = yaml.safe_load(card.split("---\n")[1])
    assert read["base_model"] == "org/base"
    assert "lora" in read["tags"]
    assert 'load_generator("org/base", adapters="runs/x/adapters")' in card

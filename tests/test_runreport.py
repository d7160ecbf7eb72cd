"""The run report: one file, no network, every text as text, and figures that a browser really draws."""

import base64
import html
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from raymedlt.runreport import Page, render
from raymedlt.runreport.figures import axis, bars, columns, flow, heat_map, label, points, upright
from raymedlt.runreport.forest import dots, forest, ticks
from raymedlt.runreport.page import (
    ROWS_SHOWN,
    Card,
    Code,
    Column,
    Example,
    Examples,
    Figure,
    Gallery,
    KeyFigure,
    KeyValues,
    Marked,
    Paragraph,
    Picture,
    Piece,
    Reading,
    Readings,
    Section,
    Step,
    Steps,
    Switch,
    Table,
    figure_json,
    plain,
)

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp; </script>"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def all_figures(text="a"):
    return [
        forest(
            [ticks([0.1], name="chance"), dots([0], [0.5], [(0.4, 0.7)], hover=[label(text)], name=label(text))],
            [text], xaxis=axis("x"), caption="c", lines=[upright(0.3)],
        ),
        columns(["0", "1"], [3, 4], caption="c", x_title="x", y_title="y"),
        bars([text, "b"], [3, 4.5], caption="c", unit="s", digits=1),
        flow([("in", text, 3), ("in", "out", 4), ("out", "end", 4), ("in", "never", 0)], caption="c"),
        heat_map([[1.0, None]], [text], ["x", "y"], [[label(text), ""]], caption="c", ticks={0.0: "chance"}, limit=2.0),
        points(
            [{"name": text, "x": [1], "y": [2], "hover": [label(text)], "colour": "var(--normal)", "size": [5],
              "opacity": 0.5}],
            caption="c",
        ),
    ]  # fmt: skip


def page(text="a", **changes):
    return Page(
        title=text,
        verdict=text,
        about=text,
        key_figures=[KeyFigure(label=text, value=text, hint=text)],
        warnings=[text],
        sections=[
            Section(
                title="First " + text,
                blocks=[
                    Paragraph(text),
                    KeyValues([(text, text), (text, text, text)], title=text),
                    Table(
                        columns=[
                            Column(name=text, hint=text),
                            Column(name="n", numeric=True),
                            Column(name="t", tag=True),
                        ],
                        rows=[(text, 1, text)] * 9,
                        caption=text,
                        where=text,
                    ),
                    Examples(
                        [
                            Example(
                                title=text,
                                original=text,
                                marked=[
                                    Marked(text=text, tag=text, evidence=[(text, text)]),
                                    Marked(text=text, tag=text, refused=True),
                                ],
                            )
                        ]
                    ),
                    Code(text),
                ],
            ),
            Section(title="Figures", blocks=[Switch([(text, all_figures(text)[:2])]), *all_figures(text)[2:]]),
        ],
        config_hash="abc",
        resume=text,
        **changes,
    )  # fmt: skip


def own_parts(text):
    """The page without plotly's script, which comes from its package as it is."""
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def test_untrusted_text_appears_as_text_everywhere():
    own = own_parts(render(page(EVIL)))
    assert "owned" in own
    for place in re.finditer("owned", own):
        before = own[: place.start()]
        tail = before[before.rindex("document.title") - 60 :]
        assert re.search(r"&lt;script&gt;|onerror=&#34;|onerror=\\\"|\\u003cscript|lt;script", tail), tail
    assert own.count("<script") == own.count("</script>") == 2 + len(all_figures())  # plotly, ours, one per figure
    assert "<img" not in own
    assert html.escape(EVIL, quote=False).replace('"', "&#34;").replace("'", "&#39;") in own


def test_hover_labels_and_json_carry_the_text_escaped_for_plotly():
    assert label("a < b & <b>c</b>") == "a &lt; b &amp; &lt;b&gt;c&lt;/b&gt;"
    assert label("one two three", width=7) == "one two<br>three"
    assert label("abcdef", longest=4) == "abc…"
    for figure in all_figures(EVIL):
        text = figure_json(figure)
        assert not set("<>&") & set(text)
        assert "<script" not in json.dumps(json.loads(text)).replace("<b>", "")


def test_page_makes_no_request():
    text = render(page())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules  # so default-src holds
    own = own_parts(text)
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(|<link|\ssrc=", own)


def test_a_page_without_figures_does_not_carry_plotly():
    assert len(render(Page(title="t", verdict="v", sections=[Section(title="s", blocks=[Paragraph("p")])]))) < 50_000


def test_pictures_lie_inside_the_page_and_their_words_are_text():
    png = bytes(range(256))
    picture = Picture(png=png, alt=EVIL, note=EVIL)
    gallery = Gallery(cards=[Card(title=EVIL, pictures=[picture], tag=EVIL, lines=[(EVIL, EVIL)])], caption=EVIL)
    text = render(Page(title="t", verdict="v", sections=[Section(title="s", blocks=[gallery])]))
    (source,) = re.findall(r'<img src="([^"]*)"', text)
    assert base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True) == png
    assert text.count("<img") == 1
    assert text.count("&lt;img src=x") == 7  # alt, note, title, tag, a line's two words, caption


def test_readings_put_texts_beside_an_image_with_their_marks():
    piece = Piece(text=EVIL, marks=["right", "same"], note=EVIL)
    reading = Reading(
        title=EVIL, picture=Picture(png=b"x", alt=EVIL, note=EVIL), texts=[(EVIL, [piece, Piece(text="plain")])],
        tags=[(EVIL, "missed")],
    )  # fmt: skip
    block = Readings(readings=[reading], legend=[Piece(text=EVIL)])
    text = render(Page(title="t", verdict="v", sections=[Section(title="s", blocks=[block])]))
    assert text.count("<img") == 1
    assert text.count("&lt;img src=x") == 8  # title, alt, note, a text's title, piece and its note, tag, legend
    assert '<span class="piece piece-right piece-same" tabindex="0">' in text
    assert '<span class="piece">plain</span>' in text
    assert '<span class="tag tag-missed">' in text
    style = text[: text.index("</style>")]
    marks = ("same", "right", "partly", "wrong", "missed", "unsaid", "head")
    assert all(f".piece-{mark} {{" in style for mark in marks)


def test_a_reading_without_an_image_has_no_room_for_one():
    block = Readings(readings=[Reading(title="t", texts=[("a", [Piece(text="plain")])])])
    text = render(Page(title="t", verdict="v", sections=[Section(title="s", blocks=[block])]))
    assert '<article class="reading reading-bare">' in text
    assert '<div class="reading-picture">' not in text


def test_steps_lead_to_the_pages_beside_theirs():
    steps = [
        Step(title=EVIL, href="enrich/report.html", tag=EVIL, text=EVIL, lines=[(EVIL, EVIL)], note=EVIL),
        Step(title="Later"),
    ]
    text = render(Page(title="t", verdict="v", sections=[Section(title="s", blocks=[Steps(steps)])]))
    assert re.findall(r'<li class="step">\s*<h3><a href="([^"]*)"', text) == ["enrich/report.html"]
    assert text.count("&lt;img src=x") == 6  # title, tag, text, a line's two words, note
    assert "<img" not in text


@pytest.mark.parametrize("href", ["javascript:alert(1)", "//else.where/x", "../x", "/etc/passwd", "a b", "x/", EVIL])
def test_a_step_leads_nowhere_else(href):
    with pytest.raises(ValueError, match="below the page's own folder"):
        Step(title="t", href=href)


def test_long_tables_are_cut_and_say_so():
    rows = [(f"row{i}", i) for i in range(ROWS_SHOWN + 700)]
    table = Table(columns=[Column(name="a"), Column(name="b", numeric=True)], rows=rows, where="runs/x/clusters")
    text = render(Page(title="t", verdict="v", sections=[Section(title="s", blocks=[table])]))
    assert f"row{ROWS_SHOWN - 1}<" in text
    assert f"row{ROWS_SHOWN}<" not in text
    assert "The first 500 of 1,200 rows; all of them are in <code>runs/x/clusters</code>" in text


def test_numbers_in_cells():
    assert Column(name="x", numeric=True, digits=2).show(1234.567) == "1,234.57"
    assert Column(name="x", numeric=True).show(None) == ""
    assert Column(name="x", numeric=True).show(float("nan")) == ""


def test_plain_values():
    value = {"a": np.array([1.5, np.nan]), "b": [np.int32(3), True, None], 4: np.float32(0.5), "inf": float("inf")}
    assert plain(value) == {"a": [1.5, None], "b": [3, True, None], "4": 0.5, "inf": None}


def test_figures_are_valid_plotly():
    import plotly.graph_objects as go

    for figure in all_figures():
        text = re.sub(r"var\(--[a-z-]+\)", "#123456", figure_json(figure))
        go.Figure(json.loads(text))


def test_every_colour_of_a_figure_is_in_the_palette_of_both_schemes():
    from pathlib import Path

    import raymedlt.runreport

    style = (Path(raymedlt.runreport.__file__).parent / "style.css").read_text()
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    used = {name for figure in all_figures() for name in re.findall(r"var\((--[a-z-]+)\)", figure_json(figure))}
    assert {"--normal", "--accent-veil", "--middle"} <= used
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark[: dark.index("* {")]


def test_nodes_of_a_flow_do_not_overlap():
    links = [
        ("read", "valid", 900),
        ("read", "rejected", 100),
        ("valid", "a", 500),
        ("valid", "b", 1),
        ("valid", "c", 399),
    ]
    figure = flow([*links, ("rejected", "why", 100)], caption="c", height=400)
    node = figure.data[0]["node"]
    rows = {"read": 1000, "valid": 900, "rejected": 100, "a": 500, "b": 1, "c": 399, "why": 100}
    usable = 400 - 24
    scale = (usable - 3 * 18) / 1000  # the last column is the fullest: four nodes, three gaps
    places = sorted(zip(node["x"], node["y"], rows.values(), strict=True))
    for (x, y, size), (next_x, next_y, next_size) in itertools.pairwise(places):
        if x == next_x:
            assert next_y * usable - scale * next_size / 2 >= y * usable + scale * size / 2 + 17
    assert flow([], caption="c").data[0]["node"]["label"] == []


def test_ends_of_a_flow_stand_in_its_last_column():
    """Or the label of one that ends early runs into those of the last column, which stand to the left of their node."""
    node = flow([("read", "lost", 3), ("read", "valid", 9), ("valid", "used", 9)], caption="c").data[0]["node"]
    assert node["x"] == [0.001, 0.999, 0.5, 0.999]


def test_two_sections_of_one_title_are_refused():
    section = Section(title="Same", blocks=[])
    with pytest.raises(ValueError, match="same title"):
        render(Page(title="t", verdict="v", sections=[section, section]))


@pytest.mark.skipif(BROWSER is None, reason="needs a browser")
def test_a_browser_draws_the_figures_and_offers_no_upload(tmp_path):
    (tmp_path / "page.html").write_text(render(page(EVIL)), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,6000", "--virtual-time-budget=8000",
            "--enable-logging=stderr", "--dump-dom", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    drawn = done.stdout
    assert len(re.findall(r'class="plot js-plotly-plot"', drawn)) == len(all_figures())
    assert not re.search(r"<title>owned", drawn)
    buttons = set(re.findall(r'class="modebar-btn[^"]*"[^>]*data-(?:attr|title)="([^"]*)"', drawn))
    assert not [button for button in buttons if re.search("share|cloud|send|chart studio", button, re.IGNORECASE)]
    assert "modebar-btn" in drawn  # the map has buttons, so the line above looked at something


def test_figure_without_a_least_width_is_no_scrolling_region():
    def shown(figure):
        return own_parts(render(Page(title="t", verdict="v", sections=[Section(title="s", blocks=[figure])])))

    assert "scrolls sideways" not in shown(Figure(data=[], layout={}, caption="c"))
    assert "scrolls sideways" in shown(Figure(data=[], layout={}, caption="c", least_width=600))

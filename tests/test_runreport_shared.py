"""What the pages and cards of several jobs share: run, forest plots, pictures, Markdown, wordings."""

import io

import numpy as np
import pytest
import yaml
from PIL import Image

from raymedlt.runreport import markdown
from raymedlt.runreport.about import configuration_blocks, rejected_blocks, time_bars
from raymedlt.runreport.figures import axis, upright
from raymedlt.runreport.forest import dots, forest, ticks
from raymedlt.runreport.page import figure_json
from raymedlt.runreport.pictures import png, shrunk
from raymedlt.runreport.words import capital, class_count, listed

EVIL = '<img src=x> [a](b) | `x` "y" \\ \n# c'


def test_configuration_says_what_was_changed():
    (block,) = configuration_blocks(
        {"a": None, "b": "", "c": True, "d": [1, 2], "e": 3, "f": 0.5},
        {"a": None, "b": "x", "c": False, "d": [1], "e": None, "f": 0.5},
    )
    assert block.rows == [
        ("a", "default", ""),
        ("b", "none", "changed; the default is x"),
        ("c", "yes", "changed; the default is no"),
        ("d", "1, 2", "changed; the default is 1"),
        ("e", "3", "changed"),
        ("f", "0.5", ""),
    ]


def test_rejected_rows_are_counted_the_commonest_reason_first():
    rows = [("r1", "table.csv", "no label")]
    reasons, table = rejected_blocks({"blank": 2, "no label": 1200, "bad": 2}, rows, {"rejected": "run/rejected"})
    assert reasons.rows == [("no label", "1,200"), ("bad", "2"), ("blank", "2")]
    assert (table.rows, table.total, table.where) == (rows, 1204, "run/rejected")
    assert rejected_blocks({}, [], {})[0].text == "No row was rejected."


def test_time_lists_start_up_apart():
    figure = time_bars({"read": 2.5, "draw": 1.0}, 4.0)
    assert figure.data[0]["x"] == [2.5, 1.0, 4.0]
    assert figure.caption.startswith("3.5 s of work; 4.0 s of start-up")
    assert "earlier call" not in figure.caption
    assert "earlier call" in time_bars({"read": 0.0, "draw": 1.0}, 4.0).caption


def test_forest_draws_intervals_where_there_are_some():
    import plotly.graph_objects as go

    trace = dots([0, 1, 2], [0.5, 0.2, 0.1], [(0.4, 0.7), (float("nan"),) * 2, (0.2, 0.3)], hover=list("abc"))
    assert trace["error_x"]["arrayminus"] == pytest.approx([0.1, 0, 0])  # an end on the wrong side is none
    assert trace["error_x"]["array"] == pytest.approx([0.2, 0, 0.2])
    grey = ticks([0.1, 0.1, float("nan")], name="chance")
    names = ["first", "<b>second</b>", "a name that is far longer than there is room"]
    figure = forest([grey, trace], names, xaxis=axis("x", range=[0, 1]), caption="c", lines=[upright(0.3)], longest=20)
    go.Figure(data=figure.data, layout=_plain_colours(figure.layout))
    assert figure.layout["yaxis"]["ticktext"][1] == "&lt;b&gt;second&lt;/b&gt;"
    assert len(figure.layout["yaxis"]["ticktext"][2]) <= 20
    low, high = figure.layout["yaxis"]["range"]
    assert high < 0  # the first row on top
    assert low > 2
    assert figure.layout["showlegend"]
    assert not forest([trace], names, xaxis=axis("x"), caption="c").layout["showlegend"]
    assert "NaN" not in figure_json(figure)


def _plain_colours(value):
    if isinstance(value, dict):
        return {key: _plain_colours(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_colours(inner) for inner in value]
    return "#123456" if isinstance(value, str) and value.startswith("var(") else value


def test_large_images_are_shrunk_and_small_ones_are_not():
    assert shrunk(np.zeros((512, 384), np.uint8), 160).shape == (160, 120)
    small = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    assert shrunk(small, 64) is small
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    assert np.abs(shrunk(ramp, 64)[10, ::8].astype(int) - ramp[10, 2::32]).max() <= 2


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 3)])
def test_png_is_the_image_without_metadata(shape):
    image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    found = Image.open(io.BytesIO(png(image)))
    assert (np.asarray(found) == image).all()
    assert found.info == {}


def test_words_from_outside_stay_words_in_a_card():
    lines = markdown.table(["a", "b"], [(EVIL, "c")]).splitlines()
    assert len(lines) == 3
    assert lines[2] == '| &lt;img src=x&gt; \\[a\\](b) \\| `x` "y" \\ # c | c |'
    assert markdown.bullets([EVIL, "b"]).count("\n") == 1
    assert markdown.in_code(EVIL) == "<img src=x> [a](b) | x y / # c"


def test_header_is_yaml_with_the_license_first():
    text = markdown.header({"configs": markdown.data_files(["images", "plan"]), "pretty_name": "é: x"}, "mit")
    assert text.startswith("---\nlicense: mit\n")
    assert text.endswith("---\n")
    assert yaml.safe_load(text.strip("-\n")) == {
        "license": "mit",
        "configs": [
            {"config_name": "images", "data_files": "images/*.parquet", "default": True},
            {"config_name": "plan", "data_files": "plan/*.parquet"},
        ],
        "pretty_name": "é: x",
    }
    assert "license" not in markdown.header({"a": 1})


def test_wordings():
    assert (class_count(1), class_count(2000)) == ("1 class", "2,000 classes")
    assert listed(list("abc"), most=2) == "a, b and 1 more"
    assert capital("a small model") == "A small model"
    assert capital("") == ""

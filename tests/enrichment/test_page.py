"""The enrich job's page, made from the real steps on reports written for this test."""

import collections
import dataclasses
import itertools
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raymedlt.clustering import hdbscan_fit
from raymedlt.clustering.condensed import branches
from raymedlt.config import ClusteringConfig, EnrichConfig, config_hash
from raymedlt.enrichment.clustermap import MOST_POINTS, cluster_map, place_medoids, spread
from raymedlt.enrichment.figures import grouped_additions, in_words, most, spread_over
from raymedlt.enrichment.memory import complete, fit
from raymedlt.enrichment.page import enrichment_page
from raymedlt.enrichment.sections import of_section
from raymedlt.enrichment.tables import clusters_table, edges_table, sentences_table
from raymedlt.enrichment.treefigure import condensed_tree_figure, icicle, visible_splits
from raymedlt.enrichment.writing import write_reports
from raymedlt.runreport import render
from raymedlt.runreport.figures import label
from raymedlt.runreport.page import Examples, Figure, KeyValues, figure_json, plain
from raymedlt.schema import CLUSTERS, EDGES, REJECTED, SENTENCES

THEMES = {
    "pleura": ["There is no pleural effusion", "No pleural effusion is seen", "No pleural effusion", "No effusion"],
    "heart": ["The heart is normal in size", "Heart size is normal", "Normal heart size", "The heart size is normal"],
    "air": ["There is no pneumothorax", "No pneumothorax is seen", "No pneumothorax", "No evidence of pneumothorax"],
    "lungs": ["The lungs are clear", "Lungs are clear", "Clear lungs", "Both lungs are clear"],
    "nodule": [
        "There is a nodule <b>in</b> the right lung",
        "Right lung nodule",
        "A right lung nodule",
        "A lung nodule",
    ],
}


def embed(sentences):
    """A theme's sentences lie close together on the unit sphere: a stand-in for an encoder, not for a step of ours."""
    from raymedlt.reports.sentences import sentence_key

    theme = {sentence_key(text): n for n, texts in enumerate(THEMES.values()) for text in texts}
    vectors = np.zeros((len(sentences), 16), np.float32)
    for row, key in enumerate(sentences):
        rng = np.random.default_rng(sum(map(ord, key)))
        vectors[row, theme.get(key, 8)] = 1
        vectors[row] += 0.02 * rng.normal(size=16).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def run():
    """Arguments of enrichment_page, from a small corpus."""
    rng = np.random.default_rng(0)
    findings = []
    for _ in range(120):
        themes = [name for name in THEMES if rng.random() < 0.7]
        findings.append(" ".join(THEMES[name][rng.integers(4)] + "." for name in themes))
    reports = complete(
        pa.table(
            {
                "report_id": [f"r{n:03}" for n in range(120)],
                "findings": findings,
                "impression": ["Follow up as needed."] * 120,
            }
        )
    )
    config = EnrichConfig(clustering=ClusteringConfig(min_cluster_size=3, min_samples=2), policy="safe")
    knowledge, fits = fit(reports, config, embed)
    written = write_reports(knowledge, reports, config)
    rejected = pa.table({"row_id": ["x1"], "source": ["f.csv"], "reason": ["no text <i>"]}, schema=REJECTED)
    return {
        "config": config,
        "counts": {"rows_read": 121, "rejected": {"no text <i>": 1}, "with_findings": 118, "with_impression": 120},
        "summary": written.summary,
        "enriched": written.enriched,
        "additions": written.additions,
        "refusals": written.refusals,
        "sentences": sentences_table(fits),
        "clusters": clusters_table(fits),
        "edges": edges_table(knowledge.arcs),
        "rejected": rejected,
        "vectors": {each.section.name: each.vectors for each in fits},
        "certificates": {each.section.name: each.clustering.certificate for each in fits},
        "clusterings": {each.section.name: each.clustering for each in fits},
        "timings": {"read": 1.0, "embed": 2.5},
        "startup_seconds": 4.0,
        "precision": "float32",
        "warnings": ["a warning"],
        "paths": {"clusters": "runs/enrich/clusters"},
        "command": "python jobs/enrich.py",
    }


def blocks_of(page, title):
    return next(section.blocks for section in page.sections if section.title == title)


def test_headline_and_counts(run):
    page = enrichment_page(**run)
    summary = run["summary"]
    assert summary["enriched"] > 20  # or the fixture shows nothing
    assert page.verdict.startswith(f"{summary['enriched']} of {summary['with_findings']} training reports")
    assert page.config_hash == config_hash(run["config"])
    figures = {figure.label: figure.value for figure in page.key_figures}
    assert figures["Sentences added"] == f"{run['additions'].num_rows:,}"
    assert figures["Rows rejected"] == "1"
    assert figures["Guard refusals"] == f"{run['refusals'].num_rows:,}"


def test_rows_of_the_flow_add_up(run):
    figure = next(b for b in blocks_of(enrichment_page(**run), "From input to output") if isinstance(b, Figure))
    link, labels = figure.data[0]["link"], [name.split(" <b>")[0] for name in figure.data[0]["node"]["label"]]
    into, out_of = collections.Counter(), collections.Counter()
    for source, target, value in zip(link["source"], link["target"], link["value"], strict=True):
        out_of[labels[source]] += value
        into[labels[target]] += value
    assert out_of["rows read"] == 121
    for name in ("valid reports", "enriched", "unchanged", "rejected"):
        assert into[name] == out_of[name] > 0, name


def test_examples_show_what_was_added_with_its_evidence(run):
    (examples,) = [b for b in blocks_of(enrichment_page(**run), "Before and after") if isinstance(b, Examples)]
    enriched = {row["report_id"]: row for row in run["enriched"].to_pylist()}
    numbers = set()
    for example in examples.examples:
        row = enriched[example.title.split()[1]]
        numbers.add(row["added"])
        assert len(example.marked) == row["added"]
        together = " ".join([example.original, *(piece.text for piece in example.marked)])
        assert together == row["enriched_findings"]
        names = [name for name, _ in example.marked[0].evidence]
        assert names == ["Sign", "Support", "Confidence", "Lift", "Cluster", "Vouched for by"]
    assert numbers == set(pc.unique(run["enriched"]["added"]).to_pylist()) - {0}
    assert 3 <= len(examples.examples) <= 12


def test_page_renders_with_report_text_escaped(run):
    text = render(enrichment_page(**run))
    assert "nodule &lt;b&gt;in&lt;/b&gt;" in text
    assert "nodule <b>in</b>" not in text
    assert "nodule \\u0026lt;b\\u0026gt;in" in text  # the map's hover text: escaped for plotly, then for the page
    assert "no text <i>" not in text
    assert "python jobs/enrich.py" in text


def test_same_input_same_page(run):
    assert render(enrichment_page(**run)) == render(enrichment_page(**run))


def test_a_sample_of_the_rows_is_called_a_sample(run):
    fewer = {**run, "additions": run["additions"].slice(0, 5), "refusals": run["refusals"].slice(0, 3)}
    text = render(enrichment_page(**fewer))
    assert f"of the first 5 of {run['additions'].num_rows:,} additions" in text
    assert f"of the first 3 of {run['refusals'].num_rows:,}" in text


def evidence_section(run):
    """The words of the section, and its figure (None where there is none)."""
    blocks = blocks_of(enrichment_page(**run), "Coverage against contradiction")
    figure = next((block for block in blocks if isinstance(block, Figure)), None)
    return blocks[0].text, figure


def labelled(run, labels_of):
    """The run, its reports with the labels that `labels_of` gives for a report id."""
    labels = pa.array([labels_of(each) for each in run["enriched"]["report_id"].to_pylist()], pa.list_(pa.string()))
    place = run["enriched"].column_names.index("labels")
    return {**run, "enriched": run["enriched"].set_column(place, "labels", labels)}


def test_additions_are_checked_against_the_labels(run):
    first = run["additions"]["report_id"][0].as_py()
    deny = {row["report_id"] for row in run["additions"].to_pylist()}
    codes = ["Pleural Effusion", "Cardiomegaly", "Pneumothorax", "Opacity/lung", "Nodule/lung"]
    none, figure = evidence_section(labelled(run, lambda _: ["normal"]))
    additions = run["additions"].num_rows
    assert f"OpenI's MeSH codes, which enrichment never sees: 0 of {additions:,} checkable" in none
    assert figure.data[-1]["text"] == ["this run"]
    assert figure.data[-1]["x"] == [pytest.approx(100 * len(deny) / run["summary"]["with_findings"])]
    assert figure.data[-1]["y"] == [0]
    one, figure = evidence_section(labelled(run, lambda report: codes if report == first else ["normal"]))
    wrong = run["additions"]["report_id"].to_pylist().count(first)
    assert f": {wrong} of {additions:,} checkable" in one
    assert figure.data[-1]["y"] == [pytest.approx(100 * wrong / additions)]
    names = [trace["name"] for trace in figure.data if trace.get("mode") == "lines"]
    assert names == ["95 % interval", "lift at least", "confidence at least", "support at least", "opposites at most"]


def test_without_labels_the_curve_is_called_an_estimate(run):
    for given in ([], ["colour of the film"], ["No Indexing"]):
        text, figure = evidence_section(labelled(run, lambda _, given=given: given))
        assert "no labels to check additions by" in text
        assert "estimate" in text
        assert figure.caption.startswith("Estimate, for want of labels.")
        assert not any(trace.get("fill") for trace in figure.data)  # no interval


def test_curve_of_a_large_run_counts_only_reports_whose_additions_are_all_there(run):
    half = run["additions"].slice(0, run["additions"].num_rows // 2)
    ids = run["enriched"]["report_id"].to_pylist()
    last = half["report_id"][-1].as_py()
    could = [
        report
        for report, why in zip(ids, run["enriched"]["why_unchanged"].to_pylist(), strict=True)
        if report < last and why != "no findings"
    ]
    _, figure = evidence_section({**labelled(run, lambda _: ["normal"]), "additions": half})
    covered = len({report for report in half["report_id"].to_pylist() if report < last})
    assert figure.data[-1]["x"] == [pytest.approx(100 * covered / len(could))]
    assert f"(the first {len(could)} of {run['summary']['with_findings']} reports)" in figure.caption


def test_a_sample_without_a_whole_report_has_no_curve(run):
    """The page sees the first additions only; those of one report may not all be among them."""
    summary = {**run["summary"], "added": {"5": 1}}
    text, figure = evidence_section({**run, "additions": run["additions"].slice(0, 1), "summary": summary})
    assert "no whole report with an addition" in text
    assert figure is None


def test_a_control_has_no_evidence_to_draw(run):
    text, figure = evidence_section({**run, "config": dataclasses.replace(run["config"], control="random")})
    assert figure is None
    assert "control 'random'" in text


def test_a_run_that_found_nothing_still_has_a_page(run):
    nothing = {
        **run,
        "summary": {"reports": 2, "with_findings": 0, "enriched": 0, "offered": 0, "cut_off": 0,
                    "unchanged": {"no findings": 2}, "added": {}, "refused": {}},
        "enriched": run["enriched"].slice(0, 0), "additions": run["additions"].slice(0, 0),
        "refusals": run["refusals"].slice(0, 0), "sentences": SENTENCES.empty_table(),
        "clusters": CLUSTERS.empty_table(), "edges": EDGES.empty_table(), "rejected": REJECTED.empty_table(),
        "counts": {"rows_read": 2, "rejected": {}, "with_findings": 0, "with_impression": 2},
        "vectors": {"findings": np.zeros((0, 16), np.float32)},
        "certificates": {"findings": hdbscan_fit(np.zeros((0, 16), np.float32)).certificate}, "warnings": [],
        "clusterings": {"findings": hdbscan_fit(np.zeros((0, 16), np.float32))},
    }  # fmt: skip
    text = render(enrichment_page(**nothing))
    assert "0 of 0 training reports with findings got an addition (-)." in text
    assert "There is no cluster to draw." in text


def test_map_places_every_clustered_sentence_near_its_own_medoid(run):
    sentences = run["sentences"].filter(pc.equal(run["sentences"]["section"], "findings"))
    clusters = run["clusters"].filter(pc.equal(run["clusters"]["section"], "findings"))
    figure = cluster_map("findings", sentences, clusters, run["vectors"]["findings"])
    shown = sum(len(trace["x"]) for trace in figure.data)
    assert shown == pc.sum(pc.greater_equal(sentences["cluster_id"], 0)).as_py() > 0
    hover = " ".join(text for trace in figure.data for text in trace["hovertext"])
    assert set(re.findall(r"cluster (\d+)", hover)) == {str(c) for c in clusters["cluster_id"].to_pylist()}


def test_map_draws_the_commonest_sentences_of_a_large_section():
    n = MOST_POINTS + 500
    rng = np.random.default_rng(1)
    cluster = np.arange(n) % 7
    vectors = (np.eye(8, dtype=np.float32)[cluster] + 0.05 * rng.normal(size=(n, 8))).astype(np.float32)
    sentences = pa.table(
        {"section": ["findings"] * n, "sentence_key": [f"k{i}" for i in range(n)], "text": [f"t{i}" for i in range(n)],
         "count": np.arange(n) + 1, "cluster_id": cluster, "probability": np.ones(n), "assigned": ["core"] * n,
         "sign": ["normal"] * n},
    ).cast(SENTENCES)  # fmt: skip
    clusters = pa.table(
        {"section": ["findings"] * 7, "cluster_id": range(7), "size": [1] * 7, "occurrences": [1] * 7,
         "sign": ["normal"] * 7, "purity": [1.0] * 7, "medoid": [f"t{i}" for i in range(7)], "persistence": [1.0] * 7},
    ).cast(CLUSTERS)  # fmt: skip
    figure = cluster_map("findings", sentences, clusters, vectors)
    (trace,) = figure.data
    assert len(trace["x"]) == MOST_POINTS
    assert trace["hovertext"][0].startswith("t500<br>")
    assert "500 more" in figure.caption


@pytest.mark.parametrize("medoids", [0, 1, 2, 4, 5, 30])
def test_medoids_get_places_of_their_own_and_the_same_ones_again(medoids):
    vectors = np.random.default_rng(medoids).normal(size=(medoids, 12)).astype(np.float32)
    places = place_medoids(vectors)
    assert places.shape == (medoids, 2)
    assert np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == medoids
    np.testing.assert_array_equal(places, place_medoids(vectors))


def test_clouds_do_not_reach_half_way_to_the_next_medoid():
    rng = np.random.default_rng(3)
    place = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 10.0]])
    centre = np.eye(3, 6)
    cluster = np.repeat([0, 1, 2], 20)
    spots = spread(centre[cluster] + rng.normal(size=(60, 6)), cluster, centre, place)
    away = np.abs(spots - place[cluster]).max(1)
    assert (away[:40] <= 0.45 + 1e-9).all()
    assert away[:20].max() > 0.2


def tree_of(run, section="findings"):
    """The picture of the condensed tree, from the page."""
    blocks = blocks_of(enrichment_page(**run), "Condition of the clustering")
    return next(b for b in blocks if isinstance(b, Figure) and f"clusters of {section}" in b.caption)


def test_tree_shows_every_cluster_in_the_colour_of_its_sign(run):
    clusters = of_section(run["clusters"], "findings").to_pylist()
    labels = run["clusterings"]["findings"].labels
    hover = {
        (text, trace["marker"]["color"], trace["legendgroup"]): base
        for trace in tree_of(run).data
        if trace["type"] == "bar" and trace["hoverinfo"] == "text"
        for text, base in zip(trace["hovertext"], trace["base"], strict=True)
    }
    assert len(hover) == len(clusters) >= 3
    for row in clusters:
        (key,) = [key for key in hover if f"<br>cluster {row['cluster_id']} ·" in key[0]]
        text, _, group = key
        assert text.startswith(f"<b>{label(row['medoid'], width=56)}</b>")
        assert f"{(labels == row['cluster_id']).sum()} sentences" in text
        assert f"persistence {row['persistence']:.3f}" in text
        assert group == row["sign"]
    colours = {trace["name"]: trace["marker"]["color"] for trace in tree_of(run).data if trace["type"] == "bar"}
    assert set(colours) == {row["sign"] for row in clusters}


def test_tree_hangs_together(run):
    """Splits hold all clusters, shapes lie side by side, and every line ends at a split or on top of a shape."""
    figure = tree_of(run)
    lines, dots = (next(t for t in figure.data if t.get("mode") == mode) for mode in ("lines", "markers"))
    shapes = [
        (x, base, base + y, width)
        for t in figure.data
        if t["type"] == "bar" and t["hoverinfo"] == "text"
        for x, base, y, width in zip(t["x"], t["base"], t["y"], t["width"], strict=True)
    ]
    assert len(dots["x"]) == len(shapes) - 1
    edges = sorted((x - width / 2, x + width / 2) for x, _, _, width in shapes)
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(edges))
    ends = [(x, top) for x, _, top, _ in shapes] + list(zip(dots["x"], dots["y"], strict=True))
    for start in range(0, len(lines["x"]), 5):
        for place in (start, start + 3):
            assert any(lines["x"][place] == x and abs(lines["y"][place] - y) < 0.003 for x, y in ends)
        assert lines["x"][start + 4] is None


def comb(clusters, members, noise):
    """A clustering whose tree loses one cluster after the other, its arrays written by hand."""
    points = clusters * members + noise
    rows = [(points, points - 1 - n, 0.9 + 0.1 * n / max(noise, 1), 1) for n in range(noise)]
    node, following = points, points + 1
    for c in range(clusters):
        birth = 1.0 + 0.002 * c
        leaf = node
        if c < clusters - 1:
            leaf, rest = following, following + 1
            rows += [(node, leaf, birth, members), (node, rest, birth, members * (clusters - c - 1))]
            node, following = rest, following + 2
        rows += [(leaf, c * members + m, birth + 1 + 0.01 * m, 1) for m in range(members)]
    rows[-1] = (*rows[-1][:2], np.inf, 1)
    labels = np.r_[np.repeat(np.arange(clusters), members), np.full(noise, -1)].astype(np.int32)
    tree = np.array(rows, [("parent", np.intp), ("child", np.intp), ("lambda_val", float), ("child_size", np.intp)])
    none = hdbscan_fit(np.zeros((0, 2), np.float32))
    return dataclasses.replace(none, labels=labels, condensed=tree)


def table_of(clusters):
    rows = [
        {"section": "findings", "cluster_id": c, "size": 20, "occurrences": 30, "sign": ["normal", "mixed"][c % 2],
         "purity": 1.0, "medoid": f"sentence <i>{c}</i> " + "words " * 30, "persistence": 0.5}
        for c in range(clusters)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CLUSTERS)


def test_tree_of_many_clusters_stays_small():
    figure = condensed_tree_figure("findings", comb(900, 20, 57_000), table_of(900))
    text = figure_json(figure)
    assert len(text) < 300_000
    assert "null" in text
    assert "<i>" not in text.encode().decode("unicode_escape").replace("&lt;i&gt;", "")
    assert "The 150 largest clusters are drawn; 750 more, of 20 sentences or fewer, are in the table." in figure.caption
    dots = next(trace for trace in figure.data if trace.get("mode") == "markers")
    assert len(dots["x"]) == 149
    assert dots["hovertext"][-1].startswith("18,000 sentences part at distance 1.00")  # the root, noise gone


def test_tree_puts_an_infinite_lambda_at_distance_nought():
    figure = condensed_tree_figure("findings", comb(3, 20, 10), table_of(3))
    bases = [base for trace in figure.data if trace["type"] == "bar" for base in trace["base"]]
    assert min(bases) == 0.0
    assert plain(figure.data) == json.loads(figure_json(figure))["data"]
    assert all(np.isfinite(value) for trace in figure.data if trace["type"] == "bar" for value in trace["y"])


def test_a_tree_that_splits_in_vain_hangs_from_its_one_cluster():
    """Clusters beyond the drawn ones leave no empty lines behind."""
    clustering = comb(4, 20, 10)
    tree = branches(clustering.condensed, clustering.labels)
    splits, top = visible_splits(tree, {int(tree.selected_C[2])})
    assert (splits, top) == ({}, int(tree.selected_C[2]))
    splits, top = visible_splits(tree, set(tree.selected_C[[0, 3]].tolist()))
    assert list(splits) == [top] == [0]
    assert set(splits[0].below) == set(tree.selected_C[[0, 3]].tolist())
    assert splits[0].points == 80


def test_shape_of_a_cluster_narrows_as_its_members_leave():
    leaving = np.linspace(0.6, 0.1, 60)
    shape = icicle(0.8, leaving, 0.01)
    assert [share for _, _, share in shape] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert (shape[0][1], shape[-1][0]) == (0.8, pytest.approx(0.1))
    assert all(above[0] == below[1] for above, below in itertools.pairwise(shape))
    assert icicle(0.5, np.full(9, 0.5), 0.01) == [(0.49, 0.5, 1.0)]  # all at once: thin, but there


@pytest.mark.parametrize("change", ["no tree", "weighted", "none given"])
def test_without_a_tree_of_its_sentences_a_section_has_no_picture(run, change):
    clustering = run["clusterings"]["findings"]
    other = {
        "no tree": {"findings": dataclasses.replace(clustering, condensed=clustering.condensed[:0])},
        "weighted": {"findings": dataclasses.replace(clustering, labels=clustering.labels[:-1])},
        "none given": None,
    }[change]
    blocks = blocks_of(enrichment_page(**{**run, "clusterings": other}), "Condition of the clustering")
    assert not any(isinstance(block, Figure) for block in blocks)
    assert any(isinstance(block, KeyValues) for block in blocks)


def test_small_helpers():
    assert spread_over({1: "abc", 2: "d", 3: "ef"}, 5) == ["a", "d", "e", "b", "f"]
    assert most({"a": 1, "b": 5, "c": 1}, 1, "rest") == {"b": 5, "rest": 2}
    assert grouped_additions({"10": 2, "2": 1, "6": 1}, last=6) == {"2": 1, "6 or more": 3}
    assert in_words("contradicts:lung_abnormality") == "contradicts the report: lung abnormality"
    assert in_words("restates:effusion") == "the report already says it: no effusion"

import itertools
import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from raymedlt.errors import ConfigError, InputError
from raymedlt.images.phantom_cohort import FINDING_TYPE
from raymedlt.images.phantom_labels import label_sets
from raymedlt.seeds import generator
from raymedlt.synthesis.plan import PLAN, PlanSettings, count_at, make_plan, row_id, shortfall
from raymedlt.synthesis.plan_sets import real_sets
from raymedlt.synthesis.plan_summary import summarise

SMALL = ("Effusion", "Cardiomegaly", "Nodule", "Edema", "Hernia", "No Finding")


def small_world() -> np.ndarray:
    """600 images. Hernia is rare: with effusion, with cardiomegaly, never with both. Nodule and edema never meet."""
    rows = [(0,)] * 100 + [(1,)] * 90 + [(0, 1)] * 30 + [(2,)] * 80 + [(3,)] * 70 + [(0, 2)] * 20 + [(0, 1, 3)] * 25
    rows += [(4,)] * 6 + [(4, 0)] * 4 + [(4, 1)] * 5 + [(5,)] * 170
    labels = np.zeros((len(rows), len(SMALL)), np.float32)
    for number, members in enumerate(rows):
        labels[number, list(members)] = 1
    return labels


def small_plan(seed=3, checkpoint_hash="abc", findings=None, **settings):
    settings = {"count": 60, "classes": ["Hernia"], **settings}
    return make_plan(
        small_world(), None, SMALL, PlanSettings(**settings), seed=seed, checkpoint_hash=checkpoint_hash,
        findings=findings,
    )  # fmt: skip


def sets_of(table: pa.Table) -> Counter:
    return Counter(tuple(names) for names in table["label_set"].to_pylist())


# How many


def test_shortfall_is_what_is_missing_times_overdraw_up_to_the_cap():
    assert shortfall([3, 50, 120], 100).tolist() == [97, 50, 0]
    assert shortfall([3, 50, 120], 100, overdraw=1.5, cap=80).tolist() == [80, 75, 0]
    assert count_at([10, 20, 41, 90], 0.5) == 31
    assert count_at([10, 20, 41, 90], 1.0) == 90


def test_targets_are_a_count_or_a_quantile_of_the_classes_that_show_something():
    assert small_plan(count=60).rows_of() == {"Hernia": 45}
    by_quantile = small_plan(count=None, quantile=0.5)  # 179, 150, 100, 95, 15; without "No Finding"'s 170
    assert (by_quantile.target_count, len(by_quantile)) == (100, 85)
    with pytest.raises(ConfigError, match=r"plan\.quantile is 1\.5"):
        PlanSettings(quantile=1.5)


def test_classes_are_chosen_by_group_or_by_name_the_rarest_first():
    assert list(small_plan(count=200, classes=None, tail_up_to=0.03).rows_of()) == ["Hernia"]
    medium = small_plan(count=200, classes=None, groups="tail_medium", tail_up_to=0.03, head_above=0.2)
    assert medium.rows_of() == {"Hernia": 185, "Edema": 105, "Nodule": 100}
    everything = small_plan(count=200, classes=None, groups="all")
    assert everything.rows_of() == {"Hernia": 185, "Edema": 105, "Nodule": 100, "Cardiomegaly": 50, "Effusion": 21}
    with pytest.raises(InputError, match=r"no class of the group 'tail': none is in at most 1 % of 600 .*plan\.groups"):
        small_plan(classes=None, tail_up_to=0.01)
    with pytest.raises(InputError, match=r"each of the 1 chosen classes has 10 or more.*raise --plan\.count"):
        small_plan(count=10)


# Which sets


def brute_force(labels: np.ndarray, target: int, mu: float, alpha: float, never_below: float) -> dict[tuple, float]:
    """P(S | c) of the module's docstring, set by set over all sets, for complete labels."""
    sets = [tuple(np.flatnonzero(row)) for row in labels]
    have = [members for members in sets if target in members]
    count = len(labels)
    n = labels.sum(0)
    largest = max(map(len, sets))

    def together(a, b):
        return sum(a in members and b in members for members in sets)

    def impossible(members):
        pairs = itertools.combinations(members, 2)
        never = any(not together(a, b) and n[a] * n[b] / count >= never_below for a, b in pairs)
        return never or len(members) > largest

    others = [c for c in range(labels.shape[1]) if c != target]
    p = {c: (together(c, target) + alpha * n[c] / count) / (n[target] + alpha) for c in others}
    product = {}
    for size in range(len(others) + 1):
        for chosen in itertools.combinations(others, size):
            members = tuple(sorted((target, *chosen)))
            if not impossible(members):
                product[members] = float(np.prod([p[c] if c in chosen else 1 - p[c] for c in others]))
    total = sum(product.values())
    real = Counter(have)
    return {s: (real[s] + mu * product[s] / total) / (len(have) + mu) for s in product}


def test_sets_are_drawn_with_the_stated_probabilities():
    labels = small_world()[:, :5]
    real = real_sets(labels, None, SMALL[:5], smoothing=10.0, shrinkage=2.0, never_below=5.0)
    expected = brute_force(labels, 4, 10.0, 2.0, 5.0)
    draws = 8000
    found = Counter(real.draw(4, generator(0, "test", number)).members for number in range(draws))
    assert found.keys() <= expected.keys()
    assert sum(expected.values()) == pytest.approx(1)
    for members, probability in expected.items():
        spread = 4 * (probability * (1 - probability) / draws) ** 0.5 + 1 / draws
        assert abs(found[members] / draws - probability) < spread, members


def test_smoothing_makes_plausible_sets_that_no_image_has_and_no_impossible_ones():
    smooth = sets_of(small_plan(count=1500, smoothing=15.0).rows(0, 1485))
    assert smooth["Effusion", "Cardiomegaly", "Hernia"] > 10
    assert not any({"Nodule", "Edema"} <= set(names) for names in smooth)
    assert max(map(len, smooth)) == 3  # the largest real set
    plain = small_plan(count=300, smoothing=0.0).rows(0, 285)
    assert set(plain["origin"].to_pylist()) == {"real"}
    assert set(sets_of(plain)) == {("Hernia",), ("Effusion", "Hernia"), ("Cardiomegaly", "Hernia")}


def test_a_class_of_no_finding_is_in_no_set_whatever_its_name():
    names = [*SMALL[:5], "sano"]
    labels = small_world()
    labels[:200, 5] = 1  # contradictory rows: they count as what they show
    plan = make_plan(
        labels, None, names, PlanSettings(count=500, groups="all", normal_classes=["sano"]), seed=0, checkpoint_hash=""
    )
    assert "sano" not in plan.rows_of()
    assert not any("sano" in cell for cell in plan.rows(0, len(plan))["label_set"].to_pylist())
    with pytest.raises(InputError, match="the class 'No Finding', which means that there is no finding"):
        small_plan(classes=["No Finding"])


def test_unknown_labels_have_no_part_in_what_goes_together():
    labels = small_world()[:, :5]
    known = np.ones_like(labels, bool)
    with_hernia = np.flatnonzero(labels[:, 4])
    known[with_hernia[:6], 0] = False  # of the 6 with a hernia alone, effusion isn't known
    real = real_sets(labels, known, SMALL[:5], shrinkage=0.0)
    assert real.shares_CC[4, 0] == pytest.approx(4 / 9)
    assert real.conditional_CC[4, 0] == pytest.approx(4 / 9)
    known[:, 4] = False
    assert real_sets(labels, known, SMALL[:5]).counts_C[4] == 0


def test_the_plan_keeps_the_co_occurrence_graph_of_a_real_label_table():
    source = label_sets("nih14", 14)
    chosen = generator(0, "test", "rows").choice(len(source.counts), 12_000, p=source.counts / source.counts.sum())
    labels = source.sets[chosen].astype(np.float32)
    rows = 1500
    settings = PlanSettings(count=100_000, cap=rows, groups="tail_medium")
    plan = make_plan(labels, None, source.names, settings, seed=1, checkpoint_hash="")
    targets = [source.names.index(name) for name in list(plan.rows_of())[:6]]  # the six rarest
    table = plan.rows(0, 6 * rows)
    summary = summarise(plan.real, [table])
    assert summary.shift < 0.06, summary.shift_pair
    alone = {target: labels[labels[:, target] > 0] for target in targets}
    for target in targets:
        mine = table.filter(pa.compute.equal(table["target"], source.names[target]))["label_set"].to_pylist()
        count = len(alone[target])
        for other, name in enumerate(source.names):
            real = alone[target][:, other].mean()
            planned = np.mean([name in names for names in mine])
            spread = 4.5 * (real * (1 - real) / rows) ** 0.5 + 2 / (count + 1) + 0.005
            assert abs(planned - real) < spread, (source.names[target], name, real, planned)
    # Single labels instead of sets would break it: the check above can fail.
    assert max(np.delete(alone[target].mean(0), target).max() for target in targets) > 0.2


# Rows


def test_a_larger_target_has_the_same_rows_and_more():
    few, many = (small_plan(count=count, classes=["Hernia", "Edema"]) for count in (150, 400))
    by_number = {(row["target"], row["number"]): row for row in many.rows(0, len(many)).to_pylist()}
    rows = few.rows(0, len(few)).to_pylist()
    assert len(rows) == 135 + 55
    assert all(by_number[row["target"], row["number"]] == row for row in rows)


def test_rows_do_not_depend_on_how_the_plan_is_cut_or_where_it_is_made():
    plan = small_plan(count=200, classes=["Hernia", "Edema"])
    whole = plan.rows(0, len(plan))
    assert whole.schema == PLAN
    assert len(plan) == whole.num_rows == 185 + 105
    shards = list(pickle.loads(pickle.dumps(plan)).shards(64))
    assert [shard.num_rows for shard in shards] == [64, 64, 64, 64, 34]
    assert pa.concat_tables(shards).equals(whole)
    assert plan.rows(180, 190).equals(whole.slice(180, 10))


def test_ids_follow_from_the_content_and_seeds_from_the_key():
    one, other = small_plan().rows(0, 45).to_pylist(), small_plan(checkpoint_hash="def").rows(0, 45).to_pylist()
    assert len({row["row_id"] for row in one + other}) == 90
    assert [row["seed"] for row in one] == [row["seed"] for row in other]
    assert [row["label_set"] for row in one] == [row["label_set"] for row in other]
    assert all(0 <= row["seed"] < 2**63 for row in one)
    assert len({row["seed"] for row in one}) == 45
    content = {name: value for name, value in one[0].items() if name != "row_id"}
    assert one[0]["row_id"] == row_id(content)
    assert one[0]["row_id"] != row_id({**content, "prompt": "Frontal chest X-ray."})
    assert [row["seed"] for row in small_plan(seed=4).rows(0, 45).to_pylist()] != [row["seed"] for row in one]


def test_prompts_name_the_whole_set():
    for row in small_plan(count=400).rows(0, 385).to_pylist():
        words = {
            "Effusion": "effusion",
            "Cardiomegaly": "cardi",
            "Hernia": "hernia",
            "Nodule": "nodule",
            "Edema": "edema",
        }
        for name, word in words.items():
            assert (word in row["prompt"]) == (name in row["label_set"]), row["prompt"]
    plain = small_plan(count=400, varied=False, view="PA").rows(0, 385)
    prompts = {(tuple(row["label_set"]), row["prompt"]) for row in plain.to_pylist()}
    assert len(prompts) == len(sets_of(plain))
    assert (("Hernia",), "PA chest X-ray with a diaphragmatic hernia.") in prompts


def test_sides_and_severities_are_those_of_real_images():
    labels = small_world()
    cells = [
        [
            {"name": SMALL[c], "side": ("left", "right")[number % 2], "severity": (number % 97) / 100}
            for c in np.flatnonzero(row)
            if c < 3
        ]
        for number, row in enumerate(labels)
    ]
    findings = pa.array(cells, pa.list_(FINDING_TYPE))
    seen = {(each["name"], each["side"], each["severity"]) for cell in cells for each in cell}
    plan = small_plan(count=400, findings=pa.chunked_array([findings[:100], findings[100:]]), smoothing=15.0)
    smoothed = 0
    for row in plan.rows(0, len(plan)).to_pylist():
        smoothed += row["origin"] == "smoothed"
        for name, side, severity in zip(row["label_set"], row["sides"], row["severities"], strict=True):
            assert ((name, side, severity) in seen) if name in SMALL[:3] else (side, severity) == ("", None)
            assert side in row["prompt"] or name == "Cardiomegaly"  # which has no side to name
    assert 100 < smoothed < 300  # mu / (n + mu) is a half
    with pytest.raises(InputError, match="findings of 3 images"):
        small_plan(findings=findings[:3])


# Refusals and requests


def test_a_class_never_seen_is_refused():
    labels = small_world()
    labels[:, 4] = 0
    with pytest.raises(InputError, match=r"no real training image shows 'Hernia'\. Expected: at least one"):
        make_plan(labels, None, SMALL, PlanSettings(classes=["Hernia"]), seed=0, checkpoint_hash="")
    with pytest.raises(InputError, match="no real training image shows 'Hernia'"):
        make_plan(labels, None, SMALL, PlanSettings(groups="tail"), seed=0, checkpoint_hash="")
    with pytest.raises(InputError, match=r"the class 'Ghost'\. Expected: one of"):
        small_plan(classes=["Ghost"])
    with pytest.raises(InputError, match=r"labels of shape \(600, 6\) for 2 classes"):
        make_plan(labels, None, SMALL[:2], PlanSettings(), seed=0, checkpoint_hash="")


def test_requested_sets_are_planned_and_impossible_ones_refused():
    plan = small_plan(classes=[], requests=[(["Hernia", "Effusion", "Cardiomegaly"], 20)])
    table = plan.rows(0, len(plan))
    assert sets_of(table) == {("Effusion", "Cardiomegaly", "Hernia"): 20}
    assert set(table["origin"].to_pylist()) == {"requested"}
    assert set(table["target"].to_pylist()) == {"Hernia"}
    both = small_plan(requests=[(["Hernia"], 5)])
    assert len({row["seed"] for row in both.rows(0, 50).to_pylist()}) == 50
    refused = [
        (["Nodule", "Edema"], "no real training image shows 'Nodule' and 'Edema' together"),
        (["Effusion", "Cardiomegaly", "Nodule", "Hernia"], "4 classes, and no real training image shows more than 3"),
        (["No Finding", "Edema"], "the class 'No Finding', which means that there is no finding"),
        (["Ghost"], "the class 'Ghost'"),
        ([], "no class at all"),
    ]
    for names, message in refused:
        with pytest.raises(InputError, match=message):
            small_plan(requests=[(names, 1)])


# What it amounts to


def test_the_summary_counts_what_is_planned():
    plan = small_plan(count=400, classes=["Hernia", "Edema"], smoothing=15.0)
    table = plan.rows(0, len(plan))
    summary = summarise(plan.real, plan.shards(50))
    assert summary == summarise(plan.real, [table])
    assert (summary.rows, summary.smoothed) == (690, table["origin"].to_pylist().count("smoothed"))
    sets = sets_of(table)
    real = {tuple(np.array(SMALL)[row > 0]) for row in small_world()}
    assert summary.label_sets == len(sets)
    assert summary.new_sets == len(set(sets) - real) > 0
    assert summary.new_rows == sum(count for names, count in sets.items() if names not in real)
    by_name = {each.name: each for each in summary.classes}
    assert [each.name for each in summary.classes if each.rows] == ["Hernia", "Edema"]
    for name, each in by_name.items():
        assert each.planned == sum(count for names, count in sets.items() if name in names)
    assert by_name["Hernia"].total == 15 + by_name["Hernia"].planned
    expected = dict(zip(SMALL, plan.expected_positives(), strict=True))
    for name, each in by_name.items():
        assert each.total == pytest.approx(expected[name] if name != "No Finding" else 0, abs=70), name
    assert 0 < summary.shift < 0.15
    assert summary.to_json()["classes"][0]["name"] in SMALL


def test_memory_does_not_grow_with_the_plan():
    def peak(rows):
        plan = small_plan(count=rows + 15)
        tracemalloc.start()
        count = sum(shard.num_rows for shard in plan.shards(100))
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows
        return high

    peak(300)  # caches of wordings
    assert peak(2400) < 1.5 * peak(300)

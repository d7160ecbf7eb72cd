"""Rewards on clusters of real sentences: hand-checked values, bounds, and what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymedlt.alignment.rewards import (
    BUILT_IN,
    Reference,
    RewardModel,
    bleu,
    cluster_f1,
    cluster_f1_strict,
    cluster_f1_weighted,
    exact_f1,
    finding_f1,
    format_reward,
    length_penalty,
    load_reward,
    repetition_penalty,
)
from raymedlt.clustering import ClusterModel, hdbscan_fit
from raymedlt.embedding.encoder import load_encoder
from raymedlt.errors import ConfigError, InputError
from raymedlt.reports.readers import open_reader
from raymedlt.reports.sentences import sentence_key, split_sentences

NEW = ["The heart is of normal size", "There is a big left effusion", "No XXXX fracture", "Kites rise in the wind"]


def written(findings: list[str], impression: list[str]) -> str:
    return f"<think> {'. '.join(findings)}. </think><answer> {'. '.join(impression)}. </answer>"


@pytest.fixture(scope="module")
def clustered() -> ClusterModel:
    """Sentences of the first real reports."""
    reader = open_reader(None, "openi")
    batch = next(iter(reader.read(next(iter(reader.units())))))
    texts = [text for text in batch["findings"].to_pylist()[:120] if text]
    keys = sorted({sentence_key(sentence) for text in texts for sentence in split_sentences(text)})
    vectors = load_encoder(None, "float32", 128, "cpu").encode(keys)
    return ClusterModel(keys, vectors, hdbscan_fit(vectors, 4, 2), limit=math.sqrt(2 - 2 * 0.8))


@pytest.fixture(scope="module")
def model(clustered: ClusterModel) -> RewardModel:
    return RewardModel(clustered, clustered)


@pytest.fixture(scope="module")
def sentences(clustered: ClusterModel) -> list[str]:
    """One sentence of each cluster, in order."""
    return [clustered.keys[number] for number in clustered.medoids]


def test_hand_checked(model: RewardModel, sentences: list[str]) -> None:
    one, two, three, four, five, nine = (sentences[number] for number in (1, 2, 3, 4, 5, 9))
    completion, reference = ". ".join([one, two, three]), ". ".join([two, three, four, five])
    assert cluster_f1([completion, nine, ""], [reference, two, two], model) == pytest.approx([0.571429, 0, 0], abs=1e-6)
    assert exact_f1([completion, nine, ""], [reference, two, two], model) == pytest.approx([0.571429, 0, 0], abs=1e-6)
    # u = 1 unknown, d = 1 repeated
    strict = cluster_f1_strict([f"{two}. {three}. Kites rise in the wind. {two}"], [f"{two}. {three}"], model)
    assert strict == pytest.approx([2 * 0.5 / 1.5])
    assert cluster_f1([f"{two}. {three}. Kites rise in the wind. {two}"], [f"{two}. {three}"], model) == [1.0]


def test_both_sections_add_up(model: RewardModel, sentences: list[str]) -> None:
    a, b, c = sentences[:3]
    reference = Reference(f"{a}. {b}.", f"{c}.")
    completions = [written([a, b], [c]), f"{a}. {b}.", written([a, b], [a]), written([c], [c])]
    assert cluster_f1(completions, [reference] * 4, model) == [2.0, 1.0, 1.0, 1.0]
    as_mapping = {"findings": reference.findings, "impression": reference.impression, "image_id": "7"}
    for reward in (cluster_f1, cluster_f1_strict, exact_f1, finding_f1, bleu):
        expected = reward(completions, [reference] * 4, model)
        assert reward(completions, [as_mapping] * 4, model) == expected
        assert reward(completions, [written([a, b], [c])] * 4, model) == pytest.approx(expected)


def test_contradictions_cost(model: RewardModel) -> None:
    reference = "There is a left pleural effusion. The heart is enlarged."
    right = "There is a left pleural effusion. The heart is enlarged."
    for wrong in ("There is a right pleural effusion. The heart is enlarged.", "No pleural effusion. Heart enlarged."):
        values = cluster_f1_strict([right, wrong], [reference] * 2, model)
        assert values[0] >= values[1]
    assert finding_f1(["Pneumothorax.", "No pneumothorax.", "", "Clear lungs."], ["No pneumothorax."] * 4) == [
        0,
        1,
        0,
        1,
    ]


def test_none_is_for_what_cannot_be_scored(model: RewardModel) -> None:
    references = [Reference("Clear."), None, {"findings": None, "impression": None}, Reference("Clear.", language="xx")]
    completions = ["", "Clear.", "Clear.", "Clear."]
    assert cluster_f1_strict(completions, references, model) == [0.0, None, None, None]
    assert exact_f1(completions, references, model) == [0.0, None, None, 1.0]
    assert cluster_f1_strict([None], ["Clear."], model) == format_reward([None], ["Clear."]) == [None]  # type: ignore[list-item]
    assert cluster_f1([], [], model) == []


def test_what_is_refused(model: RewardModel) -> None:
    for reward in (cluster_f1_strict, length_penalty, bleu):
        with pytest.raises(InputError, match=r"2 completions and 1 references. Expected: one reference for each"):
            reward(["a", "b"], ["a"], model)
    with pytest.raises(InputError, match=r"a reference of keys \['text'\]. Expected: a Reference"):
        cluster_f1(["a"], [{"text": "a"}], model)
    with pytest.raises(InputError, match="a reference of type int"):
        cluster_f1(["a"], [3], model)  # type: ignore[list-item]


def test_weights(clustered: ClusterModel, sentences: list[str]) -> None:
    grave = next(number for number, text in enumerate(sentences) if "no " not in text)
    plain = next(number for number in range(len(sentences)) if number != grave)
    weights = {cluster: 0.25 for cluster in range(clustered.clusters)}
    texts, reference = [sentences[grave], sentences[plain]], f"{sentences[grave]}. {sentences[plain]}."
    equal = RewardModel(clustered, clustered, severity={"findings": weights, "impression": weights})
    assert cluster_f1_weighted(texts, [reference] * 2, equal) == cluster_f1_strict(texts, [reference] * 2, equal)
    graver = {"findings": weights | {grave: 1.0}, "impression": weights}
    more, less = cluster_f1_weighted(texts, [reference] * 2, RewardModel(clustered, clustered, severity=graver))
    assert more == pytest.approx(2 * 0.8 / 1.8)
    assert less == pytest.approx(2 * 0.2 / 1.2)
    bad = {"findings": {key: 1.0 for key in weights if key}, "impression": weights}
    with pytest.raises(InputError, match=r"no weight of 1 clusters of the findings \(first: 0\)"):
        cluster_f1_weighted(texts, [reference] * 2, RewardModel(clustered, clustered, severity=bad))


def test_form() -> None:
    loop = "There is no effusion seen here. " * 4
    assert repetition_penalty(["The lungs are clear. The heart is normal.", ""], ["Clear."] * 2) == [0, 0]
    assert repetition_penalty([loop], ["Clear."])[0] == pytest.approx(-(21 - 6) / 21)
    assert repetition_penalty([f"<think> {loop} </think><answer> {loop} </answer>"], ["Clear."])[0] < -1
    words = [" ".join(["word"] * count) for count in (0, 30, 45, 60, 900)]
    assert length_penalty(words, ["Clear."] * 5) == [0, 0, -0.5, -1, -1]
    assert length_penalty(words[2:3], [" ".join(["word"] * 40)]) == [0]
    assert format_reward(["<think> a </think><answer> b </answer>", "a"], ["", ""]) == [1, 0]


# What must not change a value


def all_values(completions: list[str], references: list[Reference], model: RewardModel) -> dict[str, list]:
    return {name: list(reward(completions, references, model)) for name, reward in BUILT_IN.items()}


def some(model: ClusterModel, count: int) -> tuple[list[str], list[Reference]]:
    rng = np.random.default_rng(3)
    known = model.keys
    spoken = [f"{known[n]} and {known[n + 1]}" for n in range(0, 60, 3)] + NEW
    draw = [list(rng.choice(known, 3)) + list(rng.choice(spoken, 2)) for _ in range(2 * count)]
    references = [Reference(". ".join(rng.choice(known, 5)), ". ".join(rng.choice(known, 2))) for _ in range(count)]
    return [written(draw[2 * n], draw[2 * n + 1]) for n in range(count)], references


def test_alone_together_or_reordered_bit_for_bit(clustered: ClusterModel) -> None:
    completions, references = some(clustered, 6)
    together = all_values(completions, references, RewardModel(clustered, clustered))
    forgetful = RewardModel(clustered, clustered, remembered=5)
    alone: dict[str, list] = {name: [] for name in BUILT_IN}
    for completion, reference in zip(completions, references, strict=True):
        for name, values in all_values([completion], [reference], forgetful).items():
            alone[name] += values
    assert alone == together
    order = np.random.default_rng(0).permutation(len(completions)).tolist()
    fresh = RewardModel(clustered, clustered)
    shuffled = all_values([completions[n] for n in order], [references[n] for n in order], fresh)
    assert {name: [values[n] for n in order] for name, values in together.items()} == shuffled


def test_distances_of_new_sentences_are_the_same_bits(clustered: ClusterModel) -> None:
    new = [f"{key} as before" for key in clustered.keys[:66]]
    together = clustered.assign(new)[1]
    assert np.array_equal(np.concatenate([clustered.assign([each])[1] for each in new[:3]]), together[:3])
    assert np.array_equal(clustered.assign(new[::-1])[1][::-1], together)


def test_sentences_are_embedded_once(clustered: ClusterModel) -> None:
    model = RewardModel(clustered, clustered)
    cluster_f1_strict(["Kites rise. Ships sail. Kites rise.", "Kites rise."], ["Clear lungs everywhere."] * 2, model)
    found = model.maps["findings"]
    assert (found.hits, found.misses) == (0, 3)
    cluster_f1_strict(["Ships sail."], ["Clear lungs everywhere."], model)
    assert (found.hits, found.misses) == (2, 3)
    assert model.maps["impression"].misses == 0


PIECES = st.lists(st.integers(0, 400), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=PIECES, thought=PIECES, true=PIECES, concluded=PIECES)
def test_bounds(
    model: RewardModel, clustered: ClusterModel, said: list[int], thought: list[int], true: list[int],
    concluded: list[int],
) -> None:  # fmt: skip
    texts = [*NEW, *clustered.keys]
    pick = [[texts[n % len(texts)] for n in numbers] for numbers in (said, thought, true, concluded)]
    reference = Reference(". ".join(pick[2]), ". ".join(pick[3]))
    for completion, most in ((written(*pick[:2]), 2.0), (". ".join(pick[0]), 1.0)):
        for name, [value] in all_values([completion], [reference], model).items():
            if name.endswith("penalty"):
                assert -2 <= value <= 0
            else:
                assert 0 <= value <= most + 1e-12, name
    assert cluster_f1_strict([written(*pick[:2])], [reference], model)[0] <= 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.sets(st.integers(0, 400), max_size=6), true=st.sets(st.integers(0, 400), min_size=1, max_size=6))
def test_padding_and_repeating_never_pay(
    model: RewardModel, clustered: ClusterModel, said: set[int], true: set[int]
) -> None:
    keys = clustered.keys
    reference = ". ".join(keys[n % len(keys)] for n in sorted(true))
    text = ". ".join(keys[n % len(keys)] for n in sorted(said))
    padded = f"{text}. Kites rise in the wind, and ships sail to Lisbon."
    twice = f"{text}. {text}"
    plain, more, again = cluster_f1_strict([text, padded, twice], [reference] * 3, model)
    assert more <= plain
    assert again <= plain
    if plain:
        assert more < plain
        assert again < plain


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.sets(st.integers(0, 100), min_size=2, max_size=6))
def test_a_right_sentence_more_is_worth_more(model: RewardModel, sentences: list[str], numbers: set[int]) -> None:
    true = list(dict.fromkeys(sentences[n % len(sentences)] for n in sorted(numbers)))
    completions = [". ".join(true[:count]) for count in range(1, len(true) + 1)]
    references = [". ".join(true)] * len(completions)
    for reward in (cluster_f1, exact_f1):
        values = reward(completions, references, model)
        assert values == sorted(values)
        assert values[-1] == 1


# Names


def test_rewards_by_name() -> None:
    assert load_reward("cluster_f1_strict") is cluster_f1_strict
    assert load_reward("raymedlt.alignment.rewards:bleu") is bleu
    with pytest.raises(ConfigError, match=r"the reward 'cluster'. Expected: one of cluster_f1_strict"):
        load_reward("cluster")
    for name in ("raymedlt.alignment.nowhere:bleu", "raymedlt.alignment.rewards:nothing", ":bleu", "json:"):
        with pytest.raises(ConfigError, match="can't be imported"):
            load_reward(name)
    with pytest.raises(ConfigError, match=r"is a dict. Expected: a function"):
        load_reward("raymedlt.alignment.severity:WEIGHTS")


def test_from_a_folder(tmp_path, clustered: ClusterModel) -> None:
    for name in ("findings", "impression"):
        clustered.save(tmp_path / name)
    text = clustered.keys[int(clustered.medoids[0])]
    assert cluster_f1([text], [text], RewardModel.load(tmp_path)) == [1.0]
    with pytest.raises(InputError, match="holds no cluster model"):
        RewardModel.load(tmp_path / "nowhere")


def test_a_sign_that_differs_is_not_the_same_cluster(clustered: ClusterModel, sentences: list[str]) -> None:
    negative = next(n for n, text in enumerate(sentences) if text.startswith("no ") and "pneumothorax" in text)
    signs = ["mixed"] * clustered.clusters
    signs[negative] = "normal"
    signed = replace(clustered, information={"signs": signs})
    found = RewardModel(signed, signed).maps["findings"].map(["A pneumothorax is seen."])[0]
    assert negative not in found.nearest

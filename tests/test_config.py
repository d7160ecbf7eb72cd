"""The configuration: what is refused and how, what counts as the same run, and the way through YAML and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymedlt.alignment.config import AlignConfig
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.config import (
    FINISHED_RUNS,
    NOT_HASHED,
    EnrichConfig,
    ReportsConfig,
    config_hash,
    flatten,
    hashed_part,
    to_yaml,
)
from raymedlt.errors import ConfigError
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.finetuning.config import FinetuneConfig
from raymedlt.parsing import parse


def read(*words: str) -> EnrichConfig:
    return parse(EnrichConfig, list(words), "job")


def written(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def test_nothing_given_is_the_default():
    assert read() == EnrichConfig()


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--graph.min_suport", "graph.min_support"),
        ("--graf.min_support", "graph.min_support"),
        ("--min_support", "graph.min_support"),
        ("--variant", "variants"),  # no abbreviations: a shortened key is an unknown key
        ("--polcy", "policy"),
        ("--report.path", "reports.path"),
    ],
)
def test_unknown_key_on_the_command_line_names_the_nearest(word: str, nearest: str):
    with pytest.raises(ConfigError, match=rf"unknown key '{word[2:]}'.*the nearest is '{nearest}'"):
        read(word, "3")


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("graph: {min_suport: 2}", "graph.min_support"),
        ("graf: {min_support: 2}", "graph.min_support"),
        ("variant: 2", "variants"),
        ("clustering: {neighbors: 20}", "clustering.neighbours"),
    ],
)
def test_unknown_key_in_yaml_names_the_nearest(tmp_path: Path, text: str, nearest: str):
    with pytest.raises(ConfigError, match=rf"unknown key '.*the nearest is '{nearest}'"):
        read("--config", written(tmp_path, text))


def test_unknown_key_like_no_other_has_no_nearest():
    with pytest.raises(ConfigError, match=r"unknown key 'zzzzqqqq'. Expected: a known key. To fix: see --help"):
        read("--zzzzqqqq", "1")


@pytest.mark.parametrize(
    "text", ["graph: {min_support: 2", "[1, 2]", "graph: 3", "graph: {min_support: [2]}", "variants: many", ""]
)
def test_broken_yaml_is_a_config_error(tmp_path: Path, text: str):
    with pytest.raises(ConfigError):
        read("--config", written(tmp_path, text))


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"no_such_file\.yaml"):
        read("--config", "no_such_file.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--variants", "0"), "variants is 0. Expected: at least 1. To fix: change --variants"),
        (("--variants", "x"), "variants"),
        (("--workers", "0"), "workers is 0"),
        (("--max_rejected", "-1"), "max_rejected is -1"),
        (("--policy", "lenient"), "'paper', 'safe', 'strict'"),
        (("--reports.format", "xml"), "openi"),
        (("--reports.max_chars", "0"), "reports.max_chars is 0"),
        (("--embedding.batch_sentences", "0"), "embedding.batch_sentences is 0"),
        (("--embedding.shard_sentences", "10"), "at least embedding.batch_sentences"),
        (("--clustering.min_cluster_size", "1"), "clustering.min_cluster_size is 1"),
        (("--clustering.min_samples", "0"), "clustering.min_samples is 0"),
        (("--clustering.neighbours", "4"), "clustering.neighbours is 4. Expected: at least min_samples"),
        (("--clustering.second_chance", "0"), "a cosine in"),
        (("--clustering.second_chance", "1.01"), "a cosine in"),
        (("--clustering.eps", "0"), "clustering.eps is 0"),
        (("--clustering.clusters", "0"), "clustering.clusters is 0"),
        (("--graph.min_share", "1"), "graph.min_share is 1"),
        (("--graph.min_support", "-1"), "graph.min_support is -1"),
        (("--graph.veto_expected", "-1"), "graph.veto_expected is -1"),
        (("--graph.min_purity", "0"), "graph.min_purity is 0"),
        (("--graph.min_purity", ".inf"), "graph.min_purity is inf"),
        (("--writing.max_added", "0"), "writing.max_added is 0"),
        (("--writing.max_cliques", "0"), "writing.max_cliques is 0"),
        (("--writing.shard_reports", "0"), "writing.shard_reports is 0"),
        (("--seed", "1.5"), "seed"),
        (("--seed",), "seed"),
        (("stray",), "stray"),
    ],
)
def test_bad_values_are_refused(words: tuple[str, ...], message: str):
    with pytest.raises(ConfigError) as caught:
        read(*words)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_later_words_win_over_the_file(tmp_path: Path):
    path = written(tmp_path, "variants: 3\ngraph: {min_support: 7}\nreports: {columns: {findings: TEXT}}\n")
    config = read("--config", path, "--variants", "5")
    assert (config.variants, config.graph.min_support, config.reports.columns) == (5, 7, {"findings": "TEXT"})
    assert config.graph.min_share == EnrichConfig().graph.min_share  # the section's other keys keep their defaults


@pytest.mark.parametrize("switch", ["describe", "restart"])
@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--{}"], True),
        (["--{}", "true"], True),
        (["--{}", "True"], True),
        (["--{}", "false"], False),
        (["--{}=false"], False),
        (["--{}", "--variants", "2"], True),
        (["--variants", "2", "--{}"], True),
        ([], False),
    ],
)
def test_switches_may_stand_alone(switch: str, words: list[str], value: bool):
    assert getattr(read(*(word.format(switch) for word in words)), switch) is value


def test_switches_of_sections_may_stand_alone():
    config = parse(ClassifyConfig, ["--synthetic.compare", "--ablate", "--output", "x"])
    assert config.synthetic.compare
    assert config.ablate
    assert config.output == "x"


def test_both_switches_together():
    config = read("--restart", "--describe")
    assert config.restart
    assert config.describe


def test_print_config_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--variants", "2", "--graph.veto_expected", "2", "--reports.columns", "{findings: A}", "--output", "x")
    with pytest.raises(SystemExit) as stopped:
        read(*words, "--print_config")
    assert stopped.value.code == 0
    assert read("--config", written(tmp_path, capsys.readouterr().out)) == read(*words)


def test_help_has_a_line_for_every_field(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        read("--help")
    text = capsys.readouterr().out
    for key in flatten(EnrichConfig()):
        assert f"--{key}" in text
    assert "the paper's threshold on A-hat" in " ".join(text.split())  # a field's docstring is its help


def test_stored_yaml_reads_back(tmp_path: Path):
    config = read("--variants", "2", "--reports.columns", "{findings: Befund-Übersicht}", "--writing.max_added", "3")
    text = to_yaml(config)
    assert read("--config", written(tmp_path, text)) == config
    assert yaml.safe_load(text)["variants"] == 2


def _changed(key: str, value: Any) -> Any:
    """Some other valid value."""
    literals = {
        "reports.format": "csv", "embedding.precision": "float32", "clustering.method": "dbscan", "policy": "paper",
        "clustering.mode": "certified", "clustering.ties": "simultaneous",
        "control": "random", "reports.columns": {"a": "b"},
        "clustering.second_chance": 0.5, "clustering.recall": 0.9, "graph.min_share": 0.5, "graph.min_purity": 0.5,
        "guard.alpha": 0.5, "guard.nli_threshold": 0.25,
    }  # fmt: skip
    if key in literals:
        return literals[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return (
        f"{value}x"
        if key
        in (
            "output",
            "reports.path",
            "reports.language",
            "embedding.model",
            "guard.nli",
            "guard.scores",
            "guard.calibration",
        )
        else 7
    )


def _with(config: EnrichConfig, key: str, value: Any) -> EnrichConfig:
    section, _, leaf = key.rpartition(".")
    if section:
        value = dataclasses.replace(getattr(config, section), **{leaf: value})
    return dataclasses.replace(config, **{section or leaf: value})


@pytest.mark.parametrize("key", sorted(flatten(EnrichConfig())))
def test_hash_follows_everything_but_how_a_run_is_carried_out(key: str):
    base = EnrichConfig()
    other = _with(base, key, _changed(key, flatten(base)[key]))
    assert flatten(other) != flatten(base)
    assert (config_hash(other) == config_hash(base)) == (key in NOT_HASHED)


@pytest.mark.parametrize("key", FINISHED_RUNS)
def test_of_a_finished_run_it_counts_whether_one_is_given(key: str):
    """Which one it is decides the data hash."""
    kind = next(
        each for each in (ClassifyConfig, FinetuneConfig, AlignConfig, EvaluateConfig) if key in flatten(each())
    )

    def given(path: str) -> dict[str, Any]:
        images = ["--images.path", "images"] if key == "text.enriched" else []  # which such reports need
        return hashed_part(parse(kind, [f"--{key}", path, *images], "job"))

    assert given("runs/one") == given("/elsewhere/runs/one")
    assert given("runs/one")[key] is True
    assert hashed_part(kind())[key] is (flatten(kind())[key] is not None)


def test_not_hashed_names_exist():
    assert set(NOT_HASHED) <= set(flatten(EnrichConfig()))
    assert not set(NOT_HASHED) & set(hashed_part(EnrichConfig()))


def test_hash_does_not_depend_on_how_a_number_was_written(tmp_path: Path):
    spellings = [read("--graph.veto_expected", "2"), read("--graph.veto_expected", "2.0")]
    spellings.append(read("--config", written(tmp_path, "graph: {veto_expected: 2}")))
    assert len({config_hash(config) for config in spellings}) == 1


def test_flat_configuration_is_plain_json():
    flat = flatten(EnrichConfig())
    assert json.loads(json.dumps(flat)) == flat


SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIDEXAMPLE:{SECRET}@bucket/folder",
        f"s3://AKIDEXAMPLE:{SECRET}/K7MDENG@bucket/folder",  # a "/" in the secret
        f"s3://{SECRET}@bucket",
        f"abfs://:{SECRET}@account.blob.core.windows.net/c",
        f"abfs://container:{SECRET}@account.dfs.core.windows.net/c",
        f"abfs://container/path?client_secret={SECRET}",
        f"https://host/reports.csv?sv=2024&sig={SECRET}",
    ],
)
@pytest.mark.parametrize("key", ["output", "reports.path"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(key: str, uri: str):
    with pytest.raises(ConfigError, match=rf"{key} is a URI with credentials.*environment") as caught:
        read(f"--{key}", uri)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/folder",
        "s3://bucket/folder?region=eu-central-1&endpoint_override=localhost:9000",
        "s3://bucket/a@b",
        "gs://anonymous@bucket/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "file:///data/x@y",
        "/data/a:b@c",
        "runs/enrich",
    ],
)
def test_other_places_are_fine(uri: str):
    assert read("--output", uri).output == uri
    assert ReportsConfig(path=uri).path == uri

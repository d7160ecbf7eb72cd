"""jobs/enrich.py as its users run it: words in, exit code, tables, and the same bytes however the work is done."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from runs import (
    ABNORMAL,
    IMPRESSIONS,
    NORMAL,
    SENTINEL,
    Finished,
    Undisturbed,
    arguments_of,
    digests,
    inside,
    marked,
    report,
    script,
    small_reports,
    table,
    tables_of,
    undisturbed,
    write_source,
)

from raymedlt import schema
from raymedlt.config import EnrichConfig, flatten
from raymedlt.job import main

SCHEMAS = {
    "enriched": schema.ENRICHED,
    "additions": schema.ADDITIONS,
    "refusals": schema.REFUSALS,
    "sentences": schema.SENTENCES,
    "clusters": schema.CLUSTERS,
    "edges": schema.EDGES,
}


@pytest.fixture(scope="module")
def done() -> Undisturbed:
    return undisturbed()


@pytest.fixture
def copy(done: Undisturbed, tmp_path: Path) -> Path:
    """A finished run that the test may go on with."""
    return Path(shutil.copytree(done.output, tmp_path / "run"))


# The command line


def test_help_teaches() -> None:
    told = script("--help")
    assert told.returncode == 0
    words = " ".join(told.stdout.split())
    for key in flatten(EnrichConfig()):
        assert f"--{key}" in words
    for line in ("--config", "--print_config", "How the source is laid out", "The same command again resumes"):
        assert line in words


def test_describe_runs_nothing(tmp_path: Path) -> None:
    source = small_reports(tmp_path / "small.csv", 5)
    told = script(*arguments_of(source, tmp_path / "run", "--describe"))
    assert told.returncode == 0, told.stderr
    for word in (str(source), str(tmp_path / "run"), "read", "embed", "write", "report.html", "workers"):
        assert word in told.stdout
    assert SENTINEL not in told.stdout
    assert not (tmp_path / "run").exists()


def test_describe_says_what_is_done(done: Undisturbed, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(done.output)
    assert inside(*arguments_of(done.source, done.output, "--describe")) == 0
    assert "[8 shards done]" in capsys.readouterr().out
    assert digests(done.output) == before


def test_print_config_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        inside("--seed", "7", "--writing.max_added", "2", "--print_config")
    (tmp_path / "seven.yaml").write_text(capsys.readouterr().out)
    source = small_reports(tmp_path / "small.csv", 5)
    words = arguments_of(source, tmp_path / "run", "--describe", shards=False)
    assert inside("--config", str(tmp_path / "seven.yaml"), *words) == 0
    from_file = capsys.readouterr().out
    assert inside("--seed", "7", "--writing.max_added", "2", *words) == 0
    assert capsys.readouterr().out == from_file


def test_an_unknown_key_names_the_nearest() -> None:
    told = script("--writing.max_aded", "3")
    assert told.returncode == 2
    assert "unknown key 'writing.max_aded'" in told.stderr
    assert "the nearest is 'writing.max_added'" in told.stderr
    assert told.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "bold"], "policy"),
        (["--seed", "abc"], "seed"),
        (["--workers", "0"], "workers is 0. Expected: at least 1"),
        (["--clustering.second_chance", "1.5"], r"clustering.second_chance is 1.5. Expected: a cosine in \(0, 1\]"),
        (["--config", "no-such-file.yaml"], "no-such-file.yaml"),
        (["--reports.columns", "{finding: X}", "--reports.path", "{source}", "--reports.format", "csv"], "'finding'"),
    ],
)
def test_bad_values_end_with_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(small_reports(tmp_path / "small.csv", 5))
    assert inside("--output", str(tmp_path / "run"), *(word.replace("{source}", source) for word in words)) == 2
    told = capsys.readouterr()
    assert re.search(message, told.err)
    assert "Traceback" not in told.err
    assert told.out == ""
    assert not (tmp_path / "run").exists()


def test_a_bug_ends_with_1_and_does_not_quote_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(config: EnrichConfig) -> str:
        raise ValueError(f"cannot parse '{SENTINEL}'")

    assert main(EnrichConfig, "job", lambda config: "", broken, []) == 1
    told = capsys.readouterr()
    assert "ValueError" in told.err
    assert "in broken" in told.err
    assert SENTINEL not in told.err + told.out


# A run


def test_what_is_printed(done: Undisturbed) -> None:
    assert done.printed.stdout.splitlines() == [str(done.output / "report.html")]
    assert "<html" in (done.output / "report.html").read_text()
    for stage in ("read", "arrange", "embed", "cluster findings", "cluster impression", "learn", "write", "finish"):
        assert re.search(rf"^{stage}: .*done in ", done.printed.stderr, re.MULTILINE), stage


def test_no_report_text_is_logged_or_kept_in_the_ledger(done: Undisturbed) -> None:
    sentences = [*IMPRESSIONS, *(one for group in (NORMAL, ABNORMAL) for texts in group.values() for one in texts)]
    ledger = " ".join(path.read_text() for path in (done.output / "_ledger").rglob("*.json"))
    told = (done.printed.stdout + done.printed.stderr + ledger).lower()
    assert len(told) > 1_000
    assert [words for words in (SENTINEL, *sentences) if words.lower().rstrip(".") in told] == []


def test_every_row_comes_out_once(done: Undisturbed) -> None:
    enriched = table(done.output, "enriched")
    assert enriched["report_id"].to_pylist() == [report(number)["report_id"] for number in range(400)]
    assert not (done.output / "rejected").exists()
    counts = {status: enriched["status"].to_pylist().count(status) for status in ("enriched", "unchanged")}
    assert counts["enriched"] + counts["unchanged"] == 400
    assert counts["enriched"] > 150
    for row in enriched.to_pylist():
        assert (row["added"] > 0) == (row["status"] == "enriched") == (row["why_unchanged"] == "")


def test_originals_stay_and_additions_can_be_stripped(done: Undisturbed) -> None:
    added = table(done.output, "additions").to_pylist()
    for number, row in enumerate(table(done.output, "enriched").to_pylist()):
        source = report(number)
        assert {name: row[name] for name in ("findings", "impression", "indication", "split")} == {
            name: source[name] for name in ("findings", "impression", "indication", "split")
        }
        assert row["image_ids"] == source["image_ids"].split("|")
        assert row["enriched_findings"].startswith(row["findings"])
        own = [addition["sentence"] for addition in added if addition["report_id"] == row["report_id"]]
        assert len(own) == row["added"]
        assert row["enriched_findings"][len(row["findings"]) :].split() == " ".join(own).split()


def test_only_training_reports_are_touched(done: Undisturbed) -> None:
    others = [row for row in table(done.output, "enriched").to_pylist() if row["split"] != "train"]
    assert len(others) == 40
    for row in others:
        assert (row["status"], row["why_unchanged"]) == ("unchanged", "not training")
        assert row["enriched_findings"] == row["findings"]
    outside = {row["report_id"] for row in others}
    for name in ("additions", "refusals"):
        assert not outside & set(table(done.output, name)["report_id"].to_pylist())


def test_nothing_is_learnt_from_other_splits(done: Undisturbed) -> None:
    """Counts of sentences are those of the training reports alone."""
    total = sum(
        len(re.findall(r"\.", row["findings"])) for row in map(report, range(400)) if row["split"] == "train"
    )  # every made-up sentence ends with its only full stop
    sentences = [row for row in table(done.output, "sentences").to_pylist() if row["section"] == "findings"]
    assert sum(row["count"] for row in sentences) == total


def test_tables_have_the_schemas(done: Undisturbed) -> None:
    for name, expected in SCHEMAS.items():
        files = sorted((done.output / name).glob("*.parquet"))
        assert files, name
        for file in files:
            assert pq.read_schema(file).remove_metadata().names == expected.names
            assert pq.read_table(file).cast(expected).num_rows >= 0


def test_the_folder_is_a_data_set(done: Undisturbed, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.load_dataset(str(done.output), cache_dir=str(tmp_path))["train"]
    plain = datasets.load_dataset("parquet", data_dir=str(done.output / "enriched"), cache_dir=str(tmp_path))["train"]
    for rows in (whole, plain):
        assert rows.num_rows == 400
        assert rows.column_names == schema.ENRICHED.names
        assert rows["report_id"][3] == "r00003"
    for name in ("additions", "refusals", "sentences", "clusters", "edges"):
        rows = datasets.load_dataset(str(done.output), name, cache_dir=str(tmp_path))["train"]
        assert rows.num_rows == table(done.output, name).num_rows
        assert rows.column_names == SCHEMAS[name].names


def test_the_manifest_names_every_file_with_its_sha256(done: Undisturbed) -> None:
    manifest = json.loads((done.output / "manifest.json").read_text())
    found = digests(done.output)
    listed = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
    assert {name: found[name] for name in listed} == listed
    left_out = {name for name in found if name not in listed and not name.startswith("_ledger/")}
    assert left_out == {"manifest.json"}
    assert {"config.yaml", "README.md", "report.html", "model/findings/model.json"} <= listed.keys()
    assert {"torch", "pyarrow", "raymedlt"} <= manifest["versions"].keys()


def test_the_models_assign_their_own_sentences(done: Undisturbed) -> None:
    from raymedlt.clustering import ClusterModel

    rows = table(done.output, "sentences").to_pylist()
    for section in ("findings", "impression"):
        own = [row for row in rows if row["section"] == section and row["assigned"] == "core"]
        assert len(own) > 10
        assigned, distances = ClusterModel.load(str(done.output / "model" / section)).assign(
            [row["sentence_key"] for row in own]
        )
        assert list(assigned) == [row["cluster_id"] for row in own]
        assert len(distances) == len(own)


# The same command again


def test_the_second_run_does_nothing(done: Undisturbed, capsys: pytest.CaptureFixture[str]) -> None:
    before, content = Finished.of(done.output), digests(done.output)
    assert inside(*arguments_of(done.source, done.output)) == 0  # other workers: not another run
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(done.output / "report.html")]
    for stage in ("read", "arrange", "embed", "cluster findings", "write"):
        assert f"{stage}: already done" in told.err
    assert "load encoder" not in told.err
    assert before.written_again(done.output) == []
    assert digests(done.output) == content


def test_a_lost_file_is_made_again(done: Undisturbed, copy: Path) -> None:
    sorted((copy / "enriched").iterdir())[3].unlink()
    assert inside(*arguments_of(done.source, copy)) == 0
    assert tables_of(copy) == tables_of(done.output)


def test_a_run_that_began_on_a_gpu_needs_one(done: Undisturbed, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settled = copy / "_ledger" / "precision" / "choice.json"
    settled.write_text(settled.read_text().replace('"cpu"', '"cuda"'))
    assert inside(*arguments_of(done.source, copy)) == 0, "nothing is left to be embedded"
    next((copy / "_work" / "vectors").iterdir()).unlink()
    capsys.readouterr()
    code = inside(*arguments_of(done.source, copy))
    if torch.cuda.is_available():
        assert code == 0
    else:
        assert code == 2
        assert "this run began on a GPU, and there is none here" in capsys.readouterr().err


def test_without_a_gpu_none_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    source = small_reports(tmp_path / "small.csv", 5)
    assert inside(*arguments_of(source, tmp_path / "run", "--embedding.device", "cuda")) == 2
    assert "embedding.device is 'cuda', and this machine has no GPU" in capsys.readouterr().err


def test_a_changed_configuration_is_refused_by_key(
    done: Undisturbed, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(copy)
    assert inside(*arguments_of(done.source, copy, "--seed", "1", "--graph.min_support", "4")) == 2
    told = capsys.readouterr().err
    assert "seed: 0 -> 1" in told
    assert "graph.min_support: 3 -> 4" in told
    assert "--restart" in told
    assert digests(copy) == before


def test_five_reports_teach_nothing_and_changed_data_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = small_reports(tmp_path / "small.csv", 5), tmp_path / "run"
    assert inside(*arguments_of(source, output)) == 0
    assert set(table(output, "enriched")["status"].to_pylist()) == {"unchanged"}
    assert "No cluster may be added" in (output / "report.html").read_text()
    small_reports(source, 6)
    capsys.readouterr()
    assert inside(*arguments_of(source, output)) == 2
    assert "other input data" in capsys.readouterr().err
    assert table(output, "enriched").num_rows == 5
    assert inside(*arguments_of(source, output, "--restart")) == 0
    assert table(output, "enriched").num_rows == 6


def test_restart_begins_anew(done: Undisturbed, copy: Path) -> None:
    assert inside(*arguments_of(done.source, copy, "--seed", "1", "--restart")) == 0
    assert json.loads((copy / "_ledger/run.json").read_text())["config"]["seed"] == 1
    assert tables_of(copy, ["sentences", "clusters", "edges"]) == tables_of(
        done.output, ["sentences", "clusters", "edges"]
    )
    assert tables_of(copy, ["additions"]) != tables_of(done.output, ["additions"])


def test_a_folder_of_somebody_else_is_left_alone(
    done: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("mine")
    for more in ([], ["--restart"]):
        assert inside(*arguments_of(done.source, tmp_path / "home", *more)) == 2
        assert "files of somebody else" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


# A result depends on inputs, configuration and seed


def test_one_worker_gives_the_same_bytes(done: Undisturbed, tmp_path: Path) -> None:
    assert inside(*arguments_of(done.source, tmp_path / "run", "--workers", "1")) == 0
    assert tables_of(tmp_path / "run") == tables_of(done.output)


def test_shuffled_rows_in_several_files_give_the_same_bytes(done: Undisturbed, tmp_path: Path) -> None:
    rows = [report(number) for number in range(400)]
    random.Random(5).shuffle(rows)
    (tmp_path / "source").mkdir()
    for name, part in (("c.csv", rows[:90]), ("a.csv", rows[90:91]), ("b.csv", rows[91:])):
        write_source(tmp_path / "source" / name, part)
    assert inside(*arguments_of(tmp_path / "source", tmp_path / "run")) == 0
    assert len(marked(tmp_path / "run", "read")) == 3
    assert tables_of(tmp_path / "run") == tables_of(done.output)


@pytest.mark.usefixtures("local_ray")
def test_ray_gives_the_same_bytes_as_threads(
    done: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inside(*arguments_of(done.source, tmp_path / "run", "--ray_from", "0", "--workers", "2")) == 0
    assert "start Ray" in capsys.readouterr().err
    assert tables_of(tmp_path / "run") == tables_of(done.output)


@pytest.mark.usefixtures("local_ray")
def test_clustering_and_second_chances_that_ray_shares_give_the_same_bytes(done: Undisturbed, tmp_path: Path) -> None:
    sparse = ("--clustering.min_samples", "8")  # leaves twelve sentences outside of clusters, and four join one
    assert inside(*arguments_of(done.source, tmp_path / "threads", *sparse)) == 0
    shared = ("--ray_from", "0", "--workers", "2", "--clustering.shard_points", "4")
    assert inside(*arguments_of(done.source, tmp_path / "ray", *sparse, *shared)) == 0
    assert marked(tmp_path / "ray", "neighbours")
    assert len(marked(tmp_path / "ray", "nearest")) > 2
    assert not marked(tmp_path / "threads", "nearest")
    assert tables_of(tmp_path / "ray") == tables_of(tmp_path / "threads")


def test_another_batch_size_keeps_the_clusters(done: Undisturbed, tmp_path: Path) -> None:
    """In the default precision: on a CPU a vector depends on its sentence alone, so not even a byte differs."""
    for batch in (7, 32):
        words = ("--embedding.shard_sentences", "64", "--embedding.batch_sentences", str(batch))
        assert inside(*arguments_of(done.source, tmp_path / f"run-{batch}", *words, shards=False)) == 0
    tables = ("enriched", "additions", "sentences", "clusters")
    assert tables_of(tmp_path / "run-7", tables) == tables_of(tmp_path / "run-32", tables)

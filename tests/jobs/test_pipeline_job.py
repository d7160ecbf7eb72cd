"""`python jobs/pipeline.py` as its users run it: stopped, gone on with, failing. All reports were made up."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import ROOT, SENTINEL, SMALL_SHARDS, descendants, digests, environment, tables_of, undisturbed

from raymedlt.alignment.config import AlignConfig
from raymedlt.classifier.config import ClassifyConfig, SyntheticConfig
from raymedlt.config import EnrichConfig, ReportsConfig, config_hash, to_yaml
from raymedlt.errors import ConfigError
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.images.config import ImageLabelsConfig, ImagesConfig
from raymedlt.job import main
from raymedlt.ledger import Ledger
from raymedlt.parsing import parse
from raymedlt.pipeline.config import STAGES, PipelineConfig
from raymedlt.pipeline.headlines import Headline
from raymedlt.pipeline.page import Shown, pipeline_page
from raymedlt.pipeline.running import Pipeline, describe, inputs_hash, run
from raymedlt.pipeline.steps import steps_of
from raymedlt.storage import Storage

PROGRAM = "python jobs/pipeline.py"
SMALL = [f"--enrich.{word.removeprefix('--')}" if word.startswith("--") else word for word in SMALL_SHARDS]


def inside(*words: str | Path) -> int:
    """The job in this process, its stages in theirs; its exit code."""
    return main(PipelineConfig, PROGRAM, describe, run, [str(word) for word in words])


def start(words: list[str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "jobs/pipeline.py", *words],
            cwd=ROOT, env=environment(), stdout=file, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def words_of(source: Path, output: Path) -> list[str]:
    source_words = ["--reports.path", str(source), "--reports.format", "csv", "--output", str(output)]
    return [*source_words, *SMALL, "--evaluate.parts", "[injection]"]


@pytest.mark.slow
def test_stopped_gone_on_with_and_failing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole = undisturbed()
    output, log = tmp_path / "pipeline", tmp_path / "log"
    words = words_of(whole.source, output)

    process = start([*words, "--stages", "[enrich]"], log)
    ends = time.monotonic() + 200
    while not list(output.glob("enrich/_ledger/*/*.json")):  # the job is at work
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends
        time.sleep(0.01)
    jobs = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 143
    assert jobs
    assert not [pid for pid in jobs if Path(f"/proc/{pid}").exists()]
    assert "the same command again" in log.read_text()
    assert not (output / "enrich" / "manifest.json").exists()

    # Gone on with; the stages behind enrich that weren't asked for are missing to one evaluation, which says so.
    assert inside(*words, "--stages", "[enrich,evaluate]") == 2
    told = capsys.readouterr()
    assert "step 'evaluate-synthesis' failed with exit code 2" in told.err
    assert told.out == ""
    assert tables_of(output / "enrich") == tables_of(whole.output)
    assert json.loads((output / "evaluate-enrichment" / "evaluation.json").read_text())["parts"]
    page = (output / "report.html").read_text()
    assert '<a href="enrich/report.html">' in page
    assert '<a href="evaluate-enrichment/report.html">' in page
    assert 'href="evaluate-synthesis' not in page
    assert '<span class="tag tag-failed">failed</span>' in page
    assert SENTINEL not in page + told.err + log.read_text()

    # What has ended isn't even started again.
    before = digests(output / "enrich")
    assert inside(*words, "--stages", "[enrich]") == 0
    told = capsys.readouterr()
    assert "step 1 of 1, enrich: already done" in told.err
    assert told.out.splitlines() == [str(output / "report.html")]
    assert digests(output / "enrich") == before
    listed = {each["name"]: each["sha256"] for each in json.loads((output / "manifest.json").read_text())["files"]}
    found = digests(output)
    assert {name: found[name] for name in listed} == listed
    assert {"report.html", "configs/enrich.yaml", "configs/evaluate-enrichment.yaml"} <= listed.keys()

    # A changed section is refused by its job, and the page says that what is there is of another configuration.
    kept = (output / "configs" / "enrich.yaml").read_bytes()
    assert inside(*words, "--stages", "[enrich]", "--enrich.variants", "2") == 2
    assert "--restart --stages '[enrich]'" in capsys.readouterr().err
    assert "of an earlier configuration" in (output / "report.html").read_text()
    assert (output / "configs" / "enrich.yaml").read_bytes() == kept
    assert inside(*words, "--stages", "[enrich]") == 0
    assert "already done" in capsys.readouterr().err

    # So are changed reports.
    lines = whole.source.read_text().splitlines(keepends=True)
    source = tmp_path / "fewer.csv"
    source.write_text("".join(lines[:-1]))
    assert inside(*words_of(source, output), "--stages", "[enrich]") == 2
    told = capsys.readouterr().err
    assert "already done" not in told
    assert "step 'enrich' failed with exit code 2" in told


# What is run, and with what


def configured(*words: str) -> PipelineConfig:
    return parse(PipelineConfig, list(words), PROGRAM)


def test_each_job_reads_what_the_ones_before_it_left():
    steps = {step.name: step for step in steps_of(configured("--output", "o/", "--seed", "7", "--workers", "1"))}
    assert {step.stage for step in steps.values()} == set(STAGES)
    assert {name: step.config.output for name, step in steps.items()} == {name: f"o/{name}" for name in steps}
    assert {step.config.seed for step in steps.values()} == {7}
    assert steps["classify"].config.synthetic.path == "o/synthesize"
    assert steps["classify-real"].config.synthetic.path is None
    with_drawn, without = (dataclasses.replace(steps[name].config, output="") for name in ("classify", "classify-real"))
    assert dataclasses.replace(with_drawn, synthetic=without.synthetic) == without
    assert steps["classify"].config.phantom == steps["synthesize"].config.phantom
    assert steps["align"].config.finetuned == "o/finetune"
    assert [(step.config.run, step.config.against) for step in steps.values() if step.stage == "evaluate"] == [
        ("o/enrich", None), ("o/synthesize", None), ("o/classify", "o/classify-real"), ("o/align", "o/finetune"),
    ]  # fmt: skip
    order = list(steps)
    for step in steps.values():
        assert all(order.index(name) < order.index(step.name) for name in step.needs)
    assert steps["finetune"].config.text.use == "enriched"


def test_steps_stay_done_however_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    ways = [steps_of(configured("--output", output)) for output in ("runs/way", str(tmp_path / "runs" / "way"))]
    assert len(ways[0]) == 10
    for one, other in zip(*ways, strict=True):
        assert config_hash(one.config) == config_hash(other.config), one.name


def test_settings_in_the_outputs_uri_stay_behind_each_folder():
    output = "s3://bucket/run?scheme=http&endpoint_override=localhost%3A9"
    steps = {step.name: step for step in steps_of(configured("--output", output))}
    assert steps["enrich"].config.output == "s3://bucket/run/enrich?scheme=http&endpoint_override=localhost%3A9"
    assert steps["align"].config.finetuned == steps["finetune"].config.output


def test_changed_reports_images_or_labels_are_other_inputs(tmp_path: Path):
    reports, labels, image = tmp_path / "r.csv", tmp_path / "l.csv", tmp_path / "i" / "a.png"
    image.parent.mkdir()
    for path, text in ((reports, "report_id,findings\n1,Clear.\n"), (labels, "image\n"), (image, "x")):
        path.write_text(text)
    words = ["--reports.path", str(reports), "--reports.format", "csv", "--images.path", str(image.parent)]
    steps = steps_of(configured("--output", str(tmp_path / "out"), *words, "--labels.path", str(labels)))

    def now() -> dict[str, str]:
        return {step.name: inputs_hash(step) for step in steps}

    def changed(path: Path) -> set[str]:
        before = now()
        path.write_text(path.read_text() + "\n")
        after = now()
        return {name for name in before if before[name] != after[name]}

    assert changed(reports) == {"enrich"}
    assert changed(labels) == {"synthesize", "classify-real", "classify"}
    assert changed(image) == {"synthesize", "classify-real", "classify", "finetune"}


def test_own_images_go_through_all_jobs():
    words = ["--reports.path", "r.csv", "--reports.format", "csv", "--images.path", "i", "--labels.path", "l.csv"]
    steps = {step.name: step for step in steps_of(configured("--output", "o", *words))}
    assert steps["finetune"].config.text.enriched == "o/enrich"
    assert steps["finetune"].needs == ("enrich",)
    for name in ("synthesize", "classify", "finetune"):
        assert steps[name].config.images.path == "i"
    assert steps["classify"].config.labels.path == "l.csv"


@pytest.mark.parametrize("name", ["enrich", "classify", "align", "evaluate-generation"])
def test_what_a_job_is_given_is_what_it_reads(name: str, tmp_path: Path):
    step = next(each for each in steps_of(configured("--output", str(tmp_path))) if each.name == name)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(step.config))
    assert parse(type(step.config), ["--config", str(file)], "job") == step.config


def test_sections_of_a_file_keep_the_demonstrations_other_values(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    sections: dict[str, Any] = {"synthesize": {"plan": {"cap": 9}}, "align": {"training": {"steps": 4}}}
    file.write_text(yaml.safe_dump(sections))
    found, usual = configured("--config", str(file)), PipelineConfig()
    assert (found.synthesize.plan.cap, found.align.training.steps) == (9, 4)
    assert found.synthesize.learning == usual.synthesize.learning
    assert found.finetune == usual.finetune


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"stages": []}, r"stages is \[\]"),
        ({"classify": ClassifyConfig(seed=3)}, "classify.seed is 3. Expected: nothing: give it once, as --seed"),
        (
            {"enrich": EnrichConfig(reports=ReportsConfig(path="x"))},
            "enrich.reports is .*give it once, as --reports",
        ),
        ({"align": AlignConfig(finetuned="x")}, "align.finetuned is 'x'. Expected: nothing: the pipeline sets it"),
        ({"evaluate": EvaluateConfig(output="x")}, "evaluate.output is 'x'"),
        ({"classify": ClassifyConfig(synthetic=SyntheticConfig(path="x"))}, "classify.synthetic.path is 'x'"),
        ({"images": ImagesConfig(path="x")}, "the reports of the images"),
        ({"labels": ImageLabelsConfig(path="x")}, "images.path and labels.path together"),
        ({"output": "s3://key:secret@bucket/run"}, "credentials"),
    ],
)
def test_bad_values(sections: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as error:
        PipelineConfig(**sections)
    assert "secret" not in str(error.value)


def test_what_is_given_once_may_be_given_again():
    assert PipelineConfig(seed=3, classify=ClassifyConfig(seed=3)).classify.seed == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "[enrich,train]"], "train"),
        (["--synthesize.lerning.steps", "3"], "the nearest is 'synthesize.learning.steps'"),
    ],
)
def test_bad_words(words: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        configured(*words)


def test_describe_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert inside("--output", tmp_path / "out", "--stages", "[align]", "--describe") == 0
    told = capsys.readouterr().out
    for step in steps_of(PipelineConfig()):
        assert f"{step.name} " in told
    assert told.count("[not asked for]") == 9
    assert not (tmp_path / "out").exists()


def test_somebody_elses_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis.tex").write_text("x")
    assert inside("--output", tmp_path) == 2
    assert "somebody else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_page_links_and_escapes():
    config = PipelineConfig()
    shown = [
        Shown(step=step, state="done", headline=Headline([("<b>", "<i>1</i>")], "a <u>result</u>"), seconds=61.0)
        if step.stage != "align"
        else Shown(step=step, state="not done yet", headline=None, seconds=0.0)
        for step in steps_of(config)
    ]
    page = pipeline_page(config, shown, command="python jobs/pipeline.py")
    assert "9 of 10 steps done, in 9 min" in page
    assert "<i>1</i>" not in page
    assert "&lt;i&gt;1&lt;/i&gt;" in page
    for step in steps_of(config):
        assert (f'href="{step.name}/report.html"' in page) == (step.stage != "align")
    assert "not done yet" in page


def test_where_no_drawn_image_was_accepted_there_is_nothing_to_compare(tmp_path: Path):
    storage = Storage.of(str(tmp_path))
    with Ledger.open(storage, config_hash="pipeline", config={}, data_hash="pipeline") as ledger:
        storage.write_bytes("synthesize/manifest.json", b"{}")
        storage.write_bytes("synthesize/metrics.json", b'{"accepted": 0}')
        Pipeline(PipelineConfig(output=str(tmp_path)), storage, ledger).write_page()
        assert (tmp_path / "report.html").read_text().count("left out: no drawn image was accepted") == 2
        storage.write_bytes("synthesize/metrics.json", b'{"accepted": 1}')
        Pipeline(PipelineConfig(output=str(tmp_path)), storage, ledger).write_page()
        assert "left out" not in (tmp_path / "report.html").read_text()

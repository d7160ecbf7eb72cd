"""The jobs one after the other, each a process of its own: its memory, threads and Ray end with it.

Every job resumes by itself; what the pipeline keeps is which of them have ended, with which configuration and from
which inputs, so that finished ones aren't even started again. Below the output:

    <step>/          what the job left (see steps.py)
    configs/         each job's resolved configuration, as it was started
    timings.json     seconds of each step, over all calls; and of its processes, Ray's workers not among them
    report.html      a card for each step, written anew after every one
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raymedlt import __version__
from raymedlt.again import command_line, same_command
from raymedlt.config import config_hash, to_yaml
from raymedlt.errors import InputError, InterruptedRun, RaymedltError
from raymedlt.images.config import DataConfig, ImageLabelsConfig
from raymedlt.images.stages import data_parts
from raymedlt.ledger import Ledger
from raymedlt.pipeline.config import PipelineConfig
from raymedlt.pipeline.headlines import Headline, accepted_images, headline
from raymedlt.pipeline.page import Shown, pipeline_page
from raymedlt.pipeline.steps import Step, steps_of
from raymedlt.progress import Progress
from raymedlt.reports.readers import open_reader
from raymedlt.runtime import private_by_default
from raymedlt.storage import FileEntry, Storage, content_hash, sha256_of

JOBS = Path(__file__).resolve().parents[2] / "jobs"
CHILD = Path(__file__).with_name("child.py")
PAGE, MANIFEST, TIMINGS = "report.html", "manifest.json", "timings.json"
STEP = "step"
STOPPED = 143
NOTHING_ACCEPTED = "left out: no drawn image was accepted"


def describe(config: PipelineConfig) -> str:
    """What `run` would do; runs nothing."""
    storage = Storage.of(config.output)
    steps = steps_of(config)
    lines = ["raymedlt pipeline: what would be done (nothing was run)", "", f"output  {storage.uri}", ""]
    for step in steps:
        asked = step.stage in config.stages
        there = storage.exists(f"{step.name}/{MANIFEST}")
        state = "  [finished]" if there else "" if asked else "  [not asked for]"
        lines.append(f"{step.name:<20} jobs/{step.stage}.py: {step.does}{state}")
    lines += ["", f"page    {PAGE}, and one in each folder"]
    return "\n".join(lines)


def run(config: PipelineConfig) -> str:
    """Do the stages that were asked for and aren't finished; return the page's path or URI.

    Raises:
        InputError: a job found its arguments or input unusable.
        RunConflictError: the output folder is somebody else's, or another pipeline is at work in it.
        InterruptedRun: SIGTERM; the same command goes on.
        RaymedltError: a job failed.
    """
    private_by_default()
    storage = Storage.of(config.output)
    # Each job compares its own configuration and data with those of its folder.
    with Ledger.open(storage, config_hash="pipeline", config={}, data_hash="pipeline", job="pipeline") as ledger:
        return Pipeline(config, storage, ledger).work()


class Pipeline:
    """One call of the job."""

    def __init__(self, config: PipelineConfig, storage: Storage, ledger: Ledger) -> None:
        self.config, self.storage, self.ledger = config, storage, ledger
        self.progress = Progress()
        self.steps = steps_of(config)
        self.timings: dict[str, dict[str, float]] = (
            json.loads(storage.read_bytes(TIMINGS)) if storage.exists(TIMINGS) else {}
        )

    def work(self) -> str:
        """All steps in their order, and the page after each one."""
        chosen = [step for step in self.steps if step.stage in self.config.stages]
        for number, step in enumerate(chosen, 1):
            where = f"step {number} of {len(chosen)}, {step.name}"
            if self._left_out(step):
                self.progress.say(f"{where}: {NOTHING_ACCEPTED}")
            elif not self.config.restart and self._finished(step):
                self.progress.say(f"{where}: already done")
            else:
                self.progress.say(f"{where}: {step.does}")
                self._do(step)
                self.write_page()
        self.write_page()
        return f"{self.storage.uri.rstrip('/')}/{PAGE}"

    def _left_out(self, step: Step) -> bool:
        """Whether it is about drawn images and the gate accepted none."""
        folder = self.storage.sub("synthesize")
        asks = step.name in ("classify", "evaluate-classifier")
        return asks and folder.exists(MANIFEST) and accepted_images(folder) == 0

    def _finished(self, step: Step) -> bool:
        """Whether the job has ended with this configuration, from inputs as they are now."""
        known = self.ledger.done(STEP, step.name)
        return known is not None and known == self._state(step)

    def _state(self, step: Step) -> dict[str, Any]:
        """What is kept of a finished step."""
        manifests = {name: self._manifest(name) for name in (step.name, *step.needs)}
        return {"configuration": config_hash(step.config), "inputs": inputs_hash(step), "manifests": manifests}

    def _manifest(self, name: str) -> str:
        file = f"{name}/{MANIFEST}"
        return sha256_of(self.storage.read_bytes(file)) if self.storage.exists(file) else ""

    def _do(self, step: Step) -> None:
        """Run the job to its end and remember that."""
        file = f"configs/{step.name}.yaml"
        before = self.storage.read_bytes(file) if self.storage.exists(file) else None
        entry = self.storage.write_bytes(file, to_yaml(step.config).encode())
        began, used = time.monotonic(), _cpu_seconds()
        try:
            code = self._start(step)
        finally:
            self._add_time(step.name, time.monotonic() - began, _cpu_seconds() - used)
        if code == STOPPED:
            raise InterruptedRun(f"step '{step.name}' was stopped", "", f"give {same_command()} again: it goes on")
        if code != 0:
            if before is not None:  # what lies in the step's folder was made with that
                self.storage.write_bytes(file, before)
            self.write_page(failed=step.name)
            raise _failed(step, code)
        self.ledger.commit(STEP, step.name, [entry], self._state(step))

    def _start(self, step: Step) -> int:
        """The job's exit code. On SIGTERM or Ctrl-C the job is stopped first, cleanly."""
        with contextlib.ExitStack() as stack:
            if self.storage.is_local:
                file = self.storage.path(f"configs/{step.name}.yaml")
            else:
                file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".yaml")).name
                Path(file).write_bytes(to_yaml(step.config).encode())
            words = [sys.executable, str(CHILD), str(JOBS / f"{step.stage}.py"), "--config", file]
            process = subprocess.Popen(
                [*words, *(["--restart"] if self.config.restart else [])],
                stdout=subprocess.DEVNULL,  # the path of its page; standard output is for ours
                start_new_session=True,  # Ctrl-C would reach it twice, and the second one kills
            )
            try:
                return process.wait()
            except BaseException:
                process.send_signal(signal.SIGTERM)
                process.wait()
                raise

    def _add_time(self, name: str, seconds: float, cpu_seconds: float) -> None:
        before = self.timings.get(name, {"seconds": 0.0, "cpu_seconds": 0.0})
        self.timings[name] = {
            "seconds": before["seconds"] + seconds, "cpu_seconds": before["cpu_seconds"] + cpu_seconds
        }  # fmt: skip
        self.storage.write_bytes(TIMINGS, _json(self.timings))

    def write_page(self, failed: str = "") -> None:
        """The page as things stand, and what lies beside it."""
        shown = [self._shown(step, failed) for step in self.steps]
        figures = {each.step.name: dict(each.headline.figures) for each in shown if each.headline is not None}
        page = pipeline_page(self.config, shown, command=command_line())
        entries: list[FileEntry] = [
            self.storage.write_bytes(PAGE, page.encode()),
            self.storage.write_bytes("metrics.json", _json(figures)),
            self.storage.write_bytes("config.yaml", to_yaml(self.config).encode()),
            *(entry for marker in self.ledger.shards(STEP).values() for entry in marker.files),
        ]
        manifest = {
            "configuration": content_hash(*(config_hash(step.config) for step in self.steps)),
            "versions": {"raymedlt": __version__},
            "steps": {each.step.name: self._manifest(each.step.name) for each in shown if each.headline is not None},
            "files": [entry.to_json() for entry in entries],
        }
        self.storage.write_bytes(MANIFEST, _json(manifest))

    def _shown(self, step: Step, failed: str) -> Shown:
        marker = self.ledger.done(STEP, step.name)
        found: Headline | None = None
        state = "failed" if step.name == failed else "not done yet"
        if marker is not None and self._manifest(step.name):
            found, state = headline(step, self.storage.sub(step.name)), "done"
            if marker != self._state(step):
                state = "of an earlier configuration"
        elif self._left_out(step):
            state = NOTHING_ACCEPTED
        times: Mapping[str, float] = self.timings.get(step.name, {})
        return Shown(step=step, state=state, headline=found, seconds=times.get("seconds", 0.0))


def inputs_hash(step: Step) -> str:
    """Of what the job reads beside earlier steps' results, as its ledger tells inputs apart; not of weights."""
    config = step.config
    if step.stage == "enrich":
        source = config.reports
        reader = open_reader(source.path, source.format, source.columns, source.language, source.max_chars)
        return content_hash(*(part for unit in reader.units() for part in (unit.name, unit.fingerprint)))
    if step.stage in ("synthesize", "classify", "finetune"):
        labels = ImageLabelsConfig() if step.stage == "finetune" else config.labels
        return content_hash(*data_parts(DataConfig(images=config.images, labels=labels), config.output))
    return content_hash()


def _failed(step: Step, code: int) -> RaymedltError:
    kind = InputError if code == InputError.exit_code else RaymedltError
    killed = f" ({signal.Signals(-code).name}; short of memory?)" if code < 0 else ""
    return kind(
        f"step '{step.name}' failed with exit code {code}{killed}; jobs/{step.stage}.py says why above",
        "exit code 0",
        f"mend that and give {same_command()} again: finished steps are kept. A changed section `{step.stage}` begins "
        f"its jobs anew with --restart --stages '[{step.stage}]'; the stages behind it then need the same",
    )


def _cpu_seconds() -> float:
    """Of all processes that were started here and have ended, and of those that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()

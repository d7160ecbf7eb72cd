"""No sentence of a report in any log: enrich, finetune and align on Ray with faults, and all they said, searched.

    python benchmarks/log_scrub.py                     # a quarter of an hour on two cores
    python benchmarks/log_scrub.py --reports 20000 --jobs enrich

Made-up reports, each with a word that nobody else writes, and bad rows among them; images of some; jobs/finetune.py
on the enriched ones, jobs/align.py on its model, both with two replicas. Of each job the first run ends with an
exception whose message quotes reports, raised in a worker or replica; in the second a worker or replica is killed, and
then the driver; the third goes on to the end. Align is given a reward that raises with what it was given, too. Searched
for that word and for the reports' sentences: standard output and error, all of Ray's session logs (workers, raylet,
GCS, dashboard), the run's ledger, and its configuration, manifest, timings and `rejected` table. Bar: 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from common import report

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "jobs"))
from runs import (
    QUICK_FINETUNE,
    ROOT,
    SENTINEL,
    arguments_of,
    descendants,
    environment,
    quoted,
    quoted_below,
    wait_for,
    write_source,
)
from runs import report as made_up

QUOTES = '''
import importlib.util, os, sys
FLAG = os.environ.get("LOG_SCRUB_FLAG", "")
class Break:
    """Makes functions quote what they were given and what they made of it, while the flag names them."""
    def __init__(self, module, names):
        self.module, self.names = module, names
    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        plain = spec.loader.exec_module
        def exec_module(module):
            plain(module)
            *owners, last = self.names.split(".")
            owner = module
            for each in owners:
                owner = getattr(owner, each)
            setattr(owner, last, quoting(f"{self.module}:{self.names}", getattr(owner, last)))
        spec.loader.exec_module = exec_module
        return spec
def quoting(name, unbroken):
    def broken(*given):
        made = unbroken(*given)
        if os.path.exists(FLAG) and open(FLAG).read() == name:
            raise ValueError(f"{made} {given}"[:20000])
        return made
    return broken
if FLAG:
    for each in os.environ["LOG_SCRUB_BREAKS"].split():
        sys.meta_path.insert(0, Break(*each.split(":")))
'''
REWARD = """
import os
def quoting(completions, references, model):
    if os.path.exists(os.environ["LOG_SCRUB_FLAG"]):
        raise ValueError(f"{completions} {references}")
    return [0.5] * len(completions)
"""
IMAGES = 400
"""Reports that have one."""


class Case(NamedTuple):
    """A job and its faults."""

    job: str
    words: list[str]
    breaks: str
    """The function that quotes, module:name."""
    begun: str
    """A file in the output whose coming says that the processes to be killed are at work."""
    victim: str
    """What their command lines begin with."""
    later: str
    """A pattern of files in the output; when they change after that, the driver is killed."""


class Scrub:
    """A folder with runs of jobs and Ray's logs of them all."""

    def __init__(self, folder: Path, breaks: list[str]) -> None:
        self.folder, self.flag, self.said = folder, folder / "flag", folder / "said"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(QUOTES)
        (folder / "site" / "quoting_reward.py").write_text(REWARD)
        self.environment = environment(
            RAY_TMPDIR=str(folder / "ray"), LOG_SCRUB_FLAG=str(self.flag), LOG_SCRUB_BREAKS=" ".join(breaks)
        )
        self.environment["PYTHONPATH"] = f"{folder / 'site'}{os.pathsep}{self.environment['PYTHONPATH']}"

    def start(self, case: Case, *more: str) -> subprocess.Popen[str]:
        """The job, in a session of its own."""
        with self.said.open("a") as file:
            return subprocess.Popen(
                [sys.executable, f"jobs/{case.job}.py", *case.words, "--output", str(self.folder / case.job), *more],
                cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip

    def run(self, case: Case) -> dict[str, Any]:
        """The three runs of a job: exit codes of those that were not killed, and whether the exception was seen."""
        self.flag.write_text(case.breaks)
        before = len(self.text())
        quoting = self.start(case).wait(timeout=900)
        seen = "ValueError" in self.text()[before:]
        self.flag.unlink()
        output, driver = self.folder / case.job, self.start(case)
        wait_for((output / case.begun).exists, driver, 600)
        self.kill_one(case.victim, driver)
        stood = times_of(output, case.later)
        wait_for(lambda: times_of(output, case.later) != stood, driver, 600)
        family = descendants(driver.pid)
        driver.kill()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        driver.wait()
        return {"quoting": quoting, "the exception was seen": seen, "at the end": self.start(case).wait(timeout=1200)}

    def kill_one(self, victim: str, driver: subprocess.Popen[str]) -> None:
        """Kill the first process of that name."""
        found: list[int] = []
        while not found and driver.poll() is None:
            found = [pid for pid, line in descendants(driver.pid).items() if line.startswith(victim)]
        for pid in found[:1]:
            os.kill(pid, signal.SIGKILL)

    def text(self) -> str:
        """What the runs said."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def logs(self) -> list[Path]:
        """The folders of Ray's logs, one for each session."""
        return [path for path in (self.folder / "ray").rglob("logs") if path.is_dir() and not path.parent.is_symlink()]

    def quotes(self, jobs: list[str]) -> dict[str, list[str]]:
        """Files that quote reports, and which texts."""
        found = {"said": quoted(self.said.read_bytes())}
        for place in [*self.logs(), *(self.folder / job / name for job in jobs for name in ("_ledger", "rejected"))]:
            found |= {f"{place.relative_to(self.folder)}/{name}": texts for name, texts in quoted_below(place).items()}
        for job in jobs:
            for name in ("config.yaml", "manifest.json", "timings.json"):
                file = self.folder / job / name
                found[f"{job}/{name}"] = quoted(file.read_bytes()) if file.exists() else ["the run did not end well"]
        return {name: texts for name, texts in found.items() if texts}


def times_of(output: Path, pattern: str) -> dict[str, int]:
    """When the files of that pattern were written."""
    with contextlib.suppress(FileNotFoundError):  # one was replaced just now: another look shows it
        return {path.name: path.stat().st_mtime_ns for path in output.glob(pattern)}
    return {}


def bring(folder: Path, count: int) -> Path:
    """The reports, with bad rows, and images of some of them; returns the table's path."""
    from raymedlt.images.phantom import draw
    from raymedlt.images.phantom_cohort import cohort, findings_of
    from raymedlt.synthesis.sampler import encode_png

    splits = {8: "validation", 9: "test"}  # of patients, who have two reports each
    rows = (made_up(number) | {"split": splits.get(number // 2 % 10, "train")} for number in range(count))
    source = write_source(folder / "r.csv", rows)
    with source.open("ab") as file:
        file.write(f"bad,,,train,A {SENTINEL}.\nworse,,,train,A {SENTINEL} \xff.,,,/etc/passwd\n".encode("latin-1"))
    for number, row in enumerate(cohort(IMAGES, seed=3, test_images=0, test_positives=0).table.to_pylist()):
        place = folder / "images" / str(number)
        place.mkdir(parents=True)
        pixels = draw(findings_of(row["findings"]), seed=3, image_id=row["image_id"], size=32)
        (place / "frontal.png").write_bytes(encode_png(pixels))
    return source


def cases(folder: Path, source: Path) -> dict[str, Case]:
    """By job, in their order."""
    model = [word for word in QUICK_FINETUNE if not word.startswith("--phantom")]
    enriched = arguments_of(source, folder / "enrich", "--ray_from", "0", "--workers", "2")
    return {
        "enrich": Case(
            "enrich", enriched, "raymedlt.enrichment.corpus:sentences_of", "_ledger/precision",
            "ray::Map(do_shard)", "_ledger/embed/*.json",
        ),
        "finetune": Case(
            "finetune",
            [*model, "--images.path", str(folder / "images"), "--text.enriched", str(folder / "enrich"),
             "--text.use=enriched", "--training.epochs=4", "--training.replicas=2"],
            "raymedlt.finetuning.processing:ComposedProcessing._all_ids", "_work/train/model/latest.json",
            "ray::RayTrainWorker", "_work/train/model/latest.json",
        ),
        "align": Case(
            "align",
            ["--finetuned", str(folder / "finetune"), "--rollouts.prompts=2", "--rollouts.generations=4",
             "--rollouts.max_tokens=24", "--training.steps=8", "--training.micro_batch=4",
             "--training.checkpoint_steps=2", "--training.validation=8", "--bootstrap=50",
             "--training.precision=float32", "--training.replicas=2"],
            "raymedlt.alignment.learning:_references", "_work/policy/latest.json",
            "ray::RayTrainWorker", "_work/policy/latest.json",
        ),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=2_000)
    parser.add_argument(
        "--jobs", nargs="+", choices=["enrich", "finetune", "align"], default=["enrich", "finetune", "align"],
        help="each needs those before it",
    )  # fmt: skip
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))  # short: Ray keeps sockets in there
    every = cases(folder, bring(folder, given.reports))
    scrub = Scrub(folder, [each.breaks for each in every.values()])
    codes: dict[str, Any] = {}
    print(f"in {folder}", file=sys.stderr)
    for job in given.jobs:
        codes[job] = scrub.run(every[job])
        print(f"{job}: {codes[job]}", file=sys.stderr, flush=True)
    wrong = [job for job, each in codes.items() if list(each.values()) != [1, True, 0]]
    if "align" in given.jobs:
        codes["a reward that quotes"] = quoting_reward(scrub, every["align"])
    logs = scrub.logs()
    searched = [path for place in logs for path in place.rglob("*") if path.is_file()]
    found = scrub.quotes(given.jobs)
    report(
        "log_scrub",
        {
            "reports": given.reports,
            "exit codes": codes,
            "Ray's sessions": len(logs),
            "log files": len(searched),
            "bytes of logs": sum(path.stat().st_size for path in searched),
            "files that quote a report": found,
            "bars": "0 files; of each job the first run fails with 1 and names ValueError, the last ends with 0",
            "not as expected": wrong,
        },
    )
    good = not found and not wrong and len(logs) >= 3 * len(given.jobs)
    if good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"kept: {folder}", file=sys.stderr)
    return int(not good)


def quoting_reward(scrub: Scrub, case: Case) -> int | None:
    """The exit code of an alignment whose reward raises as soon as its training has begun."""
    output = scrub.folder / "tubes"
    job = scrub.start(case, "--rewards.use", "[quoting_reward:quoting]", "--output", str(output))
    wait_for((output / "_work" / "policy" / "latest.json").exists, job, 600)
    scrub.flag.write_text("a reward")
    code = job.wait(timeout=900)
    scrub.flag.unlink()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

"""No sentence of a report in any log: a run of jobs/enrich.py on Ray with faults, and everything it said, searched.

    python benchmarks/log_scrub.py                     # some minutes
    python benchmarks/log_scrub.py --reports 20000

Made-up reports, each with a word that nobody else writes, and bad rows among them. The first run ends with an exception
whose message quotes a report, raised in a worker while sentences are cut; in the second a worker is killed while
sentences are embedded, and then the driver; the third goes on to the end. Searched for that word and for the reports'
sentences: standard output and error, all of Ray's session logs (workers, raylet, GCS, dashboard), the run's ledger, and
its configuration, manifest, timings and `rejected` table. Bar: 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from common import report

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "jobs"))

QUOTES = '''
import importlib.util, os, sys
class Break:
    """Makes `sentences_of` quote its reports in an exception, while the flag lies there."""
    def find_spec(self, name, path=None, target=None):
        if name != "raymedlt.enrichment.corpus":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        plain = spec.loader.exec_module
        def exec_module(module):
            plain(module)
            unbroken = module.sentences_of
            def sentences_of(reports):
                if os.path.exists(os.environ["LOG_SCRUB_FLAG"]):
                    raise ValueError(str(reports["findings"].to_pylist()[:50]))
                return unbroken(reports)
            module.sentences_of = sentences_of
        spec.loader.exec_module = exec_module
        return spec
if "LOG_SCRUB_FLAG" in os.environ:
    sys.meta_path.insert(0, Break())
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=2_000)
    count = parser.parse_args().reports
    from runs import (
        JOB,
        ROOT,
        SENTINEL,
        arguments_of,
        descendants,
        environment,
        marked,
        quoted,
        quoted_below,
        small_reports,
        wait_for,
    )

    folder = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))  # short: Ray keeps sockets in there
    source, output, flag, said = (
        small_reports(folder / "r.csv", count),
        folder / "run",
        folder / "flag",
        folder / "said",
    )
    with source.open("ab") as file:
        file.write(f"bad,,,train,A {SENTINEL}.\nworse,,,train,A {SENTINEL} \xff.,,,/etc/passwd\n".encode("latin-1"))
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(QUOTES)
    own = environment(RAY_TMPDIR=str(folder / "ray"), LOG_SCRUB_FLAG=str(flag))
    own["PYTHONPATH"] = f"{folder / 'site'}{os.pathsep}{own['PYTHONPATH']}"
    words = arguments_of(source, output, "--ray_from", "0", "--workers", "2")

    def start() -> subprocess.Popen[str]:
        with said.open("a") as file:
            return subprocess.Popen(
                [sys.executable, JOB, *words],
                cwd=ROOT, env=own, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip

    flag.touch()
    quoting = start().wait(timeout=600)
    flag.unlink()
    driver, killed = start(), 0
    wait_for(lambda: marked(output, "precision"), driver, 300)
    while not killed and driver.poll() is None:
        found = [pid for pid, line in descendants(driver.pid).items() if line.startswith("ray::Map(do_shard)")]
        for pid in found[:1]:
            os.kill(pid, signal.SIGKILL)
            killed = pid
    wait_for(lambda: len(marked(output, "embed")) > 1, driver, 300)
    family = descendants(driver.pid)
    driver.kill()
    for pid in family:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    driver.wait()
    ended = start().wait(timeout=600)

    logs = [path for path in (folder / "ray").rglob("logs") if path.is_dir() and not path.parent.is_symlink()]
    searched = [path for place in logs for path in place.rglob("*") if path.is_file()]
    found = {"said": quoted(said.read_bytes())} if quoted(said.read_bytes()) else {}
    for place in [*logs, output / "_ledger", output / "rejected"]:
        found |= {f"{place.name}/{name}": texts for name, texts in quoted_below(place).items()}
    for name in ("config.yaml", "manifest.json", "timings.json"):
        texts = quoted((output / name).read_bytes()) if ended == 0 else ["the run did not end well"]
        found |= {name: texts} if texts else {}
    report(
        "log_scrub",
        {
            "reports": count,
            "exit codes": {"with the quoting exception": quoting, "at the end": ended},
            "the exception was seen": "ValueError" in said.read_text(),
            "Ray's sessions": len(logs),
            "log files": len(searched),
            "bytes of logs": sum(path.stat().st_size for path in searched),
            "files that quote a report": found,
            "bars": "0 files; the first run fails with ValueError, the last ends with 0",
        },
    )
    good = not found and ended == 0 and quoting == 1 and "ValueError" in said.read_text() and len(logs) >= 3
    if good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"kept: {folder}", file=sys.stderr)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())

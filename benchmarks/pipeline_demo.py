"""The whole way at demonstration size: how long, step by step, and does everything end up on one page?

    python benchmarks/pipeline_demo.py                      # half an hour on two cores that do nothing else
    python benchmarks/pipeline_demo.py --output runs/demo   # goes on with an earlier one; times of all calls add up

Bars: 45 minutes, a link to every step's page on the pipeline's, and a second call that finds everything done in half a
minute. `cpus_used` is the time of the jobs' processes, without Ray's workers, over the time on the clock: on a busy
machine it is small, and the time says little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report

MOST_SECONDS, MOST_AGAIN = 45 * 60, 30
JOB = Path(__file__).resolve().parents[1] / "jobs" / "pipeline.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder; default: a temporary one")
    parser.add_argument("rest", nargs="*", help="more words for jobs/pipeline.py, behind --")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(words.output or f"{temporary}/pipeline")
        command = [sys.executable, str(JOB), "--output", str(output), *words.rest]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        began = time.monotonic()
        again = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
        again_seconds = time.monotonic() - began
        steps = json.loads((output / "timings.json").read_text())
        page = (output / "report.html").read_text()
        figures = json.loads((output / "metrics.json").read_text())
    seconds = sum(each["seconds"] for each in steps.values())
    unlinked = [name for name in steps if f'href="{name}/report.html"' not in page]
    missed = [
        *([f"{seconds:.0f} s, at most {MOST_SECONDS}"] if seconds > MOST_SECONDS else []),
        *([f"no link to {', '.join(unlinked)}"] if unlinked else []),
        *([f"second call took {again_seconds:.0f} s, at most {MOST_AGAIN}"] if again_seconds > MOST_AGAIN else []),
        *(
            [f"second call: {len(steps)} steps expected done"]
            if again.stderr.count("already done") != len(steps)
            else []
        ),
    ]
    report(
        "pipeline_demo",
        {
            "seconds": round(seconds),
            "cpus_used": round(sum(each["cpu_seconds"] for each in steps.values()) / seconds, 2),
            "steps": {name: {key: round(value) for key, value in each.items()} for name, each in steps.items()},
            "second_call_seconds": round(again_seconds, 1),
            "page_kilobytes": round(len(page) / 1000),
            "figures": figures,
            "missed": missed,
        },
    )
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()

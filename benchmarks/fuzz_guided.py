"""The readers, the section parser, the splitter and the rules under libFuzzer, which keeps inputs that reach new code.

    pip install -e '.[bench]'                                         # atheris
    python benchmarks/fuzz_guided.py                                  # 20,000 cases of each target
    python benchmarks/fuzz_guided.py --runs 200000 --only sections csv
    python benchmarks/fuzz_guided.py --only csv --one crash-0f3a      # a kept input again, with its traceback

fuzz_readers.py makes inputs by a grammar, blindly; here the code of raymedlt's readers is instrumented (atheris), and
libFuzzer changes bytes of what the grammar made, keeping what takes a new branch. A text target is given the bytes as
text; a reader's file is given them as its first file, the others as the grammar made them. What must hold is in
tests/worlds/fuzz_world.py. A crash is a broken promise or an error that isn't raymedlt's own; a hang, a case of over
HANG_SECONDS. Each target is a process, so that a crash costs no other; inputs that crash are kept in --folder. Bars: 0
of both.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "worlds"))

INSTRUMENTED = ("raymedlt.reports", "raymedlt.images.labels", "raymedlt.images.label_formats",
                "raymedlt.images.label_files", "raymedlt.enrichment.audit.contradiction")  # fmt: skip
HANG_SECONDS, MEMORY_MB, LONGEST = 10, 6_000, 4_096
SEEDS = 40
"""Inputs of the grammar to begin with."""
READERS = ("openi", "mimic", "rexgradient", "padchest", "chexpert_plus", "csv", "jsonl", "parquet")
TEXTS = ("sections", "sentences", "assertion en", "assertion es")
TARGETS = (*READERS, "label tables", *TEXTS)


def target_of(name: str, folder: Path) -> tuple[Callable[[bytes], object], list[bytes]]:
    """What is to be called with the bytes, and what to begin with."""
    import fuzz_world as world
    from fuzz_files import MAKERS, Source, table_bytes, text_of

    if name in TEXTS:
        kind, _, language = name.partition(" ")
        check: dict[str, Callable[[str], object]] = {
            "sections": world.check_sections,
            "sentences": world.check_sentences,
            "assertion": lambda text: world.check_judge(text, language),
        }
        begin = [text_of(Random(number), 60).encode("utf-8", "surrogatepass") for number in range(SEEDS)]
        return lambda data: check[kind](data.decode("utf-8", "replace")), begin
    if name == "label tables":
        tables = [world.label_table(Random(number), kind) for number in range(4) for kind in world.LABELS]
        begin = [table_bytes(Random(0), *table) for table in tables]
        return lambda data: world.check_labels(world.write_source(Source({"l.csv": data}), folder) + "/l.csv"), begin
    sources = [MAKERS[name](Random(number), False) for number in range(SEEDS)]
    plain = [each for each in sources if each.path == sources[0].path]  # some lie in archives
    first = next(iter(plain[0].files))

    def check_file(data: bytes) -> object:
        return world.check_reader(
            world.write_source(Source(plain[0].files | {first: data}, plain[0].path), folder), name
        )

    return check_file, [next(iter(each.files.values())) for each in plain]


def fuzz(name: str, folder: Path, runs: int, seed: int) -> None:
    """One target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        check, begin = target_of(name, folder / "case")
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number, data in enumerate(begin):
        (corpus / str(number)).write_bytes(data[:LONGEST])
    words = [f"-runs={runs}", f"-seed={seed + 1}", f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MB}"]
    words += [f"-max_len={LONGEST}", f"-artifact_prefix={folder}/", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *words], lambda data: check(data) and None)
    atheris.Fuzz()


def told(name: str, folder: Path, log: str, code: int) -> dict[str, Any]:
    """What libFuzzer said of a target."""

    def last(pattern: str) -> int:
        found = re.findall(pattern, log)
        return int(found[-1]) if found else 0

    kept = sorted(path.name for path in folder.glob("*-*") if path.is_file())
    return {
        "cases": last(r"stat::number_of_executed_units:\s+(\d+)") or last(r"#(\d+)\s"),
        "branches at first": int((re.findall(r"INITED cov: (\d+)", log) or [0])[0]),
        "branches in the end": last(r"cov: (\d+)"),
        "inputs kept": last(r"corp: (\d+)"),
        "exit code": code,
        "crashes and hangs": kept or ([] if code == 0 else [log[-800:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="cases of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=TARGETS, default=list(TARGETS), metavar="TARGET",
                        help=", ".join(TARGETS))  # fmt: skip
    parser.add_argument("--folder", type=Path, help="keeps inputs and logs; default: a new one, kept if one crashes")
    parser.add_argument("--one", type=Path, help="a kept input, run again in this process; with one --only")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the process of one target
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="raymedlt-guided-"))).absolute()
    if given.one:
        print(target_of(given.only[0], folder / "case")[0](given.one.read_bytes()))
        return 0
    if given.inside:
        fuzz(given.only[0], folder, given.runs, given.seed)
        return 0
    from common import report  # not above: what it imports would be imported without instruments

    found = {}
    for name in given.only:
        place = folder / name.replace(" ", "-")
        place.mkdir(parents=True)
        words = [
            "--inside",
            "--only",
            name,
            "--folder",
            str(place),
            "--runs",
            str(given.runs),
            "--seed",
            str(given.seed),
        ]
        done = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, errors="replace", check=False
        )
        (place / "log").write_text(done.stderr)
        found[name] = told(name, place, done.stderr, done.returncode)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    broken = [name for name, each in found.items() if each["crashes and hangs"] or each["cases"] < given.runs]
    cases = sum(each["cases"] for each in found.values())
    report("fuzz_guided", {"seed": given.seed, "cases": cases, "targets": found, "folder": str(folder),
                           "broken": broken})  # fmt: skip
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())

"""What a job says while it works: bars on a terminal, one line every few seconds in a job log, timings for the report.

Everything goes to standard error; standard output is kept for the path of the report. Only names of stages, units and
counts are printed, never a row's content.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import rich.progress

Advance = Callable[[int], None]
"""Call it with the number of units that were finished since the last call, from any thread."""


class Progress:
    """Progress of one run.

    with progress.stage("embed", total=5700, unit="sentences") as advance:
        advance(64)
    """

    def __init__(self, stream: TextIO | None = None, *, every: float = 5.0) -> None:
        """Args:
        stream: where to write; default standard error. Bars if it is a terminal, else lines.
        every: seconds between two lines of a stage.
        """
        self._stream = stream
        self._every = every
        self._lock = threading.Lock()
        self._bars: rich.progress.Progress | None = None
        self._open_bars = 0
        self._counter: Any = None
        self.timings: dict[str, float] = {}
        """Seconds per stage, in the order in which the stages first began; a repeated stage adds up."""
        self.counts: dict[str, int] = {}
        """Units that were advanced per stage."""

    @property
    def stream(self) -> TextIO:
        """Looked up at every use: tests and Ray replace sys.stderr."""
        return sys.stderr if self._stream is None else self._stream

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> Iterator[Advance]:
        """One stage of the run, timed and counted also when it fails.

        Args:
            name: of the stage.
            total: units to do; None if unknown.
            unit: plural noun.
        """
        began = time.monotonic()
        self.timings.setdefault(name, 0.0)
        self.counts.setdefault(name, 0)
        done = 0
        show = self._bar if self.stream.isatty() else self._lines

        def advance(units: int) -> None:
            nonlocal done
            with self._lock:
                done += units
                self.counts[name] += units
            moved(units)
            self._count_in_ray(name, unit, units)

        try:
            with show(name, total, unit, lambda: done) as moved:
                yield advance
        finally:
            self.timings[name] += time.monotonic() - began

    def skip(self, name: str, reason: str) -> None:
        """Say that a stage has nothing to do, e.g. skip("embed", "already done, 12 shards")."""
        self.timings.setdefault(name, 0.0)
        self.counts.setdefault(name, 0)
        self.say(f"{name}: {reason}")

    def say(self, line: str) -> None:
        """One line for the person who watches, above the bars if there are any. Never report text."""
        with self._lock:
            if self._bars is not None:
                self._bars.console.print(line, markup=False, highlight=False)
            else:
                print(line, file=self.stream, flush=True)

    @contextlib.contextmanager
    def _lines(self, name: str, total: int | None, unit: str, done: Callable[[], int]) -> Iterator[Advance]:
        began = time.monotonic()
        stop = threading.Event()

        def write() -> None:
            while not stop.wait(self._every):
                self.say(progress_line(name, done(), total, unit, time.monotonic() - began))

        # A thread, so that a stage which computes for minutes without advancing is seen to be alive.
        thread = threading.Thread(target=write, name=f"progress-{name}", daemon=True)
        thread.start()
        ending = "stopped after"
        try:
            yield lambda units: None
            ending = "done in"
        finally:
            stop.set()
            thread.join()
            self.say(f"{name}: {amount(done(), None, unit)}{ending} {seconds_text(time.monotonic() - began)}")

    @contextlib.contextmanager
    def _bar(self, name: str, total: int | None, unit: str, done: Callable[[], int]) -> Iterator[Advance]:
        bars = self._enter_bars()
        task = bars.add_task(name, total=total, unit=unit)

        def moved(units: int) -> None:
            bars.advance(task, units)

        try:
            yield moved
            bars.update(task, total=max(done(), 1), completed=max(done(), 1))
        finally:
            bars.stop_task(task)
            self._leave_bars()

    def _enter_bars(self) -> rich.progress.Progress:
        import rich.console
        import rich.progress as rp

        with self._lock:
            if self._bars is None:
                self._bars = rp.Progress(
                    rp.TextColumn("{task.description}"),
                    rp.BarColumn(),
                    rp.MofNCompleteColumn(),
                    rp.TextColumn("{task.fields[unit]}"),
                    rp.TimeElapsedColumn(),
                    rp.TimeRemainingColumn(),
                    console=rich.console.Console(file=self.stream),
                    redirect_stdout=False,  # standard output belongs to the report's path
                )
                self._bars.start()
            self._open_bars += 1
            return self._bars

    def _leave_bars(self) -> None:
        with self._lock:
            self._open_bars -= 1
            if self._open_bars == 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None

    def _count_in_ray(self, name: str, unit: str, units: int) -> None:
        ray = sys.modules.get("ray")  # not imported for this: a run without Ray has no dashboard to count for
        if units <= 0 or ray is None or not ray.is_initialized():
            return
        with self._lock:
            if self._counter is None:
                from ray.util.metrics import Counter

                self._counter = Counter(
                    "raymedlt_units", description="Units finished per stage", tag_keys=("stage", "unit")
                )
        self._counter.inc(units, tags={"stage": name, "unit": unit})


def progress_line(name: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    """What the log says in between, e.g. "embed 1,024/5,700 sentences (18 %) 812/s, about 6 s left"."""
    rate = done / seconds if seconds > 0 else 0.0
    if done == 0:
        return f"{name} {amount(done, total, unit)}{seconds_text(seconds)} so far"
    line = f"{name} {amount(done, total, unit)}{rate_text(rate)}/s"
    if total is not None and 0 < done < total:
        line += f", about {seconds_text((total - done) / rate)} left"
    return line


def amount(done: int, total: int | None, unit: str) -> str:
    """ "1,024/5,700 sentences (18 %) ", "1,024 sentences ", or nothing when there is nothing to count."""
    if total:
        return f"{done:,}/{total:,} {unit} ({100 * done // total} %) "
    return f"{done:,} {unit} " if done else ""


def rate_text(rate: float) -> str:
    """Two or more digits: "812", "0.43"."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def seconds_text(seconds: float) -> str:
    """ "0.4 s", "42 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

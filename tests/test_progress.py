"""Progress: lines in a log, bars on a terminal, standard output untouched."""

import io
import os
import pty
import subprocess
import sys
import threading
import time

import pytest

from raymedlt.progress import Progress, progress_line, seconds_text


def test_lines():
    assert progress_line("embed", 1024, 5700, "sentences", 1.261) == (
        "embed 1,024/5,700 sentences (17 %) 812/s, about 5.8 s left"
    )
    assert progress_line("embed", 1, 3, "shards", 2.0) == "embed 1/3 shards (33 %) 0.5/s, about 4.0 s left"
    assert progress_line("embed", 5700, 5700, "sentences", 7.0) == "embed 5,700/5,700 sentences (100 %) 814/s"
    assert progress_line("read", 2048, None, "rows", 2.0) == "read 2,048 rows 1,024/s"
    assert progress_line("cluster", 0, None, "rows", 12.2) == "cluster 12 s so far"
    assert progress_line("cluster", 0, 40, "rows", 12.2) == "cluster 0/40 rows (0 %) 12 s so far"
    assert progress_line("read", 0, 0, "rows", 0.0) == "read 0.0 s so far"


def test_seconds():
    shown = [seconds_text(s) for s in (0.04, 9.94, 9.96, 59.4, 59.6, 185, 3599.7, 7800)]
    assert shown == ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "3 min 5 s", "1 h 0 min", "2 h 10 min"]


def test_log_has_lines_timings_and_counts(capsys):
    progress = Progress(every=0.02)
    with progress.stage("embed", total=4, unit="sentences") as advance:
        advance(1)
        time.sleep(0.1)
        advance(3)
    with progress.stage("embed", total=2, unit="sentences") as advance:
        advance(2)
    progress.skip("cluster", "already done, 12 shards")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("embed 1/4 sentences (25 %) ")
    assert "embed: 4 sentences done in 0.1 s" in lines
    assert lines[-2].startswith("embed: 2 sentences done in ")
    assert lines[-1] == "cluster: already done, 12 shards"
    assert progress.counts == {"embed": 6, "cluster": 0}
    assert list(progress.timings) == ["embed", "cluster"]
    assert 0.1 <= progress.timings["embed"] < 5
    assert progress.timings["cluster"] == 0


def test_quick_stages_say_one_line():
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.stage("read", total=3) as advance:
        advance(3)
    assert len(stream.getvalue().splitlines()) == 1


def test_failed_stage_is_timed_and_not_called_done():
    stream = io.StringIO()
    progress = Progress(stream)
    with pytest.raises(KeyError), progress.stage("read", total=3) as advance:  # noqa: PT012
        advance(1)
        time.sleep(0.01)
        raise KeyError
    assert "read: 1 rows stopped after 0.0 s" in stream.getvalue()
    assert progress.timings["read"] >= 0.01
    assert not [thread for thread in threading.enumerate() if thread.name == "progress-read"]


def test_advance_from_many_threads_loses_nothing():
    progress = Progress(io.StringIO())
    with progress.stage("embed") as advance:
        threads = [threading.Thread(target=lambda: [advance(1) for _ in range(2000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert progress.counts["embed"] == 16_000


def test_terminal_gets_bars_and_standard_output_stays_clean():
    code = (
        "from raymedlt.progress import Progress\n"
        "p = Progress()\n"
        "with p.stage('embed', total=3, unit='sentences') as outer:\n"
        "    outer(1)\n"
        "    with p.stage('[inner]') as inner: inner(7)\n"
        "    p.say('[note] 5')\n"
        "    outer(2)\n"
        "p.skip('cluster', 'already done')\n"
        "print('runs/enrich/report.html')\n"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=slave, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # Linux reports the closed terminal as an error
        pass
    out = process.communicate()[0]
    os.close(master)
    assert process.returncode == 0
    assert out == b"runs/enrich/report.html\n"
    text = shown.decode()
    assert "━" in text
    for expected in ("embed", "3/3", "7/7", "sentences", "[note] 5", "cluster: already done"):
        assert expected in text


def test_metrics_reach_ray(local_ray):
    progress = Progress(io.StringIO())
    with progress.stage("embed", unit="sentences") as advance:
        advance(5)
        advance(0)
    assert progress._counter.info["name"] == "raymedlt_units"

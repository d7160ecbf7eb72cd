"""A command that would delete finished work is not what messages and pages say to give again."""

import sys

import pytest

from raymedlt.again import command_line, same_command


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--output", "a b"], "python jobs/enrich.py --output 'a b'"),
        (["--restart"], "python jobs/enrich.py"),
        (["--restart", "--output", "x"], "python jobs/enrich.py --output x"),
        (["--seed", "1", "--restart", "true", "--workers", "2"], "python jobs/enrich.py --seed 1 --workers 2"),
        (["--restart=true", "--describe", "true"], "python jobs/enrich.py --describe true"),
        (["--output", "true"], "python jobs/enrich.py --output true"),
    ],
)
def test_restart_is_left_out(words, line, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jobs/enrich.py", *words])
    assert command_line() == line
    assert same_command() == "the same command" + " (without --restart)" * ("--restart" in " ".join(words))

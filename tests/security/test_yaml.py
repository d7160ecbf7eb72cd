"""Configurations from others: bombs of aliases and of depth, and tags that would call Python, are refused at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raymedlt.config import EnrichConfig, to_yaml
from raymedlt.enrichment.distributed import describe, run
from raymedlt.errors import ConfigError
from raymedlt.job import main
from raymedlt.parsing import MAX_YAML_NODES, parse, refuse_bomb
from raymedlt.synthesis.gate_folder import classifier_files

LISTS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MAPS = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'k{k}: *a{n - 1}' for k in range(9))}}}\n" for n in range(1, 10)
)
BOMBS = {
    "lists of lists": LISTS,
    "maps of maps": MAPS,
    "at a known key": "reports:\n  path:\n" + "".join(f"    - {line.split(': ')[1]}\n" for line in LISTS.splitlines()),
    "deep": "reports: " + "[" * 100_000,
    "deep and closed": "reports: " + "{a: " * 3_000 + "1" + "}" * 3_000,
    "of itself": "reports: &r\n  path: *r\n",
    "long": "output: " + "x" * 2_000_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_at_once(bomb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[bomb])
    began = time.process_time()
    for words in (["--config", str(path)], [f"--config={path}"]):
        assert main(EnrichConfig, "job", describe, run, [*words, "--output", str(tmp_path / "run")]) == 2
    told = capsys.readouterr()
    assert told.err.count("holds far more than a configuration") == 2
    assert len(told.err) < 2_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize("bomb", ["maps of maps", "deep"])
def test_the_configuration_of_a_finished_run_is_no_exception(bomb: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(BOMBS[bomb])
    with pytest.raises(ConfigError, match="holds far more than a configuration"):
        classifier_files(str(tmp_path))


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch {}']", "!!python/object/new:os.system ['touch {}']",
            "!!python/name:os.system", "!!python/module:antigravity"],
)  # fmt: skip
def test_tags_call_nothing(tag: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"output: {tag.format(tmp_path / 'mark')}\n")
    with pytest.raises(ConfigError, match="constructor for the tag"):
        parse(EnrichConfig, ["--config", str(tmp_path / "config.yaml")])
    assert not (tmp_path / "mark").exists()


def test_anchors_of_an_ordinary_size_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: &one 1\nvariants: *one\nreports: {max_chars: 5}\n")
    assert parse(EnrichConfig, ["--config", str(path)]).variants == 1
    refuse_bomb(to_yaml(EnrichConfig()).encode(), "own")
    refuse_bomb(b"a: [" + b"1, " * (MAX_YAML_NODES - 10) + b"1]", "as many as are allowed")
    refuse_bomb(b"{{{", "told by the parser")

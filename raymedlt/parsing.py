"""A job's configuration from the command line and a YAML file, with messages that name the nearest known key."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from raymedlt.config import flatten
from raymedlt.errors import ConfigError

T = TypeVar("T")


def parse(config_class: type[T], arguments: list[str] | None = None, program: str | None = None) -> T:
    """Read `config_class` from the command line and, where `--config` names one, a YAML file.

    Args:
        arguments: command-line words; default `sys.argv[1:]`.
        program: the name that `--help` shows, e.g. "python jobs/enrich.py".

    Raises:
        ConfigError: an unknown key (the message names the nearest known one) or a value of the wrong type.
        SystemExit: after `--help` or `--print_config`.
    """
    import jsonargparse

    words = sys.argv[1:] if arguments is None else arguments
    for path in _config_files(words):
        refuse_bomb(path.read_bytes(), str(path))
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program, description=config_class.__doc__, exit_on_error=False, default_env=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; later words win")
    parser.add_class_arguments(config_class, nested_key=None, as_group=True)
    try:
        parsed = parser.parse_args(_complete_switches(config_class, words))
        return _build(config_class, parsed.as_dict())
    except jsonargparse.ArgumentError as error:
        raise _explained(config_class, str(error.message if hasattr(error, "message") else error)) from None


MAX_YAML_BYTES, MAX_YAML_NODES, MAX_YAML_DEPTH = 2**20, 10_000, 20
"""A configuration has a few hundred keys and values, three levels deep."""


def refuse_bomb(data: bytes, name: str) -> None:
    """Raise ConfigError for a YAML text that is far more than a configuration, before anything is made of it.

    Aliases count as often as they are used: ten lines of them can stand for a billion values. Parsers of YAML call
    themselves for every level, so a deep text can end the process.
    """
    import yaml

    size = len(data)
    if size <= MAX_YAML_BYTES:
        try:
            size = _nodes(yaml.parse(data, Loader=yaml.SafeLoader))
        except yaml.YAMLError:
            return  # told with its line by whoever reads it
        if size <= MAX_YAML_NODES:
            return
    raise ConfigError(
        f"'{name}' holds far more than a configuration",
        f"at most {MAX_YAML_BYTES:,} bytes, {MAX_YAML_NODES:,} values, and {MAX_YAML_DEPTH} levels",
        "look at the file before you use it",
    )


def _nodes(events: Iterable[Any]) -> int:
    """Values of a YAML text with all aliases written out; more than MAX_YAML_NODES is only that."""
    sizes: dict[str, int] = {}  # by anchor
    open_: list[tuple[str | None, int]] = []  # anchor and number of values before it
    count = 0
    for event in events:
        kind = type(event).__name__
        if kind == "AliasEvent":  # of itself, if not known yet
            count += sizes.get(event.anchor, MAX_YAML_NODES)
        elif kind in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent"):
            count += 1
            if kind != "ScalarEvent":
                open_.append((event.anchor, count))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = count - before + 1
        if count > MAX_YAML_NODES or len(open_) > MAX_YAML_DEPTH:
            return MAX_YAML_NODES + 1
    return count


def _config_files(words: Sequence[str]) -> list[Path]:
    """The files that `--config FILE` and `--config=FILE` name, as far as they are there."""
    named = [after for word, after in itertools.pairwise(words) if word == "--config"]
    named += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return [Path(name).expanduser() for name in named if Path(name).expanduser().is_file()]


def _complete_switches(config_class: type[Any], words: list[str]) -> list[str]:
    """`--describe` alone means `--describe true`, and so for every key that is false by default."""
    switches = {f"--{key}" for key, value in flatten(config_class()).items() if value is False}
    following = [*words[1:], ""][: len(words)]
    return [
        f"{word}=true" if word in switches and after.lower() not in ("true", "false") else word
        for word, after in zip(words, following, strict=True)
    ]


def _build(config_class: type[T], values: dict[str, Any]) -> T:
    """Make the dataclass from nested plain values."""
    known = {item.name: item for item in dataclasses.fields(cast(Any, config_class))}
    made: dict[str, Any] = {}
    for name, item in known.items():
        value = values[name]
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if dataclasses.is_dataclass(default) and not dataclasses.is_dataclass(value):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} is {value!r}", f"a section with keys, as in {name}.KEY", "see --help")
            value = _build(type(default), value)
        made[name] = value
    return config_class(**made)


_UNKNOWN_KEY = (
    re.compile(r"unrecognized arguments: (?:--)?([\w.]+)", re.IGNORECASE),
    re.compile(r"Option '([\w.]+)' is not accepted"),
    re.compile(r"does not accept option '([\w.]+)'"),
    re.compile(r"[Kk]ey \"?'?([\w.]+)'?\"? is not expected"),
)


def _explained(config_class: type[Any], message: str) -> ConfigError:
    """Turn the parser's message into ours, with the nearest known key where the key is unknown."""
    keys = list(flatten(config_class()))
    for pattern in _UNKNOWN_KEY:
        if match := pattern.search(message):
            word = match.group(1)
            leaves = {key.rsplit(".", 1)[-1]: key for key in keys}
            near = difflib.get_close_matches(word, keys, n=1) or difflib.get_close_matches(
                word, leaves, n=1, cutoff=0.5
            )
            nearest = leaves.get(near[0], near[0]) if near else None
            expected = f"a known key; the nearest is '{nearest}'" if nearest else "a known key"
            return ConfigError(f"unknown key '{word}'", expected, "see --help for all keys")
    return ConfigError(" ".join(message.split()), "a valid configuration", "see --help for keys and types")

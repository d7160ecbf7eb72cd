"""Cards: Markdown with the header that hubs read. Words from outside stay words, wherever they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def header(fields: Mapping[str, object], license_words: str = "") -> str:
    """The YAML between two lines of dashes; the license in front of it, unless it is ""."""
    import yaml

    full = {"license": license_words, **fields} if license_words else dict(fields)
    return f"---\n{yaml.safe_dump(full, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def data_files(tables: Sequence[str]) -> list[dict[str, object]]:
    """The header's "configs": with these `datasets.load_dataset(FOLDER, NAME)` finds a run's tables, and not its own
    files; the first table is the default."""
    return [
        {"config_name": name, "data_files": f"{name}/*.parquet", **({} if place else {"default": True})}
        for place, name in enumerate(tables)
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; bars and line ends in cells can't break it."""
    lines = [head, ["---"] * len(head), *([escaped(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return "\n".join(f"- {escaped(line)}" for line in lines)


def escaped(words: str) -> str:
    """On one line, without markup that could act."""
    safe = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return safe.replace("[", "\\[").replace("]", "\\]")


def in_code(words: str) -> str:
    """For the inside of a block of code or of a string in one: on one line, without what ends either."""
    return " ".join(words.split()).replace("`", "").replace('"', "").replace("\\", "/")

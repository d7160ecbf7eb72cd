"""Report readers: eight formats, one kind of row (`schema.READ_ROWS`). No Ray in here; see `reports.distributed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raymedlt.errors import ConfigError, InputError
from raymedlt.reports.readers import chexpert_plus, openi, padchest, rexgradient, tabular
from raymedlt.reports.readers.base import Reader, Unit
from raymedlt.reports.readers.files import locate
from raymedlt.reports.readers.mimic import MimicReader
from raymedlt.reports.records import MAX_CHARS
from raymedlt.storage import Storage

__all__ = ["FORMATS", "Reader", "Unit", "open_reader"]

FORMATS = ("openi", "mimic", "rexgradient", "padchest", "chexpert_plus", "csv", "jsonl", "parquet")


def open_reader(
    path: str | None = None,
    format: str = "openi",
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    max_chars: int = MAX_CHARS,
) -> Reader:
    """The reader for some reports.

    Args:
        path: a file, a folder or a glob, local or a URI (file://, s3://, gs://, abfs://). None: the packaged data of
            "openi" and "padchest".
        format: one of `FORMATS`.
        columns: for "csv", "jsonl", "parquet": our column names (`tabular.COLUMNS`) to the file's.
        language: of the reports; None: "es" for "padchest", else "en".
        max_chars: a longer findings, impression or indication rejects its row.

    Raises:
        ConfigError: an unknown format, or options that don't fit it.
        InputError: nothing readable at `path`. What is in the files is looked at by `Reader.units`.
    """
    if format not in FORMATS:
        raise ConfigError(f"--reports.format is '{format}'", f"one of {', '.join(FORMATS)}")
    if max_chars < 1:
        raise ConfigError(f"--reports.max_chars is {max_chars}", "at least 1")
    if columns and format not in tabular.SUFFIXES:
        raise ConfigError(
            f"--reports.columns is given for the format '{format}', which knows its columns",
            f"a column map for {', '.join(tabular.SUFFIXES)} only",
            "leave it out, or read the files as 'csv', 'jsonl' or 'parquet'",
        )
    language = language or ("es" if format == "padchest" else "en")
    if path is None:
        if format == "openi":
            return openi.OpenIReader(language=language, max_chars=max_chars)
        if format == "padchest":
            return padchest.PadChestReader(language=language, max_chars=max_chars)
        raise InputError(f"no path for the format '{format}'", "where the reports are", "give --reports.path")
    if format == "mimic":
        return MimicReader(root=_folder(path), language=language, max_chars=max_chars)
    root, names = locate(path, _SUFFIXES[format])
    if format in tabular.SUFFIXES:
        return tabular.TableReader(
            format=format, root=root, names=names, columns=dict(columns or {}), language=language, max_chars=max_chars
        )
    return _READERS[format](root=root, names=names, language=language, max_chars=max_chars)


_SUFFIXES = {
    "openi": (".xml", *openi.ARCHIVES),
    "rexgradient": rexgradient.SUFFIXES,
    "padchest": padchest.SUFFIXES,
    "chexpert_plus": chexpert_plus.SUFFIXES,
    **tabular.SUFFIXES,
}
_READERS: dict[str, Callable[..., Reader]] = {
    "openi": openi.OpenIReader,
    "rexgradient": rexgradient.ReXGradientReader,
    "padchest": padchest.PadChestReader,
    "chexpert_plus": chexpert_plus.CheXpertPlusReader,
}


def _folder(path: str) -> Storage:
    root = Storage.of(path)
    if not root.exists():
        raise InputError(f"no folder '{root.uri}'", "the folder that holds 'files'", "check --reports.path")
    return root

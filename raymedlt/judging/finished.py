"""A finished run's tables as their job left them: the files that its manifest lists, compared with their sha256."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.schema import conform
from raymedlt.storage import FileEntry, Storage, sha256_of

MANIFEST = "manifest.json"
_KINDS = {
    "enrichment": ({"enriched", "additions"}, "jobs/enrich.py"),
    "synthesis": ({"plan", "images"}, "jobs/synthesize.py"),
    "classifier": ({"predictions"}, "jobs/classify.py"),
    "generation": ({"generations"}, "jobs/finetune.py or jobs/align.py"),
}
"""What a run made -> the tables that tell, and the jobs that leave them."""


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a finished run. Make it with `open_finished`."""

    storage: Storage
    entries: dict[str, FileEntry]
    """Its files by name."""
    content: str
    """Names all that the run left: equal outputs, equal names."""

    @property
    def uri(self) -> str:
        """Where it lies, without credentials."""
        return self.storage.uri

    @property
    def name(self) -> str:
        """The last part of that."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def read(self, name: str) -> bytes:
        """A file of the run.

        Raises:
            ConsistencyError: it is missing, or not as the run wrote it.
        """
        try:
            data = self.storage.read_bytes(name)
        except FileNotFoundError:
            data = None
        if data is None or name not in self.entries or sha256_of(data) != self.entries[name].sha256:
            raise ConsistencyError(
                f"'{name}' in '{self.uri}' is {'missing' if data is None else 'not as written'}",
                f"the file that {MANIFEST} lists",
                "run the job again with --restart",
            )
        return data

    def table(self, name: str, schema: pa.Schema) -> pa.Table:
        """All files of a table, in the order of their names, as `schema` says; other columns are left out."""
        files = sorted(each for each in self.entries if each.startswith(f"{name}/") and each.endswith(".parquet"))
        tables = [pq.read_table(pa.BufferReader(self.read(file)), columns=schema.names) for file in files]
        return conform(pa.concat_tables(tables), schema, name) if tables else schema.empty_table()

    @property
    def metrics(self) -> dict[str, Any]:
        """What its metrics.json holds."""
        found: dict[str, Any] = json.loads(self.read("metrics.json"))
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """What its config.yaml holds."""
        found: dict[str, Any] = yaml.safe_load(self.read("config.yaml"))
        return found


def open_finished(place: str, what: str, key: str = "run") -> FinishedRun:
    """The finished run at a path or URI, if it made `what`.

    Args:
        key: of the configuration that names the run, for messages.

    Raises:
        InputError: no finished run is there, or one of another job.
    """
    storage = Storage.of(place)
    tables, job = _KINDS[what]
    try:
        manifest = storage.read_bytes(MANIFEST)
        entries = [FileEntry.from_json(entry) for entry in json.loads(manifest)["files"]]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"'{storage.uri}' holds no finished run (no {MANIFEST})",
            f"the output folder of {job}, after it has ended",
            f"give it with --{key}, or let that job finish first",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{MANIFEST} in '{storage.uri}' can't be read", "the file as its job wrote it") from None
    folders = {entry.name.split("/")[0] for entry in entries}
    if not tables <= folders:
        runs = (f"a run of {maker} (--what {kind})" for kind, (own, maker) in _KINDS.items() if own <= folders)
        made = next(runs, "something else")
        raise InputError(
            f"'{storage.uri}' is no run of {job}, but {made}",
            f"for --what {what} the output folder of {job}",
            f"check --{key} and --what",
        )
    return FinishedRun(storage, {entry.name: entry for entry in entries}, sha256_of(manifest))

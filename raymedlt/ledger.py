"""Exactly once: which shards of a run are done. All state lies on the output storage, under `_ledger/`.

    _ledger/run.json              what the run was started with: job, configuration, hashes, versions
    _ledger/driver.json           the driver at work: host, process, heartbeat (see driverlock)
    _ledger/<stage>/<shard>.json  a shard is done: its files with size and sha256, and its summary

A shard is a fixed set of rows whose name follows from its content. Work may run more than once (a worker died, a task
was retried); the result counts once, since every attempt writes the same bytes under the same names, and a reader
trusts only files that a marker names. Only JSON, nothing pickled; markers hold no times, so they too come out the same.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from raymedlt import __version__
from raymedlt.driverlock import DriverLock
from raymedlt.errors import ConsistencyError, InputError, RunConflictError
from raymedlt.storage import FileEntry, Storage, sha256_of
from raymedlt.versions import differences, versions_here

FOLDER = "_ledger"
RUN = f"{FOLDER}/run.json"
DRIVER = f"{FOLDER}/driver.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.=_-]{0,199}")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Marker:
    """A finished shard."""

    stage: str
    shard: str
    files: tuple[FileEntry, ...]
    summary: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The marker as stored: JSON with sorted keys, so equal markers are equal bytes."""
        return _dump(
            {
                "stage": self.stage,
                "shard": self.shard,
                "files": [entry.to_json() for entry in self.files],
                "summary": self.summary,
            }
        )


@dataclass(frozen=True, slots=True)
class LedgerHandle:
    """What a worker needs of the ledger: small and picklable."""

    storage: Storage

    def began(self) -> bool:
        """Whether there is a run where this process looks for it."""
        return self.storage.exists(RUN)

    def marker(self, stage: str, shard: str) -> Marker | None:
        """The shard's marker if it is marked and every file of it exists with the marked size.

        A marker that can't be read counts as missing: the shard is then done again, with the same result.
        """
        try:
            value = json.loads(self.storage.read_bytes(_marker_name(stage, shard)))
            files = tuple(FileEntry.from_json(entry) for entry in value["files"])
            marker = Marker(stage, shard, files, dict(value["summary"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            _LOGGER.warning("unreadable marker of %s/%s: the shard is done again", stage, shard)
            return None
        return marker if all(self.storage.size(entry.name) == entry.bytes for entry in files) else None

    def done(self, stage: str, shard: str) -> dict[str, Any] | None:
        """The summary of a finished shard; None if it is still to be done (see `marker`)."""
        marker = self.marker(stage, shard)
        return None if marker is None else marker.summary

    def commit(self, stage: str, shard: str, files: Iterable[FileEntry], summary: Mapping[str, Any]) -> None:
        """Mark the shard as done; its files must be written by now. Doing so twice is the same as once.

        Args:
            files: as `Storage.write_table` and `write_bytes` return them.
            summary: JSON values (counts, for the report); never report text.

        Raises:
            ConsistencyError: a file isn't there, or has another size than its entry says.
            InputError: stage or shard isn't a plain name, or the summary isn't JSON.
        """
        marker = Marker(stage, shard, tuple(sorted(files, key=lambda entry: entry.name)), dict(summary))
        for entry in marker.files:
            size = self.storage.size(entry.name)
            if size != entry.bytes:
                raise ConsistencyError(
                    f"{stage}/{shard}: file '{entry.name}' has {size} bytes", f"{entry.bytes} bytes, as written"
                )
        name, data = _marker_name(stage, shard), marker.to_bytes()
        try:
            before = self.storage.read_bytes(name)
        except FileNotFoundError:
            before = None
        if before == data:
            return
        if before is not None:
            _LOGGER.warning("%s/%s was done before with another result: the newer one counts", stage, shard)
        self.storage.write_bytes(name, data)


class Ledger:
    """The driver's ledger of one run. Use as a context manager: leaving it gives the folder free."""

    def __init__(self, storage: Storage, lock: DriverLock) -> None:
        """Use `Ledger.open`."""
        self.storage = storage
        self._handle = LedgerHandle(storage)
        self._lock = lock

    @classmethod
    def open(
        cls,
        storage: Storage,
        *,
        config_hash: str,
        config: Mapping[str, Any],
        data_hash: str,
        job: str = "",
        restart: bool = False,
    ) -> Ledger:
        """Take the output folder for this run: new, or to be gone on with.

        Args:
            storage: the output folder; it belongs to the run as a whole.
            config_hash: hash of all that decides the result.
            config: the resolved configuration, nested or flat; kept to name what differs later. No report text.
            data_hash: hash of the input.
            job: its name, such as "enrich".
            restart: first delete all that an earlier run left in the folder (hidden files ".x" stay).

        Raises:
            RunConflictError: another driver is at work here; the folder belongs to a run with another configuration,
                other data or another version of raymedlt, or to another job; or it holds files but no run.
            InputError: `storage` can't be a folder.
        """
        try:
            known = storage.exists(RUN)
            if known:
                _refuse_other_job(storage, json.loads(storage.read_bytes(RUN)), job)
            else:
                _refuse_foreign_files(storage)
            lock = DriverLock.acquire(storage, DRIVER)
        except OSError as error:
            raise InputError(
                f"'{storage.uri}' can't be the output folder ({error.strerror or type(error).__name__})",
                "a folder, new or there, that this user may write to",
                "give another --output",
            ) from None
        try:
            if restart and known:
                _delete_run(storage)
            run = {
                "job": job,
                "format": 1,
                "config_hash": config_hash,
                "data_hash": data_hash,
                "config": json.loads(_dump(flatten(config))),
                "versions": {"raymedlt": __version__},
                "computed_with": [versions_here()],
            }
            if storage.exists(RUN):
                old = json.loads(storage.read_bytes(RUN))
                _refuse_other_run(storage, old, run)
                _tell_other_versions(storage, old)
                storage.delete_unfinished()
            else:
                storage.write_bytes(RUN, _dump(run))
        except BaseException:
            lock.release()
            raise
        return cls(storage, lock)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free for the next driver."""
        self._lock.release()

    def check_lock(self) -> None:
        """Raise RunConflictError if another driver has taken the folder over (this one looked dead for too long)."""
        self._lock.check()

    def worker(self) -> LedgerHandle:
        """A picklable handle for workers."""
        return self._handle

    def done(self, stage: str, shard: str) -> dict[str, Any] | None:
        """See `LedgerHandle.done`."""
        return self._handle.done(stage, shard)

    def commit(self, stage: str, shard: str, files: Iterable[FileEntry], summary: Mapping[str, Any]) -> None:
        """See `LedgerHandle.commit`; raises RunConflictError too, if the lock was lost."""
        self.check_lock()
        self._handle.commit(stage, shard, files, summary)

    def pending(self, stage: str, shards: Iterable[str]) -> list[str]:
        """Those of `shards` that are still to be done, in the order given."""
        names = list(shards)
        marked = set(self._marked(stage))
        with ThreadPoolExecutor(16) as pool:  # one marker is one or two round trips on an object store
            done = list(pool.map(lambda name: name in marked and self._handle.marker(stage, name) is not None, names))
        return [name for name, is_done in zip(names, done, strict=True) if not is_done]

    def shards(self, stage: str) -> dict[str, Marker]:
        """Every finished shard of the stage, by name, sorted."""
        names = self._marked(stage)
        with ThreadPoolExecutor(16) as pool:
            markers = list(pool.map(lambda name: self._handle.marker(stage, name), names))
        return {name: marker for name, marker in zip(names, markers, strict=True) if marker is not None}

    def stages(self) -> list[str]:
        """Names of the stages that have a finished shard, sorted."""
        names = (name.split("/") for name in self.storage.list_files(FOLDER))
        return sorted({parts[1] for parts in names if len(parts) == 3})

    def verify(self, stage: str) -> int:
        """Read every file of the stage's finished shards and compare it with its sha256; the number of files.

        Raises:
            ConsistencyError: files that differ, by name.
        """
        entries = [entry for marker in self.shards(stage).values() for entry in marker.files]
        bad = [entry.name for entry in entries if sha256_of(self.storage.read_bytes(entry.name)) != entry.sha256]
        if bad:
            raise ConsistencyError(
                f"{len(bad)} of {len(entries)} files of '{stage}' differ from their sha256, first '{bad[0]}'",
                "the bytes that were written",
                "delete these files and run the same command again; if it happens twice, check the disk",
            )
        return len(entries)

    def manifest(self) -> list[FileEntry]:
        """Every committed file of the run, sorted by name.

        Raises:
            ConsistencyError: two stages claim a file with different content.
        """
        entries: dict[str, FileEntry] = {}
        for stage in self.stages():
            for marker in self.shards(stage).values():
                for entry in marker.files:
                    if entries.setdefault(entry.name, entry) != entry:
                        raise ConsistencyError(
                            f"two shards wrote '{entry.name}', last '{stage}/{marker.shard}'", "one owner per file"
                        )
        return [entries[name] for name in sorted(entries)]

    def _marked(self, stage: str) -> list[str]:
        names = self.storage.list_files(f"{FOLDER}/{_plain(stage)}")
        return [name.rsplit("/", 1)[1].removesuffix(".json") for name in names if name.endswith(".json")]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys; a flat mapping stays as it is."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _dump(value: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError("a value that isn't JSON", "numbers, strings, lists and mappings") from error
    return text.encode() + b"\n"


def _plain(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"the stage or shard name {name[:80]!r}", "letters, digits and . = _ - (at most 200)")
    return name


def _marker_name(stage: str, shard: str) -> str:
    return f"{FOLDER}/{_plain(stage)}/{_plain(shard)}.json"


def _refuse_foreign_files(storage: Storage) -> None:
    foreign = [name for name in storage.entries() if not name.startswith((".", "_tmp")) and name != FOLDER]
    if foreign:
        raise RunConflictError(
            f"'{storage.uri}' holds files of somebody else ({len(foreign)} entries, first '{foreign[0]}')",
            "an empty or new folder, or one that this job made (it has _ledger/run.json)",
            "give another --output, or empty the folder yourself",
        )


def _refuse_other_run(storage: Storage, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if old["config_hash"] != new["config_hash"]:
        found = f"another configuration: {_differences(old['config'], new['config'])}"
    elif old["data_hash"] != new["data_hash"]:
        found = "other input data"
    elif old["versions"] != new["versions"]:
        found = f"another version: {_differences(old['versions'], new['versions'])}"
    else:
        return
    raise RunConflictError(
        f"'{storage.uri}' belongs to a run with {found}",
        "what the run was begun with",
        "give another --output, or --restart to delete what is there and begin anew",
    )


def _refuse_other_job(storage: Storage, old: Mapping[str, Any], job: str) -> None:
    if old.get("job", job) != job:
        raise RunConflictError(
            f"'{storage.uri}' belongs to a run of another job, {old['job'] or 'unnamed'}",
            f"an empty or new folder, or one of {job or 'this job'}",
            "give another --output, or delete the folder yourself",
        )


def _tell_other_versions(storage: Storage, old: Mapping[str, Any]) -> None:
    """A run may go on with other libraries or a mended raymedlt, but not without a word: run.json keeps all of them."""
    used = old.get("computed_with", [])
    if versions_here() in used:
        return
    if used and (different := differences(used[-1], versions_here())):
        _LOGGER.warning(
            "this run was begun with other versions (then and now: %s): what is done already is kept, and the rest "
            "may differ in its digits or rules; --restart computes all of it anew",
            ", ".join(different),
        )
    storage.write_bytes(RUN, _dump({**old, "computed_with": [*used, versions_here()]}))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changes = []
    for key in sorted({*old, *new}):
        before, after = _show(old, key), _show(new, key)
        if before != after:
            changes.append(f"{key}: {before} -> {after}")
    return "; ".join(changes) if changes else "(same keys and values, other hash)"


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False, sort_keys=True) if key in values else "(unset)"


def _delete_run(storage: Storage) -> None:
    """Markers go first, run.json last: whoever dies in between leaves a run that can be gone on with or restarted."""
    for name in storage.entries(FOLDER):
        if name not in (RUN, DRIVER) and not name.startswith(f"{FOLDER}/."):
            _delete(storage, name)
    for name in storage.entries():
        if name != FOLDER and not name.startswith("."):
            _delete(storage, name)
    storage.delete(RUN)


def _delete(storage: Storage, name: str) -> None:
    if storage.size(name) is None:
        storage.delete_folder(name)
    else:
        storage.delete(name)

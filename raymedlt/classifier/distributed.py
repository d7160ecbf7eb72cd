"""The classifier as a job: stages over shards and trainings, on Ray or in this process, resumable from the output.

labels -> prepare -> arrange -> settle -> train (one or several) -> score -> finish. Images are decoded in shards, on
Ray Data's workers or in threads; a training runs in this process, or under Ray Train with a process per replica. Where
images are streamed they lie in Ray's object store and Ray Data makes the batches; the batches are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raymedlt.classifier import finish
from raymedlt.classifier.ablation import variants
from raymedlt.classifier.arranging import ARRANGE, EXAMPLES_FILE, arrange
from raymedlt.classifier.checkpoint import LATEST
from raymedlt.classifier.config import AugmentConfig, ClassifyConfig
from raymedlt.classifier.examples import Bytes, Examples, PixelShards, Rows, pixels_of
from raymedlt.classifier.feed import AHEAD, Batch, Feed, Step, make_batch
from raymedlt.classifier.predictor import load, read_about
from raymedlt.classifier.preparing import LABELS, LABELS_FILE, PREPARE, PrepareShard, read_source, shards_of
from raymedlt.classifier.task import TRAINED, Data, Training, do
from raymedlt.classifier.training import Settings
from raymedlt.config import config_hash, hashed_part
from raymedlt.errors import ConfigError, InputError, RaymedltError
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.progress import Progress
from raymedlt.runtime import (
    ATTEMPTS,
    Cluster,
    connect,
    private_by_default,
    run_shards,
    run_shards_locally,
    worker_environment,
)
from raymedlt.seeds import keyed_seed
from raymedlt.storage import Storage, content_hash

if TYPE_CHECKING:
    import ray.data

SETTLE, SCORE, FINISH = "settle", "score", "finish"
_POLL_SECONDS = 2.0
_HELD_BYTES = 4 * 1024**3
"""Prepared images up to this size are held by every replica (and by the driver, for scoring)."""


def describe(config: ClassifyConfig) -> str:
    """What `run` would do. Reads the label table's first bytes at most."""
    private_by_default()
    return finish.description(config, Storage.of(config.output), workers_of(config))


def workers_of(config: ClassifyConfig) -> int:
    """Configured workers, else one per CPU of this machine."""
    return config.workers or os.cpu_count() or 1


def run(config: ClassifyConfig) -> str:
    """Train, evaluate and explain; leave tables, model and page in `config.output`; return the page's path or URI.

    Raises:
        InputError: nothing to read, nothing valid, a patient in two splits, or more rejected rows than allowed.
        RunConflictError: the output folder belongs to another run or another driver.
        InterruptedRun: SIGTERM; the same command goes on.
    """
    private_by_default()
    storage = Storage.of(config.output)
    with (
        Ledger.open(
            storage,
            config_hash=config_hash(config),
            config=hashed_part(config),
            data_hash=finish.data_hash(config),
            restart=config.restart,
        ) as ledger,
        contextlib.ExitStack() as stack,
    ):
        return _Run(config, storage, ledger, stack).work()


class _Run:
    """One run of the job, stage by stage."""

    def __init__(self, config: ClassifyConfig, storage: Storage, ledger: Ledger, stack: contextlib.ExitStack) -> None:
        self.config, self.storage, self.ledger, self.stack = config, storage, ledger, stack
        self.progress = Progress()
        self.workers = workers_of(config)
        self.began = time.monotonic()
        self.ray: Cluster | None = None
        self.always_ray = config.ray_from == 0 or bool(os.environ.get("RAY_ADDRESS"))
        self.loaded: Examples | None = None
        self.data = Data((), (), config.images.size)

    def work(self) -> str:
        """All stages in order."""
        labels = self._labels()
        images = self.storage.read_table(LABELS_FILE)
        prepared = self._prepare(images)
        finish.check_rows(labels, prepared, self.config)
        arranged = self._arrange(images, labels["classes"], list(prepared))
        self.data = Data(tuple(arranged["classes"]), tuple(self._image_files()), self.config.images.size)
        settings = self._settle()
        for training in self._trainings():
            self._train(training, settings)
        return self._finish(labels, prepared, arranged, settings)

    def _labels(self) -> dict[str, Any]:
        known = self.ledger.done(LABELS, "table")
        if known is not None:
            self.progress.skip(LABELS, "already done")
            return known
        with self.progress.stage("read labels"):
            source = read_source(self.config)
            entries = [self.storage.write_table(LABELS_FILE, source.images)]
            if source.rejected.num_rows:
                entries.append(self.storage.write_table("rejected/labels.parquet", source.rejected))
            reasons: dict[str, int] = {}
            for reason in source.rejected["reason"].to_pylist():
                reasons[reason.split(":")[0]] = reasons.get(reason.split(":")[0], 0) + 1
            summary = {
                "rows": source.images.num_rows + source.rejected.num_rows,
                "rejected": dict(sorted(reasons.items())),
                "classes": list(source.classes),
            }
            self.ledger.commit(LABELS, "table", entries, summary)
        return summary

    def _prepare(self, images: pa.Table) -> dict[str, dict[str, Any]]:
        on_ray = self.always_ray or images.num_rows >= self.config.ray_from
        shards = shards_of(images, self.config.images)
        function = PrepareShard(self.ledger.worker(), self.config, shards)
        sizes: Callable[[str], int] = lambda name: shards[name][1]  # noqa: E731
        if on_ray and self.ledger.pending(PREPARE, shards):
            self._connect()
            return run_shards(
                PREPARE, list(shards), function, progress=self.progress, workers=self.workers, ledger=self.ledger,
                unit="images", units=sizes,
            )  # fmt: skip
        return run_shards_locally(
            PREPARE, list(shards), function, progress=self.progress, workers=self.workers, ledger=self.ledger,
            unit="images", units=sizes,
        )  # fmt: skip

    def _image_files(self) -> list[str]:
        markers = self.ledger.shards(PREPARE).values()
        return sorted(
            entry.name for marker in markers for entry in marker.files if entry.name.startswith("_work/images/")
        )

    def _arrange(self, images: pa.Table, classes: Sequence[str], shards: list[str]) -> dict[str, Any]:
        known = self.ledger.done(ARRANGE, "examples")
        if known is not None:
            return known
        with self.progress.stage(ARRANGE):
            files = self._image_files()
            empty = pa.table({"image_id": pa.array([], pa.string()), "sha256": pa.array([], pa.string())})
            prepared = self.storage.read_tables(files, ["image_id", "sha256"]) if files else empty
            arranged = arrange(images, prepared, classes, self.config)
            entry = self.storage.write_table(EXAMPLES_FILE, arranged.table)
            self.ledger.commit(ARRANGE, "examples", [entry], arranged.summary)
        return arranged.summary

    def _settle(self) -> Settings:
        """Device, precision and threads: settled once per run, since they decide the last digits."""
        known = self.ledger.done(SETTLE, "machine")
        if known is None:
            device = self._device()
            known = dataclasses.asdict(
                Settings(device, _precision(self.config, device), _threads(self.config, self.ray))
            )
            self.ledger.commit(SETTLE, "machine", [], known)
        return Settings(**known)

    def _device(self) -> Any:
        wanted, replicas = self.config.training.device, self.config.training.replicas
        if wanted == "auto" and not self._under_ray:
            import torch

            return "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "auto":
            return "cuda" if self._connect().gpus >= replicas else "cpu"
        if wanted == "cuda" and self._under_ray and self._connect().gpus < replicas:
            raise ConfigError(
                f"training.device is 'cuda', and the cluster has {self._connect().gpus:g} GPUs",
                f"one for each of {replicas} replicas",
                "give fewer --training.replicas, or --training.device cpu",
            )
        return wanted

    @property
    def _under_ray(self) -> bool:
        return self.always_ray or self.config.training.replicas > 1

    def _stream(self) -> bool:
        """Whether the images stay in the object store: where they would fill every replica's memory."""
        images = sum(int(marker.summary["kept"]) for marker in self.ledger.shards(PREPARE).values())
        return images * self.data.size**2 > _HELD_BYTES

    def _connect(self) -> Cluster:
        if self.ray is None:
            with self.progress.stage("start Ray"):
                self.ray = self.stack.enter_context(connect(max(self.workers, self.config.training.replicas)))
        return self.ray

    def _trainings(self) -> list[Training]:
        """The members of the ensemble, and the variants of the ablation (of one member)."""
        own, found = self.config, []
        for number in range(own.evaluation.members):
            seed = own.seed if number == 0 else keyed_seed(own.seed, "member", number)
            found.append(Training(member_name(number), dataclasses.replace(own, seed=seed)))
        if own.ablate:
            found += [Training(f"without-{name}", each) for name, each in list(variants(own).items())[1:]]
        return found

    def _train(self, training: Training, settings: Settings) -> None:
        if self.ledger.done(TRAINED, training.name) is not None:
            self.progress.skip(f"train {training.name}", "already done")
            return
        own = training.config.training
        epochs = own.stage1_epochs + own.stage2_epochs
        if training.config.synthetic.path is not None and training.config.synthetic.use == "pretrain":
            epochs += training.config.synthetic.pretrain_epochs
        with self.progress.stage(f"train {training.name}", total=epochs, unit="epochs") as advance:
            if self._under_ray:
                self._connect()
                with _watch(self.storage.sub(f"_work/train/{training.name}"), advance):
                    train_on_ray(
                        training, self.data, settings, self.ledger.worker(), stream=self._stream(), storage=self.storage
                    )
                return

            def said(entry: Mapping[str, Any]) -> None:
                self.ledger.check_lock()
                advance(1)

            do(training, self.data, settings, self.ledger.worker(), said=said, examples=self.examples())

    def examples(self) -> Examples:
        """All examples with their images in this process's memory; read once."""
        if self.loaded is None:
            with self.progress.stage("load images"):
                self.loaded = self.data.load(self.storage)
        return self.loaded

    def _finish(
        self,
        labels: dict[str, Any],
        prepared: dict[str, dict[str, Any]],
        arranged: dict[str, Any],
        settings: Settings,
    ) -> str:
        if self.ledger.done(FINISH, "page") is None:
            finish.finish(
                finish.Outcome(
                    config=self.config,
                    labels=labels,
                    prepared=prepared,
                    arranged=arranged,
                    settings=settings,
                    members=[member_name(number) for number in range(self.config.evaluation.members)],
                    workers=self.workers,
                    where="Ray" if self._under_ray else "one process",
                ),
                self.examples(),
                self.storage,
                self.ledger,
                self.progress,
                self.began,
            )
        return f"{self.storage.uri.rstrip('/')}/{finish.PAGE}"


def member_name(number: int) -> str:
    """Of a member of the ensemble."""
    return f"member-{number}"


def _precision(config: ClassifyConfig, device: str) -> Any:
    wanted = config.training.precision
    if wanted != "auto":
        return wanted
    from raymedlt.embedding.encoder import processor_has_bfloat16

    return "bfloat16" if device == "cuda" or processor_has_bfloat16() else "float32"


def _threads(config: ClassifyConfig, cluster: Cluster | None) -> int:
    """Threads of one replica: the machine's CPUs shared out, at least one. On a cluster of several nodes: one."""
    if cluster is not None and cluster.nodes > 1:
        return 1
    return max(1, (os.cpu_count() or 1) // config.training.replicas)


@contextlib.contextmanager
def _watch(storage: Storage, advance: Callable[[int], None]) -> Iterator[None]:
    """Advance the progress as epochs appear in the checkpoints that the first replica writes."""
    stop = threading.Event()

    def epochs() -> int:
        try:
            return len(json.loads(storage.read_bytes(LATEST))["position"]["history"])
        except (FileNotFoundError, ValueError, KeyError):
            return 0

    def look() -> None:
        seen = 0
        while not stop.wait(_POLL_SECONDS):
            now = epochs()
            if now > seen:
                advance(now - seen)
                seen = now

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True)
class _Worker:
    """What every replica of a training runs."""

    training: Training
    data: Data
    settings: Settings
    handle: LedgerHandle
    refs: list[Any] | None
    """Prepared images in the object store, where they are streamed."""
    starts: np.ndarray | None

    def __call__(self) -> None:
        import ray.train

        context = ray.train.get_context()
        examples, feed = None, None
        if self.refs is not None and self.starts is not None:
            table = self.handle.storage.read_table(EXAMPLES_FILE)
            from raymedlt.classifier.arranging import examples_of

            pixels = RefPixels(self.refs, self.starts, self.data.size)
            examples = examples_of(table, self.data.classes, pixels)
            feed = lambda each, config: ray_feed(each, config.augment)  # noqa: E731
        do(
            self.training, self.data, self.settings, self.handle, examples=examples,
            first=context.get_world_rank() == 0,
            said=lambda entry: None,
            **({} if feed is None else {"feed": feed}),
        )  # fmt: skip


def train_on_ray(
    training: Training, data: Data, settings: Settings, handle: LedgerHandle, *, stream: bool, storage: Storage
) -> None:
    """One training under Ray Train; a replica that dies makes all go on from the last checkpoint.

    Args:
        stream: images stay in the object store and Ray Data makes the batches; else each replica holds all images.

    Raises:
        RaymedltError: what a replica raised, or that Ray gave up.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    refs, starts = put_pixels(data, storage) if stream else (None, None)
    own = training.config.training
    gpu = settings.device == "cuda"
    resources = {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}
    worker = _Worker(training, data, settings, handle, refs, starts)
    threads = str(settings.threads)
    environment = worker_environment() | {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    trainer = TorchTrainer(
        worker,
        scaling_config=ScalingConfig(num_workers=own.replicas, use_gpu=gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=content_hash(storage.uri, training.name),
            storage_path=storage.path("_work/ray_train"),
            storage_filesystem=None if storage.is_local else storage.filesystem,
            failure_config=FailureConfig(max_failures=ATTEMPTS - 1, controller_failure_limit=ATTEMPTS - 1),
            worker_runtime_env={"env_vars": environment},
            logging_config=LoggingConfig(log_level="ERROR"),  # the job says what is worth saying
        ),
    )  # fmt: skip
    try:
        trainer.fit()
    except TrainingFailedError as error:
        own_errors = [each for each in _causes(error) if isinstance(each, RaymedltError)]
        if own_errors:
            raise own_errors[0] from None
        raise RaymedltError(
            f"training '{training.name}': Ray Train gave up after {ATTEMPTS} attempts ({_kinds(error)})",
            "replicas that live long enough for one checkpoint",
            "look at Ray's logs, give fewer replicas if memory is short, and give the same command again to go on",
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that replicas raised, inside Ray's."""
    failures = getattr(error, "worker_failures", None) or {}
    for each in [*failures.values(), error.__cause__]:
        if each is not None:
            yield each
            cause = getattr(each, "cause", None) or each.__cause__
            if cause is not None:
                yield cause


def _kinds(error: BaseException) -> str:
    return ", ".join(sorted({type(each).__name__ for each in _causes(error)})) or type(error).__name__


# Streaming through the object store


def put_pixels(data: Data, storage: Storage) -> tuple[list[Any], np.ndarray]:
    """Prepared images into the object store, file by file; references, and the first row of each file."""
    import ray

    refs, sizes = [], []
    for name in data.shards:
        pixels = pixels_of(storage.read_table(name, ["pixels"]), data.size)
        refs.append(ray.put(pixels))
        sizes.append(len(pixels))
    return refs, np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64)


class RefPixels:
    """Prepared images in Ray's object store: a node fetches a shard once, and reads it without a copy."""

    def __init__(self, refs: Sequence[Any], starts: np.ndarray, size: int) -> None:
        self.refs, self.starts, self.size = list(refs), starts, size

    def take(self, rows: Rows) -> Bytes:
        """uint8 [len(rows), S, S]."""
        import ray

        owners = np.searchsorted(self.starts, rows, side="right") - 1
        needed, place = np.unique(owners, return_inverse=True)
        shards = PixelShards.of(ray.get([self.refs[owner] for owner in needed]))
        return shards.take(rows - self.starts[owners] + shards.starts[place])


def ray_feed(examples: Examples, changes: AugmentConfig) -> Feed:
    """Batches made by Ray Data's tasks anywhere in the cluster, in order, `AHEAD` of the network."""
    import ray
    import torch

    shared = ray.put(examples)  # ids and labels; the images are references

    def make(row: Mapping[str, Any]) -> dict[str, Any]:
        step = Step(row["rows"], tuple(int(key) for key in row["keys"]))
        batch = make_batch(ray.get(shared), step, changes, float(row["weight"]))
        return {name: part.numpy() for name, part in batch._asdict().items()}

    def feed(steps: Sequence[Step], synthetic_weight: float) -> Iterator[Batch]:
        if not steps:
            return
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        rows = [{"rows": step.rows, "keys": list(step.keys), "weight": synthetic_weight} for step in steps]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            make, num_cpus=1, runtime_env={"env_vars": worker_environment()}
        )
        for row in dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=AHEAD):
            yield Batch(*(torch.from_numpy(np.array(row[name][0])) for name in Batch._fields))

    return feed


# Use over Ray Data


def predict_on_ray(
    dataset: ray.data.Dataset,
    folder: str,
    *,
    column: str = "image",
    batch: int = 128,
    actors: int = 1,
    device: str = "cpu",
) -> ray.data.Dataset:
    """Calibrated probabilities for a Ray Dataset of images; lazy, like every step of a Dataset.

    Rows keep their columns and get two more: `probabilities`, list<float32> in the order of `load(folder).classes`, and
    `unreadable`, "" or why there is no image; then `probabilities` is null. A bad image never stops the run. The values
    are those of `load(folder).predict` with one thread, whatever `batch` and `actors` are.

    Every actor holds the model once and computes with one thread, so on CPUs throughput grows with `actors`. If they
    would hold every CPU of the cluster, they ask for none: Ray Data's read tasks need whole CPUs and would wait for
    them for ever.

    Args:
        dataset: its rows have the image in `column`: the bytes of a PNG, JPEG or DICOM file, struct<bytes, path> (the
            Hugging Face image feature), or an absolute path or a URI. Files are opened by the actors, wherever the
            paths lead: they should come from someone you trust.
        folder: of a finished run of jobs/classify.py, readable on every node.
        batch: rows that an actor takes at a time; best a multiple of the run's evaluation.batch_images.
        actors: at most so many.
        device: "cpu", or "cuda" for one GPU per actor.

    Raises:
        InputError: there is no finished classifier, or a column is missing or has one of the two names (where the
            dataset does not know its columns yet: when it is executed).

    Memory: per actor the model and `batch` decoded images.
    """
    import ray
    from ray.data import ActorPoolStrategy

    read_about(folder)
    schema = dataset.schema(fetch_if_missing=False)
    if schema is not None:
        _check_columns(schema.names, column)
    leaves_one = actors < ray.cluster_resources().get("CPU", 0)
    return dataset.map_batches(
        _Predict,
        fn_constructor_args=(str(folder), column, device),
        batch_size=batch,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=1.0 if leaves_one else 0.0,
        num_gpus=1.0 if device == "cuda" else None,
        runtime_env={"env_vars": worker_environment()},
    )


def _check_columns(names: Sequence[str], column: str) -> None:
    taken = [name for name in ("probabilities", "unreadable") if name in names]
    if column not in names or taken:
        raise InputError(
            f"a dataset with the columns {sorted(names)}",
            f"the column '{column}' with the images, and neither 'probabilities' nor 'unreadable'",
            "give the column's name, or rename columns",
        )


class _Predict:
    """The model of one actor."""

    def __init__(self, folder: str, column: str, device: str) -> None:
        self.classifier, self.column = load(folder, device), column

    def __call__(self, table: pa.Table) -> pa.Table:
        _check_columns(table.column_names, self.column)
        cells = table[self.column].to_pylist()
        images = [(cell["bytes"] or cell["path"]) if isinstance(cell, dict) else cell for cell in cells]
        found, reasons = self.classifier.predict_each(images)
        rows = [None if reason else row for row, reason in zip(found, reasons, strict=True)]
        table = table.append_column("probabilities", pa.array(rows, pa.list_(pa.float32())))
        return table.append_column("unreadable", pa.array(reasons, pa.string()))

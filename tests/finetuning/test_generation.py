"""The model is tiny and knows nothing; its `generate` is transformers' own."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import writer_world
from writer_world import images, writer

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.finetuning.generation import (
    WRITE,
    WRITING,
    WRITTEN,
    KeyedDraws,
    MakeShardWriter,
    StoredPixels,
    Writing,
    plan_writing,
    write,
    written,
)
from raymedlt.images.examples import PixelShards, pixels_column
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.shards import run_shards_locally
from raymedlt.storage import Storage

GREEDY = Writing(batch=4, max_tokens=12)
DRAWN = Writing(batch=4, max_tokens=12, temperature=1.0, seed=5)
KEYS = [f"image{number}" for number in range(10)]


def test_the_likeliest_words_up_to_the_end_token() -> None:
    found = write(writer(), images(10), KEYS, GREEDY)
    assert len({report.text for report in found}) > 3  # it looks at the image
    assert {report.finished for report in found} == {True, False}
    for image, report in zip(images(10), found, strict=True):
        assert report == by_hand(image)


def by_hand(image: np.ndarray) -> tuple[str, int, bool]:
    """One word after the other, without a cache."""
    processing, model = writer_world.Processing(), writer_world.model()
    inputs = processing.batch(image[None])
    tokens = inputs["input_ids"]
    words: list[int] = []
    with torch.inference_mode():
        for _ in range(GREEDY.max_tokens):
            logits = model(input_ids=tokens, pixel_values=inputs["pixel_values"]).logits
            words.append(int(logits[0, -1].argmax()))
            tokens = torch.cat([tokens, torch.tensor([[words[-1]]])], 1)
            if words[-1] == 1:
                break
    return processing.decode(torch.tensor([words]))[0], len(words), words[-1] == 1


@pytest.mark.parametrize("how", [GREEDY, DRAWN])
def test_a_report_does_not_depend_on_the_others(how: Writing) -> None:
    found = write(writer(), images(10), KEYS, how)
    order = np.random.default_rng(1).permutation(10)
    other = write(writer(), images(10)[order], [KEYS[row] for row in order], how)
    assert [found[row] for row in order] == other
    assert write(writer(), images(10)[:3], KEYS[:3], how) == found[:3]  # a batch that is filled up
    assert write(writer(), images(10)[:0], [], how) == []


def test_draws_follow_seed_and_key() -> None:
    same = np.repeat(images(1), 6, 0)
    found = [report.text for report in write(writer(), same, KEYS[:6], DRAWN)]
    assert len(set(found)) > 1
    assert found == [report.text for report in write(writer(), same, KEYS[:6], DRAWN)]
    other = Writing(batch=4, max_tokens=12, temperature=1.0, seed=6)
    assert found != [report.text for report in write(writer(), same, KEYS[:6], other)]
    cold = Writing(batch=4, max_tokens=12, temperature=1e-4)
    assert write(writer(), images(10), KEYS, cold) == write(writer(), images(10), KEYS, GREEDY)


def test_draws_have_the_probabilities_of_the_softmax() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    draws = KeyedDraws([str(number) for number in range(4000)], 0.5, 0)
    chosen = Counter(draws(torch.zeros(0), logits.repeat(4000, 1)).argmax(1).tolist())
    shares = [chosen[word] / 4000 for word in range(4)]
    assert shares == pytest.approx(torch.softmax(logits / 0.5, 0).tolist(), abs=0.02)
    assert chosen[3] == 0


def test_the_models_own_generation_settings_do_not_count() -> None:
    model = writer_world.model()
    before = write(writer(), images(4), KEYS[:4], GREEDY)
    kept = model.generation_config.to_dict()
    try:
        model.generation_config.update(repetition_penalty=50.0, do_sample=True, no_repeat_ngram_size=1)
        assert write(writer(), images(4), KEYS[:4], GREEDY) == before
    finally:
        model.generation_config.update(**kept)


def test_one_key_for_each_image() -> None:
    with pytest.raises(InputError, match=r"3 images and 2 keys\. Expected: one key for each image"):
        write(writer(), images(3), KEYS[:2], GREEDY)


# As a job


def studies(count: int) -> pa.Table:
    rows = np.random.default_rng(2).permutation(count)
    return pa.table(
        {"report_id": [f"r{row}" for row in rows], "image_id": [f"i{row}" for row in rows], "image_row": rows},
        schema=WRITING,
    )


def open_ledger(folder: Path) -> Ledger:
    return Ledger.open(Storage.of(str(folder)), config_hash="c", config={}, data_hash="d")


def pixels(count: int) -> PixelShards:
    return PixelShards.of([images(count)])


def test_shards_write_what_the_function_writes_and_resume(tmp_path: Path) -> None:
    count = 70
    with open_ledger(tmp_path) as ledger:
        shards = plan_writing(studies(count), DRAWN, ledger)
        assert list(shards.values()) == [32, 32, 6]
        make = MakeShardWriter(ledger.worker(), writer, partial(pixels, count), DRAWN, threads=1)
        first = next(iter(shards))
        make()(first)
        kept = ledger.storage.read_bytes(f"_work/written/{first}.parquet")

        def run() -> dict:
            return run_shards_locally(
                WRITE, list(shards), None, progress=Progress(), workers=1, ledger=ledger, actor_factory=make
            )

        summaries = run()
        assert plan_writing(studies(count), DRAWN, ledger) == shards
        table = written(ledger.storage, shards)
        assert ledger.storage.read_bytes(f"_work/written/{first}.parquet") == kept
    expected = write(writer(), images(count), [f"r{row}" for row in range(count)], DRAWN)
    assert table.schema == WRITTEN
    assert table["report_id"].to_pylist() == [f"r{row}" for row in range(count)]
    assert table["completion"].to_pylist() == [report.text for report in expected]
    assert table["finished"].to_pylist() == [report.finished for report in expected]
    assert sum(each["reports"] for each in summaries.values()) == count
    assert sum(each["unfinished"] for each in summaries.values()) == sum(not report.finished for report in expected)
    assert sum(each["tokens"] for each in summaries.values()) == sum(report.tokens for report in expected)


def test_nothing_to_write_for_and_a_lost_shard(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        with pytest.raises(InputError, match="0 studies to write for"):
            plan_writing(studies(0), GREEDY, ledger)
        with pytest.raises(InputError, match="4 studies to write for, 2 distinct ids"):
            plan_writing(pa.concat_tables([studies(2)] * 2), GREEDY, ledger)
        shards = plan_writing(studies(5), GREEDY, ledger)
        MakeShardWriter(ledger.worker(), writer, partial(pixels, 5), GREEDY, 1)()(next(iter(shards)))
        with pytest.raises(ConsistencyError, match=r"5 reports written\. Expected: 6, as planned"):
            written(ledger.storage, dict.fromkeys(shards, 6))


def test_stored_pixels_hold_one_file_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, counts = Storage.of(str(tmp_path)), [3, 0, 4, 2]
    every = images(9)
    files = []
    for number, end in enumerate(np.cumsum(counts)):
        files.append(f"{number}.parquet")
        part = every[end - counts[number] : end]
        storage.write_table(files[-1], pa.table({"pixels": pixels_column(part)}))
    read: list[str] = []
    real = Storage.read_table
    monkeypatch.setattr(
        Storage, "read_table", lambda self, name, columns: (read.append(name), real(self, name, columns))[1]
    )
    stored = StoredPixels(storage, files, counts, writer_world.SIZE)
    for rows in ([0, 2], [2, 3, 4], [6, 8, 7, 6], []):
        chosen = np.asarray(rows, np.int64)
        assert (stored.take(chosen) == every[chosen]).all()
    assert read == ["0.parquet", "2.parquet", "3.parquet"]
    with pytest.raises(InputError, match=r"image rows 0 to 9\. Expected: 0 to 8"):
        stored.take(np.array([0, 9]))

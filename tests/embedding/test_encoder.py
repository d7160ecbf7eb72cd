"""The encoder: vectors that follow from the texts alone, equal to sentence-transformers', in either precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from raymedlt.embedding import encoder as module
from raymedlt.embedding.encoder import (
    MIN_AGREEMENT,
    Encoder,
    choose_precision,
    load_encoder,
    packaged_model,
    processor_has_bfloat16,
    read_layout,
)
from raymedlt.errors import ConfigError, InputError

WHERE = ("in the left lower lobe", "at the right base", "near the hilum", "along the fissure", "behind the heart")
WHAT = (
    "opacity",
    "small effusion",
    "linear scar",
    "calcified nodule",
    "patch of atelectasis that was not there before",
)
SENTENCES = [
    f"{opening} {what} {where}."
    for opening in ("There is a", "No", "Possible")
    for what in WHAT
    for where in WHERE
] + ["Clear.", "Normal.", "Sin derrame pleural."]  # fmt: skip


@pytest.fixture(scope="session")
def packaged() -> Encoder:
    return load_encoder(None, "float32", 128, "cpu")


@pytest.fixture(scope="session")
def small_batches() -> Encoder:
    """Eight at a time, so that SENTENCES make ten batches."""
    return Encoder(batch_sentences=8)


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = (a.astype(np.float64) * b).sum(1)
    return result


def test_unit_vectors_in_the_order_given(packaged: Encoder):
    vectors = packaged.encode(SENTENCES)
    assert vectors.shape == (len(SENTENCES), 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = packaged.encode([SENTENCES[7]])
    assert cosines(alone, vectors[7:8])[0] > 0.999999
    assert np.argmax(vectors @ alone[0]) == 7


def test_order_of_arrival_changes_no_bit(small_batches: Encoder):
    vectors = small_batches.encode(SENTENCES)
    order = np.random.default_rng(0).permutation(len(SENTENCES))
    assert np.array_equal(small_batches.encode([SENTENCES[i] for i in order]), vectors[order])


def test_threads_change_no_bit(small_batches: Encoder):
    assert np.array_equal(small_batches.encode(SENTENCES, threads=1), small_batches.encode(SENTENCES, threads=2))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sentence_alone_has_the_same_bits_as_in_any_company(precision):
    together = Encoder(precision=precision).encode(SENTENCES)
    few = Encoder(precision=precision, batch_sentences=3)
    assert np.array_equal(few.encode(SENTENCES), together)
    assert all(np.array_equal(few.encode([SENTENCES[i]])[0], together[i]) for i in range(0, len(SENTENCES), 7))


def test_equals_sentence_transformers(packaged: Encoder):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(packaged_model()), device="cpu").encode(SENTENCES, normalize_embeddings=True)
    assert cosines(packaged.encode(SENTENCES), theirs).min() >= MIN_AGREEMENT


def test_long_sentences_are_cut(packaged: Encoder):
    assert packaged.layout.max_tokens == 256
    long, longer = "opacity " * 300, "opacity " * 400 + "and a ship at sea"
    vectors = packaged.encode([long, longer])
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)


def test_no_sentences(packaged: Encoder):
    assert packaged.encode([]).shape == (0, 384)


def test_an_empty_sentence_is_refused(packaged: Encoder):
    with pytest.raises(InputError, match="a sentence is empty"):
        packaged.encode(["Clear.", ""])


class TightMemory(Encoder):
    """Runs out of memory above `room` sentences, as a small machine does."""

    room = 4
    tried: list[int]  # batch sizes, in order

    def _forward(self, tokens: list[list[int]]) -> npt.NDArray[np.float32]:
        self.tried.append(len(tokens))
        if len(tokens) > self.room:
            raise MemoryError
        return super()._forward(tokens)


@pytest.fixture(scope="module")
def tight() -> TightMemory:
    return TightMemory(batch_sentences=16)


def test_out_of_memory_halves_the_batch_and_loses_nothing(tight: TightMemory, packaged: Encoder):
    tight.room, tight.tried = 4, []
    vectors = tight.encode(["No effusion."] * 20)  # one length, so that sixteen are tried at once
    assert tight.tried == [16, 8, 4, 4, 8, 4, 4, 4]
    assert np.array_equal(vectors, packaged.encode(["No effusion."] * 20))


def test_a_single_sentence_that_does_not_fit_raises(tight: TightMemory):
    tight.room, tight.tried = 0, []
    with pytest.raises(MemoryError):
        tight.encode(["No effusion."] * 4)
    assert tight.tried == [4, 2, 1]


# precision

needs_bfloat16 = pytest.mark.skipif(not processor_has_bfloat16(), reason="the processor has no bfloat16 matrix unit")


def test_float32_is_taken_at_its_word():
    choice = choose_precision(None, "float32")
    assert (choice.precision, choice.agreement, choice.reason) == ("float32", 1.0, "asked for")


@needs_bfloat16
def test_bfloat16_agrees_where_the_processor_has_it():
    choice = choose_precision(None, "auto", SENTENCES)
    assert choice.precision == "bfloat16"
    assert MIN_AGREEMENT <= choice.agreement < 1
    assert "cosine to float32 at least 0.9999" in choice.reason


@needs_bfloat16
def test_reduced_precision_is_another_computation_with_the_same_guarantees(packaged: Encoder):
    reduced = Encoder(precision="bfloat16", batch_sentences=8)
    vectors = reduced.encode(SENTENCES)
    assert vectors.dtype == np.float32
    assert not np.array_equal(vectors, packaged.encode(SENTENCES))
    assert cosines(vectors, packaged.encode(SENTENCES)).min() >= MIN_AGREEMENT
    assert np.array_equal(reduced.encode(SENTENCES[::-1], threads=2)[::-1], vectors)


def test_without_the_unit_auto_stays_with_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "processor_has_bfloat16", lambda: False)
    assert choose_precision(None, "auto").precision == "float32"


def test_auto_falls_back_where_the_sample_disagrees(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "processor_has_bfloat16", lambda: True)
    monkeypatch.setattr(module, "MIN_AGREEMENT", 1.1)
    choice = choose_precision(None, "auto")
    assert choice.precision == "float32"
    assert choice.reason.startswith("bfloat16 agreed to")


def test_asking_for_a_precision_that_disagrees_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MIN_AGREEMENT", 1.1)
    with pytest.raises(
        ConfigError, match=r"bfloat16 agrees with float32 to a cosine of .* only. Expected: at least 1.1"
    ):
        choose_precision(None, "bfloat16")


# models of others


def folder_with(tmp_path: Path, pooling: dict[str, object] | None, modules: list[str] | None = None) -> Path:
    if pooling is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if modules is not None:
        types = [{"idx": i, "type": f"sentence_transformers.models.{name}"} for i, name in enumerate(modules)]
        (tmp_path / "modules.json").write_text(json.dumps(types))
    return tmp_path


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        (None, "mean"),
    ],
)
def test_known_poolings(tmp_path: Path, pooling: dict[str, object] | None, expected: str):
    assert read_layout(folder_with(tmp_path, pooling)).pooling == expected


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_lasttoken": True},
        {"pooling_mode": "max"},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_unknown_pooling_is_refused(tmp_path: Path, pooling: dict[str, object]):
    with pytest.raises(ConfigError, match=r"the model's pooling is .* Expected: mean or cls pooling"):
        read_layout(folder_with(tmp_path, pooling))


def test_two_poolings_at_once_are_refused(tmp_path: Path):
    """sentence-transformers would put both one behind the other: another width, other vectors."""
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    with pytest.raises(ConfigError, match="pooling"):
        read_layout(folder_with(tmp_path, pooling))


def test_layers_behind_the_pooling_are_refused(tmp_path: Path):
    folder = folder_with(tmp_path, {"pooling_mode": "mean"}, ["Transformer", "Pooling", "Dense", "Normalize"])
    with pytest.raises(ConfigError, match=r"layers that this encoder doesn't know: \['Dense'\]"):
        read_layout(folder)


def test_longest_input_is_read(tmp_path: Path):
    assert read_layout(tmp_path).max_tokens == 512
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 77}')
    assert read_layout(tmp_path).max_tokens == 77


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", ""])
def test_a_model_that_is_not_there_is_a_config_error(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"(can't be loaded|neither a folder nor in the local cache)"):
        Encoder(name or str(tmp_path))


def test_the_encoder_is_kept():
    assert load_encoder(None, "float32", 128, "cpu") is load_encoder(None, "float32", 128, "cpu")

"""Splits by patient: shares, leaks, folds, groups, and PadChest's real long tail."""

import ast
import hashlib
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from raymedlt.errors import InputError
from raymedlt.images.splits import check_leaks, complete_splits, folds, groups, split_patients
from raymedlt.schema import IMAGE_LABELS, SPLITS

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
CONFIG = SimpleNamespace(validation=0.1, test=0.2)


def long_tailed(images: int, patients: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Images of patients, some with many images, and labels of six classes from 30 % down to about 0.3 %."""
    rng = np.random.default_rng(seed)
    ids = [f"p{number}" for number in rng.geometric(3 / patients, images) % patients]
    ids[:patients] = [f"p{number}" for number in range(patients)]
    return ids, rng.random((images, 6)) < np.array([0.3, 0.15, 0.05, 0.02, 0.01, 0.003])


def table_of(ids: list[str], split: list[str] | None = None, synthetic: list[bool] | None = None) -> pa.Table:
    rows = len(ids)
    columns = {name: [""] * rows for name in IMAGE_LABELS.names}
    columns |= {
        "image_id": [f"i{number}" for number in range(rows)],
        "patient_id": ids,
        "split": split or [""] * rows,
        "synthetic": synthetic or [False] * rows,
        **{name: [[]] * rows for name in ("labels", "uncertain", "unknown")},
    }
    return pa.table(columns, schema=IMAGE_LABELS)


def patients_of(ids: list[str], split: np.ndarray, flags: np.ndarray, name: str) -> int:
    return len({patient for patient, s, flag in zip(ids, split, flags, strict=True) if s == name and flag})


def test_a_patient_is_in_one_split_and_every_class_in_its_shares():
    ids, Y = long_tailed(6000, 2500)
    split = split_patients(ids, Y, SHARES, seed=1)
    assert len(set(zip(ids, split, strict=True))) == len(set(ids))
    for flags in [np.ones(len(ids), bool), *Y.T]:
        total = sum(patients_of(ids, split, flags, name) for name in SPLITS)
        for name, share in SHARES.items():
            assert abs(patients_of(ids, split, flags, name) - share * total) <= 2, (name, total)
    images = {name: float((split == name).mean()) for name in SPLITS}
    assert images == pytest.approx(SHARES, abs=0.03)


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does():
    ids, Y = long_tailed(800, 300)
    split = split_patients(ids, Y, SHARES, seed=1)
    order = np.random.default_rng(5).permutation(len(ids))
    shuffled = split_patients([ids[row] for row in order], Y[order], SHARES, seed=1)
    assert (shuffled == split[order]).all()
    assert (split_patients(ids, Y, SHARES, seed=2) != split).mean() > 0.2


def test_three_patients_of_a_class_are_one_in_each_split():
    # Classes 1 to 3 have one patient each, who all have class 0: by their own shares all three would be training.
    Y = np.zeros((60, 4), bool)
    Y[:3, 0] = True
    Y[[0, 1, 2], [1, 2, 3]] = True
    for seed in range(20):
        split = split_patients([f"p{number:02}" for number in range(60)], Y, SHARES, seed=seed)
        assert sorted(split[:3]) == sorted(SPLITS)


def test_every_split_gets_a_patient_however_few_there_are():
    split = split_patients(["a", "b", "c"], np.zeros((3, 2)), SHARES, seed=0)
    assert sorted(split) == sorted(SPLITS)
    rng = np.random.default_rng(0)
    for seed in range(300):
        patients, classes = int(rng.integers(3, 7)), int(rng.integers(1, 8))
        Y = rng.random((patients, classes)) < 0.6
        assert set(split_patients([str(n) for n in range(patients)], Y, SHARES, seed=seed)) == set(SPLITS)
    with pytest.raises(InputError, match=r"2 patients for the 3 splits .*at least one patient for each split"):
        split_patients(["a", "b", "b"], np.zeros((3, 2)), SHARES, seed=0)
    with pytest.raises(InputError, match=r"1 of 3 images have no patient id"):
        split_patients(["a", "b", ""], np.zeros((3, 2)), SHARES, seed=0)


def test_ids_are_strings():
    ids = ["1", "01", "1.0", "001"] * 3
    assert len(set(split_patients(ids, np.zeros((12, 1)), {"a": 1, "b": 1, "c": 1, "d": 1}, seed=0)[:4])) == 4


def test_a_table_without_splits_gets_all_three():
    ids, Y = long_tailed(500, 200)
    done = complete_splits(table_of(ids), Y, CONFIG, seed=3)
    assert done["split"].to_pylist() == split_patients(ids, Y, SHARES, seed=3).tolist()
    assert done.schema == IMAGE_LABELS
    assert done.drop_columns("split") == table_of(ids).drop_columns("split")


@pytest.mark.parametrize(("theirs", "missing", "share"), [("test", "validation", 1 / 8), ("validation", "test", 2 / 9)])
def test_their_own_splits_stay_and_what_is_missing_is_cut_from_training(theirs: str, missing: str, share: float):
    ids, Y = long_tailed(900, 400)
    own = [theirs if int(patient[1:]) % 3 == 0 else "train" for patient in ids]
    done = complete_splits(table_of(ids, own), Y, CONFIG, seed=0)
    split = np.array(done["split"].to_pylist())
    assert ((split == theirs) == (np.array(own) == theirs)).all()
    assert set(split) == set(SPLITS)
    trained = len({patient for patient, name in zip(ids, own, strict=True) if name == "train"})
    assert patients_of(ids, split, np.ones(len(ids), bool), missing) == pytest.approx(share * trained, abs=1)


def test_complete_splits_stay_as_they_are():
    ids = ["a", "a", "b", "c"]
    table = table_of(ids, ["train", "train", "validation", "test"])
    assert complete_splits(table, np.zeros((4, 1)), CONFIG, seed=0) == table


def test_synthetic_images_are_for_training_and_have_no_part_in_the_shares():
    ids = [*(f"p{number}" for number in range(20)), *([""] * 30)]
    synthetic = [False] * 20 + [True] * 30
    done = complete_splits(table_of(ids, synthetic=synthetic), np.zeros((50, 1)), CONFIG, seed=0)
    split = done["split"].to_pylist()
    assert split[20:] == ["train"] * 30
    assert [split[:20].count(name) for name in SPLITS] == [14, 2, 4]
    with pytest.raises(InputError, match=r"30 synthetic images are validation or test images"):
        complete_splits(table_of(ids, ["train"] * 20 + ["test"] * 30, synthetic), np.zeros((50, 1)), CONFIG, seed=0)


@pytest.mark.parametrize(
    ("ids", "split", "message"),
    [
        (["a", "b", "c", ""], None, "1 of 4 images have no patient id"),
        (["a", "b", "c", "d"], ["train", "", "test", "train"], "1 of 4 images have no split, the others have one"),
        (["a", "b", "c", "d"], ["test"] * 4, "no image is a training image"),
        (["a", "a", "b", "b"], None, "2 patients for the 3 splits"),
        (
            ["a", "b", "c", "a"],
            ["train", "validation", "test", "test"],
            "1 patients have images in more than one split",
        ),
        ([], None, "the label table has no images"),
    ],
)
def test_what_cannot_be_split_is_refused(ids: list[str], split: list[str] | None, message: str):
    with pytest.raises(InputError, match=message):
        complete_splits(table_of(ids, split), np.zeros((len(ids), 1)), CONFIG, seed=0)


def test_leaks_are_refused_with_counts_and_without_ids():
    good = table_of(["secret1", "secret2", "", ""], ["train", "test", "train", "test"])
    check_leaks(good)
    check_leaks(good, ["x", "y", None, None])
    check_leaks(good, ["x", "y", "x", ""])
    leaking = table_of(["secret1", "secret2", "secret1", "secret2", "c"], ["train", "train", "test", "test", "test"])
    with pytest.raises(InputError, match=r"2 patients have images in more than one split") as refused:
        check_leaks(leaking)
    assert "secret" not in str(refused.value)
    assert "take it out of the label table" in str(refused.value)
    repeated = good.set_column(0, IMAGE_LABELS.field(0), pa.array(["i", "i", "j", "k"]))
    with pytest.raises(InputError, match=r"1 image ids are in more than one split"):
        check_leaks(repeated)
    with pytest.raises(InputError, match=r"1 images have copies under another name in another split"):
        check_leaks(good, ["x", "x", "y", "z"])


def test_folds_are_sha256_modulo_k():
    ids = ["1", "2", "00013", "Ñ"]
    assert folds(ids, 5).tolist() == [int(hashlib.sha256(i.encode()).hexdigest(), 16) % 5 for i in ids]
    one = 0x6B86B273FF34FCE19D6B804EFF5A3F5747ADA4EAA22F1D49C01E52DDB7875B4B  # printf 1 | sha256sum
    assert folds(["1"], 7).tolist() == [one % 7]
    many = folds([str(number) for number in range(5000)], 5)
    assert np.bincount(many).min() > 900


def test_groups_at_the_edges():
    Y = np.zeros((1000, 5))
    for number, count in enumerate([101, 100, 11, 10, 0]):
        Y[:count, number] = 1
    assert groups(Y, None, 0.10, 0.01) == {0: "head", 1: "medium", 2: "medium", 3: "tail", 4: "tail"}
    known = np.ones_like(Y, dtype=bool)
    known[0, 0] = known[0, 2] = False  # an uncertain positive counts as none
    assert groups(Y, known, 0.10, 0.01) == {0: "medium", 1: "medium", 2: "tail", 3: "tail", 4: "tail"}


def padchest() -> tuple[list[str], np.ndarray]:
    try:
        path = Path(
            importlib.metadata.distribution("torchxrayvision").locate_file(
                "torchxrayvision/data/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
            )
        )
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torchxrayvision isn't installed")
    table = pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip"),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=["PatientID", "Labels"], column_types={"PatientID": pa.string(), "Labels": pa.string()}
        ),
    )
    texts = table["Labels"].combine_chunks().dictionary_encode()
    sets = [_labels(text) for text in texts.dictionary.to_pylist()]
    names = {name: number for number, name in enumerate(sorted(set().union(*sets)))}
    rows = np.zeros((len(sets), len(names)), bool)
    for row, labels in zip(rows, sets, strict=True):
        row[[names[name] for name in labels]] = True
    kept = table["PatientID"].to_numpy(zero_copy_only=False).astype(str) != ""
    Y = rows[texts.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return np.array(table["PatientID"].to_pylist(), dtype=object)[kept].tolist(), Y[kept]


def _labels(text: str) -> set[str]:
    try:
        return {str(label).strip() for label in ast.literal_eval(text) if str(label).strip()}
    except (ValueError, SyntaxError, TypeError):
        return set()


def test_padchests_long_tail():
    ids, Y = padchest()
    assert len(ids) > 150_000
    assert Y.shape[1] > 150
    split = split_patients(ids, Y, SHARES, seed=0)
    check_leaks(table_of(ids, split.tolist()))
    assert {name: float((split == name).mean()) for name in SPLITS} == pytest.approx(SHARES, abs=0.01)
    owner = np.unique(np.array(ids, dtype=object), return_inverse=True)[1]
    missed = 0
    for flags in Y.T:
        counts = {name: len(np.unique(owner[flags & (split == name)])) for name in SPLITS}
        total = sum(counts.values())
        if total >= 3:
            missed += min(counts.values()) == 0
        for name, share in SHARES.items():
            assert abs(counts[name] - share * total) <= max(4, 0.03 * total), (counts, total)
    assert missed == 0

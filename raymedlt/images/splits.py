"""Who is trained on: splits by patient that keep the share of every label, a leak check, folds, frequency groups.

Splits follow iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data",
ECML PKDD 2011, algorithm 1) with patients as the examples. Its second-order variant (Szymański and Kajdanowicz, LIDTA
2017) balances pairs of labels as well; it is not used: with 193 classes most pairs have fewer patients than splits.

Shape suffixes: N images, P patients, C classes, S splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.errors import InputError
from raymedlt.schema import SPLITS, TEST, TRAIN, VALIDATION
from raymedlt.seeds import keyed_seed

HEAD, MEDIUM, TAIL = "head", "medium", "tail"


class Shares(Protocol):
    """What `complete_splits` reads of a job's section `split`."""

    @property
    def validation(self) -> float: ...

    @property
    def test(self) -> float: ...


def split_patients(
    patient_ids: Sequence[str], Y_NC: npt.ArrayLike, shares: Mapping[str, float], *, seed: int
) -> npt.NDArray[np.str_]:
    """A split for each image, the same for all images of a patient, with every label in its shares.

    The rarest class goes first: each of its patients joins the split that lacks most patients of that class (ties: most
    patients overall, then the earlier split), in the order of a hash of seed and id. Patients without labels come last.
    One rule is added to the paper's: a class with at least S patients shall have one in each split, so a patient joins
    a split that has none of a class as soon as the class's remaining patients are just enough for such splits. Where
    classes ask for different splits the larger number of classes wins, so for a few label sets one stays unmet.

    A patient has a class if one of their images has it. The result depends on ids, labels and seed, not on the order of
    the rows. The order of the classes breaks ties between equally rare ones. Shares are of patients, the units that are
    independent of each other, and those of images follow on average. Patients with most images first would look more
    balanced and is a trap: each class's first patients go to training, which got 78 % of PadChest's images, not 70.

    Args:
        patient_ids: [N], strings.
        Y_NC: labels, true or 1 where an image has a class; uncertain and unknown ones are to be 0.
        shares: share of the patients for each split; they are divided by their sum.
        seed: the run's seed.

    Returns:
        [N] names of `shares`. Every split has at least one patient.

    Raises:
        InputError: fewer patients than splits, or an image without a patient id.

    Complexity: O(L S + C^2) steps of Python, L the sum of the patients' class counts, and O(N C) in NumPy.
    """
    _require_patients(patient_ids)
    names = list(shares)
    positive_NC = np.asarray(Y_NC) > 0
    patients, patient_of_N = np.unique(np.asarray(patient_ids, dtype=object), return_inverse=True)
    if len(patients) < len(names):
        raise InputError(
            f"{len(patients)} patients for the {len(names)} splits {names}",
            "at least one patient for each split",
            "give more images, or a label table with the patient_id of each image",
        )
    # One column more, which all patients have: it spreads those without a label, and makes the overall shares right.
    classes = positive_NC.shape[1] + 1
    rows, columns = np.nonzero(positive_NC)
    pairs = np.unique(patient_of_N[rows].astype(np.int64) * classes + columns)
    pairs = np.union1d(pairs, np.arange(len(patients), dtype=np.int64) * classes + classes - 1)
    owner, label = pairs // classes, pairs % classes
    starts = np.searchsorted(owner, np.arange(len(patients) + 1))

    rank_P = np.argsort(np.argsort(np.array([keyed_seed(seed, "split", patient) for patient in patients.tolist()])))
    order = np.lexsort((rank_P[owner], label))  # each class's patients, in the order in which they are placed
    of_class = np.split(owner[order], np.searchsorted(label[order], np.arange(1, classes)))

    chosen_P = _place(
        [block.tolist() for block in of_class],
        [label[a:b].tolist() for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)],
        np.array([shares[name] for name in names]) / sum(shares.values()),
    )
    split_N: npt.NDArray[np.str_] = np.array(names)[chosen_P][patient_of_N]
    return split_N


def _place(of_class: list[list[int]], classes_of: list[list[int]], share_S: npt.NDArray[np.float64]) -> list[int]:
    """Number of the split of each patient. of_class: each class's patients in order; classes_of: the reverse."""
    splits = range(len(share_S))
    waiting = [len(block) for block in of_class]  # patients of the class that have no split yet
    wanted = [(share_S * len(block)).tolist() for block in of_class]  # patients of the class that a split still lacks
    # Splits without a patient of the class; none for a class that can't reach all of them.
    empty = [set(splits) if len(block) >= len(share_S) else set() for block in of_class]
    chosen = [-1] * len(classes_of)
    everyone = len(of_class) - 1
    while any(waiting):
        rarest = min((count, number) for number, count in enumerate(waiting) if count)[1]
        for patient in of_class[rarest]:
            if chosen[patient] >= 0:
                continue
            urgent = [number for number in classes_of[patient] if waiting[number] <= len(empty[number])]
            keys = [
                (
                    # A split without any patient counts most: every class of the patient that is urgent lacks it too.
                    sum(s in empty[number] for number in urgent),
                    wanted[rarest][s],
                    wanted[everyone][s],
                    -s,
                )
                for s in splits
            ]
            best = -max(keys)[-1]
            chosen[patient] = best
            for number in classes_of[patient]:
                waiting[number] -= 1
                wanted[number][best] -= 1
                empty[number].discard(best)
    return chosen


def complete_splits(table: pa.Table, Y_NC: npt.ArrayLike, config: Shares, seed: int) -> pa.Table:
    """The table with a split in every row, checked for leaks.

    A table with splits keeps them; validation or test images that it lacks are cut from its training patients, in
    the proportion to training that `config` asks for. Synthetic rows are training images, always, and have no part in
    the shares.

    Args:
        table: with the columns image_id, patient_id, split and synthetic of `schema.IMAGE_LABELS`.
        Y_NC: labels of its rows, as for `split_patients`.
        config: shares of the patients for validation and test.
        seed: the run's seed.

    Raises:
        InputError: images without a patient id, without a split where others have one, no training images, too few
            patients, a synthetic validation or test image, or a leak (see `check_leaks`).
    """
    if table.num_rows == 0:
        raise InputError("the label table has no images", "at least one patient for each split", "check labels.path")
    split_N = np.array(table["split"].to_pylist(), dtype=object)
    synthetic_N = np.array(table["synthetic"].to_pylist(), dtype=bool)
    patient_N = np.array(table["patient_id"].to_pylist(), dtype=object)
    held_out = int(np.isin(split_N[synthetic_N], (VALIDATION, TEST)).sum())
    if held_out:
        raise InputError(
            f"{held_out} synthetic images are validation or test images",
            "synthetic images for training only",
            'set their split to "train" or leave them out',
        )
    split_N[synthetic_N] = TRAIN
    real_N = ~synthetic_N
    _require_patients(patient_N[real_N].tolist())
    blank = int((split_N[real_N] == "").sum())
    if 0 < blank < real_N.sum():
        raise InputError(
            f"{blank} of {int(real_N.sum())} images have no split, the others have one",
            "a split for every image, or for none",
            "fill the column in, or take it out of the label table: the patients are then split by their labels",
        )
    if blank:
        split_N[real_N] = TRAIN
    if not (split_N[real_N] == TRAIN).any():
        raise InputError("no image is a training image", f"splits named {SPLITS}", "check the split column")
    shares = {TRAIN: 1 - config.validation - config.test, VALIDATION: config.validation, TEST: config.test}
    present = set(split_N[real_N].tolist())
    missing = {name: share for name, share in shares.items() if name == TRAIN or name not in present}
    if len(missing) > 1:
        cut_N = real_N & (split_N == TRAIN)
        split_N[cut_N] = split_patients(patient_N[cut_N].tolist(), np.asarray(Y_NC)[cut_N], missing, seed=seed)
    column = table.schema.get_field_index("split")
    done = table.set_column(column, table.schema.field(column), pa.array(split_N.tolist(), pa.string()))
    check_leaks(done)
    return done


def check_leaks(table: pa.Table, content_hashes: Sequence[str | None] | None = None) -> None:
    """Refuse a table in which what is tested on was trained on.

    Args:
        table: with the columns image_id, patient_id and split; an empty patient id (a synthetic image's) is no patient.
        content_hashes: hash of each row's pixels or file; None or "" where it isn't known. Not given: not checked.

    Raises:
        InputError: a patient in two splits; an image id in two; the same content in two. The message has counts only.

    Complexity: O(N) hashing.
    """
    if count := _in_two_splits(table["patient_id"], table["split"]):
        raise InputError(
            f"{count} patients have images in more than one split",
            "all images of a patient in one split",
            "correct the split column, or take it out of the label table: the patients are then split by their labels",
        )
    if count := _in_two_splits(table["image_id"], table["split"]):
        raise InputError(
            f"{count} image ids are in more than one split", "each image in one split", "remove the repeated rows"
        )
    if content_hashes is not None and (count := _in_two_splits(pa.array(content_hashes, pa.string()), table["split"])):
        raise InputError(
            f"{count} images have copies under another name in another split",
            "no picture in two splits",
            "remove the copies, or give them the same patient_id and let the patients be split by their labels",
        )


def folds(patient_ids: Sequence[str], k: int) -> npt.NDArray[np.int64]:
    """Fold of each image for k-fold cross-validation, in [0, k): the same for a patient in every table and run.

    It is int(hashlib.sha256(patient_id.encode()).hexdigest(), 16) % k. Returns [N].
    """
    patients, patient_of_N = np.unique(np.asarray(patient_ids, dtype=object), return_inverse=True)
    fold_P = [int(hashlib.sha256(patient.encode()).hexdigest(), 16) % k for patient in patients.tolist()]
    fold_N: npt.NDArray[np.int64] = np.array(fold_P, dtype=np.int64)[patient_of_N]
    return fold_N


def groups(
    Y_train_NC: npt.ArrayLike, known_NC: npt.ArrayLike | None, head_above: float, tail_up_to: float
) -> dict[int, str]:
    """Group of each class by the share of the training images that are known to have it (CXR-LT conventions).

    "head" above `head_above`, "tail" at or below `tail_up_to`, "medium" between. The share is of all training images,
    also those of which the class isn't known: what makes a class rare is how few positives there are to learn from.

    Args:
        Y_train_NC: labels of the (real) training images.
        known_NC: false where a label is uncertain or unknown; None: all are known.
    """
    positive_NC = np.asarray(Y_train_NC) > 0
    if known_NC is not None:
        positive_NC &= np.asarray(known_NC, dtype=bool)
    counts_C = positive_NC.sum(axis=0).tolist()
    images = max(len(positive_NC), 1)
    return {
        number: HEAD if count / images > head_above else TAIL if count / images <= tail_up_to else MEDIUM
        for number, count in enumerate(counts_C)
    }


def _require_patients(patient_ids: Sequence[str]) -> None:
    nameless = sum(not patient for patient in patient_ids)
    if nameless:
        raise InputError(
            f"{nameless} of {len(patient_ids)} images have no patient id",
            "the patient of every image, since no patient may be in two splits",
            "name the column with labels.columns; if each image is of another patient, name the image column there",
        )


def _in_two_splits(ids: pa.ChunkedArray | pa.Array, splits: pa.ChunkedArray | pa.Array) -> int:
    """How many ids occur with more than one split; null and "" are no ids."""
    pairs = pa.table({"id": ids, "split": splits})
    pairs = pairs.filter(pc.not_equal(pairs["id"], "")).group_by(["id", "split"]).aggregate([])
    splits_of_id = pairs.group_by("id").aggregate([("split", "count")])["split_count"]
    return int(pc.sum(pc.greater(splits_of_id, 1)).as_py() or 0)

"""The gate: each synthetic image is accepted or refused, with reasons. `Gate.load(folder).check(images, label_sets)`.

    gate.json            settings, thresholds, how the search for copies did, sha256 of every file
    gate.safetensors     fingerprints of the training images, the learnt map, reference features, and what the
                         classifier says of the validation images
    classifier/          the classifier, as jobs/classify.py left it

Checks: the image shows something (broken.py), a classifier trained on real images alone sees what was planned
(agreement.py), it lies where real images lie (outliers.py), it is no copy of a training image (copies.py) and repeats
no earlier image of the set. What can't be checked is refused, and a gate that isn't whole doesn't load.

The folder holds no images, but vectors made from patients' images: treat it like the training images themselves.

B images to check, N training and M held-out real images, C classes, S pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from raymedlt.classifier import Classifier, load
from raymedlt.errors import InputError
from raymedlt.storage import Storage, below
from raymedlt.synthesis.agreement import Agreement, Evidence, tune
from raymedlt.synthesis.broken import check_image
from raymedlt.synthesis.copies import CopySearch, Nearest, build_index, fit_copies, repeats
from raymedlt.synthesis.features import classifier_features, lite0_features
from raymedlt.synthesis.fingerprint import Fingerprint
from raymedlt.synthesis.gate_folder import classifier_files, verified
from raymedlt.synthesis.outliers import Outliers, fit_outliers, reference_rows
from raymedlt.synthesis.settings import GateSettings

ABOUT, TENSORS, CLASSIFIER = "gate.json", "gate.safetensors", "classifier"
FORMAT = 2
_COPIES = ("expected", "expected_distance", "weight", "threshold")

UNREADABLE, FAR, COPY, REPEAT = "unreadable image", "unlike real images", "copy of a training image", "repeat"
"""Reasons; the others are broken.py's and agreement.py's."""

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """What the gate says about one image."""

    accepted: bool
    reasons: list[str]
    """Why it was refused; empty if it was accepted."""
    scores: dict[str, float]
    """What was measured, as far as it could be: "shown" (how far the least probable planned class is above its
    threshold on validation; the drawn images may raise that), "stray" (how far the worst other class is above its
    limit), "distance" (share of the limit; refused above 1), "copy" (distance to the nearest training image as a share
    of a held-out image's; refused below the gate's threshold), "target" (probability of the class that the image is
    for)."""
    nearest: int
    """Row of the nearest training image, for a page that shows both; -1 where there is none."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Verdicts before repeats are looked for, and what is needed for that."""

    verdicts: list[Verdict]
    vectors_BD: Floats
    """Fingerprints; 0 for an image that couldn't be read."""


@dataclass(frozen=True, eq=False)
class Gate:
    """The gate. Make it with `fit` or `load`."""

    settings: GateSettings
    classifier: Classifier
    classifier_files: Mapping[str, bytes]
    agreement: Agreement
    outliers: Outliers
    copies: CopySearch
    evidence: Evidence
    """What the agreement was tuned on."""
    about: dict[str, Any]
    """How it was fitted: seed, images, and the search for copies on planted ones (`trial`)."""

    @classmethod
    def fit(
        cls,
        classifier: str,
        train_NSS: Bytes,
        held_out_MSS: Bytes,
        labels_MC: npt.NDArray[Any],
        known_MC: npt.NDArray[np.bool_],
        *,
        settings: GateSettings | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> Self:
        """A gate for a generator trained on `train_NSS`.

        Args:
            classifier: output folder of jobs/classify.py, trained on real images only.
            train_NSS: the real training images as that run prepared them, uint8 [N, S, S].
            held_out_MSS: its validation images: other patients.
            labels_MC, known_MC: of the validation images, classes in the classifier's order.
            settings: how strict.
            seed: of every choice.

        Raises:
            InputError: too few images for the settings, labels of other classes, a classifier that saw synthetic
                images, or a search for copies that misses too many planted ones.

        Time, on one core: 8 ms an image for the features (4,000 training images at most), 0.5 ms for its fingerprint.
        """
        own = settings or GateSettings()
        files = classifier_files(classifier)
        model = load(classifier, device)
        if labels_MC.shape != (len(held_out_MSS), len(model.classes)):
            raise InputError(
                f"labels of shape {labels_MC.shape} for {len(held_out_MSS)} images and {len(model.classes)} classes",
                "one row per held-out image and one column per class of the classifier",
            )
        train_NSS, held_out_MSS = (_as_it_sees(model, images) for images in (train_NSS, held_out_MSS))
        copies, trial = fit_copies(
            train_NSS, held_out_MSS, false_refusals=own.false_copies, least_caught=own.least_caught,
            length=own.fingerprint, seed=seed,
        )  # fmt: skip
        evidence = Evidence(
            np.asarray(model.probabilities(held_out_MSS), np.float64), labels_MC > 0, np.asarray(known_MC, bool)
        )
        agreement = tune(
            evidence.probabilities_NC, labels_MC, known_MC, model.classes, precision=own.precision, prior=own.prior,
            missed=own.missed, stray=own.stray, least=own.least_positives,
        )  # fmt: skip
        references = train_NSS[reference_rows(len(train_NSS), seed)]
        outliers = fit_outliers(
            _features(own, model, references), _features(own, model, held_out_MSS),
            false_refusals=own.false_outliers, neighbours=own.neighbours,
        )  # fmt: skip
        about = {"seed": seed, "training": len(train_NSS), "held_out": len(held_out_MSS), "trial": trial.to_json()}
        return cls(own, model, files, agreement, outliers, copies, evidence, about)

    # Use

    def check(
        self,
        images: Sequence[Any] | npt.NDArray[Any],
        label_sets: Sequence[Sequence[str]],
        targets: Sequence[str | None] | None = None,
    ) -> list[Verdict]:
        """A verdict for each image, in their order; an image that repeats an earlier one that passed is refused.

        Args:
            images: arrays [H, W], bytes or paths, as `Classifier.prepare` takes them.
            label_sets: the classes that each was planned with.
            targets: the class that each is for; the others of its label set then need only pass as companions.

        Raises:
            InputError: not one label set (and target) per image.

        Apart from repeats, an image's verdict doesn't depend on the others. About 20 ms an image on one core with
        thousands of training images, of which 8 are for the features; see `CopySearch.nearest` for more of them.
        """
        judged = self.judge(images, label_sets, targets)
        again = self.are_repeats(judged.vectors_BD, np.array([verdict.accepted for verdict in judged.verdicts], bool))
        return [
            Verdict(False, [REPEAT], verdict.scores, verdict.nearest) if repeat else verdict
            for verdict, repeat in zip(judged.verdicts, again.tolist(), strict=True)
        ]

    def judge(
        self,
        images: Sequence[Any] | npt.NDArray[Any],
        label_sets: Sequence[Sequence[str]],
        targets: Sequence[str | None] | None = None,
    ) -> Judged:
        """As `check`, but without looking for repeats: for a set that is checked in parts."""
        targets = [None] * len(label_sets) if targets is None else targets
        if not len(images) == len(label_sets) == len(targets):
            raise InputError(
                f"{len(label_sets)} label sets and {len(targets)} targets for {len(images)} images",
                "one of each per image",
            )
        prepared = [_prepared(self.classifier, image) for image in images]
        rows = [row for row, image in enumerate(prepared) if image is not None]
        verdicts = [Verdict(False, [UNREADABLE], {}, -1) for _ in prepared]
        vectors = np.zeros((len(prepared), self.copies.vectors_ND.shape[1]), np.float32)
        if rows:
            readable = np.stack([image for image in prepared if image is not None])
            found = self._judge(readable, [label_sets[row] for row in rows], [targets[row] for row in rows])
            for row, verdict in zip(rows, found, strict=True):
                verdicts[row] = verdict
            vectors[rows] = self.copies.fingerprint.vectors(readable)
        return Judged(verdicts, vectors)

    def for_drawn(self, targets: Sequence[str], probabilities_B: Floats) -> tuple[Gate, dict[str, float]]:
        """The gate with thresholds for a whole set of drawn images, and the share that shows each class, as estimated.

        Where a generator seldom draws what it should, thresholds rise (`Agreement.stricter`).

        Args:
            targets: the class that each image is for.
            probabilities_B: of that class; NaN for an image that couldn't be judged.
        """
        names, known = np.array(targets, object), np.isfinite(probabilities_B)
        drawn = {name: probabilities_B[known & (names == name)] for name in dict.fromkeys(targets)}
        own = self.settings
        agreement, priors = self.agreement.stricter(self.evidence, drawn, precision=own.precision, prior=own.prior)
        return replace(self, agreement=agreement), priors

    def are_repeats(self, vectors_BD: Floats, accepted_B: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which accepted images repeat an earlier accepted one: closer than `CopySearch.closest` (see `repeats`)."""
        return repeats(vectors_BD, accepted_B, self.copies.closest) >= 0

    def _judge(
        self, images_BSS: Bytes, label_sets: Sequence[Sequence[str]], targets: Sequence[str | None]
    ) -> list[Verdict]:
        probabilities = self.classifier.probabilities(images_BSS)
        place = {name: number for number, name in enumerate(self.agreement.classes)}
        disagreements = self.agreement.reasons(probabilities, label_sets, targets)
        shown, stray = self.agreement.margins(probabilities, label_sets)
        distances = self.outliers.distances(_features(self.settings, self.classifier, images_BSS))
        far = self.outliers.are_outliers(distances)
        nearest: Nearest = self.copies.nearest(images_BSS)
        copied, ratios = self.copies.are_copies(nearest), self.copies.ratios(nearest)
        verdicts = []
        for row, image in enumerate(images_BSS):
            reasons = [reason for reason in (check_image(image),) if reason]
            reasons += disagreements[row] + [FAR] * bool(far[row]) + [COPY] * bool(copied[row])
            scores = {
                "shown": float(shown[row]), "stray": float(stray[row]),
                "distance": float(distances[row] / self.outliers.limit),
                "copy": float(ratios[row]),
            }  # fmt: skip
            if (target := targets[row]) in place:
                scores["target"] = float(probabilities[row, place[target]])
            measured = {name: value for name, value in scores.items() if math.isfinite(value)}
            verdicts.append(Verdict(not reasons, reasons, measured, int(nearest.rows_B[row])))
        return verdicts

    # Storage

    def save(self, folder: str) -> None:
        """Write the gate into a folder or URI; gate.json last, so that what was cut off doesn't load."""
        storage = Storage.of(folder)
        tensors = {
            "fingerprint.mean": self.copies.fingerprint.mean_P, "fingerprint.map": self.copies.fingerprint.map_PD,
            "copies.vectors": self.copies.vectors_ND, "copies.centres": self.copies.centres_KD,
            "outliers.references": self.outliers.references_RD,
            "evidence.probabilities": self.evidence.probabilities_NC, "evidence.labels": self.evidence.labels_NC,
            "evidence.known": self.evidence.known_NC,
        }  # fmt: skip
        files = {TENSORS: bytes(safetensors.numpy.save({n: np.ascontiguousarray(t) for n, t in tensors.items()}))}
        files |= {f"{CLASSIFIER}/{name}": data for name, data in self.classifier_files.items()}
        about = {
            "format": FORMAT, "settings": asdict(self.settings), "agreement": self.agreement.to_json(),
            "copies": {name: getattr(self.copies, name) for name in _COPIES},
            "outliers": {"neighbours": self.outliers.neighbours, "limit": self.outliers.limit},
            "fitted": self.about,
            "files": {name: storage.write_bytes(name, data).sha256 for name, data in files.items()},
        }  # fmt: skip
        storage.write_bytes(ABOUT, json.dumps(about, indent=1, sort_keys=True).encode())

    @classmethod
    def load(cls, folder: str, device: str = "cpu") -> Self:
        """The gate that `save` wrote.

        Raises:
            InputError: no such gate, or of another version.
            ConsistencyError: a file is missing or differs from what was written.
        """
        storage = Storage.of(folder)
        if not storage.exists(ABOUT):
            raise InputError(f"no {ABOUT} in '{storage.uri}'", "the folder of a gate", "fit the gate, or let it finish")
        about = json.loads(storage.read_bytes(ABOUT))
        if about.get("format") != FORMAT:
            raise InputError(
                f"{ABOUT} of format {about.get('format')}", f"format {FORMAT}", "use the version that made it"
            )
        files = {name: verified(storage, name, digest) for name, digest in about["files"].items()}
        tensors = safetensors.numpy.load(files[TENSORS])
        vectors, centres = tensors["copies.vectors"], tensors["copies.centres"]
        copies = CopySearch(
            Fingerprint(tensors["fingerprint.mean"], tensors["fingerprint.map"]), vectors, centres,
            **about["copies"], index=build_index(vectors, centres),
        )  # fmt: skip
        return cls(
            settings=GateSettings(**about["settings"]),
            classifier=load(below(folder, CLASSIFIER), device),
            classifier_files={
                name.removeprefix(f"{CLASSIFIER}/"): data for name, data in files.items() if name != TENSORS
            },
            agreement=Agreement.from_json(about["agreement"]),
            outliers=Outliers(tensors["outliers.references"], **about["outliers"]),
            copies=copies,
            evidence=Evidence(*(tensors[f"evidence.{name}"] for name in ("probabilities", "labels", "known"))),
            about=about["fitted"],
        )


def _as_it_sees(classifier: Classifier, images_NSS: Bytes) -> Bytes:
    """Images at the classifier's size, as `judge` will have them."""
    if images_NSS.shape[1:] == classifier.prepare(images_NSS[:1]).shape[1:]:
        return images_NSS
    return np.concatenate([classifier.prepare(images_NSS[at : at + 256]) for at in range(0, len(images_NSS), 256)])


def _prepared(classifier: Classifier, image: Any) -> Bytes | None:
    """As the classifier wants it, uint8 [S, S]; None for what is no image."""
    try:
        squares: Bytes = classifier.prepare([image])
    except InputError:
        return None
    return np.asarray(squares[0], np.uint8)


def _features(settings: GateSettings, classifier: Classifier, images_BSS: Bytes) -> Floats:
    if settings.features == "classifier":
        return classifier_features(classifier, images_BSS)
    return lite0_features(images_BSS, classifier.device)

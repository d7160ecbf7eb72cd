"""What clustering costs: beside its peers, at PadChest's size, and up to a million vectors.

Parts `peers`, `padchest` and `scale` of clustering.py. Every fit runs in a fresh process (clustering_measure.py).
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from clustering_exactness import AGREEMENT, CERTIFIED_AGREEMENT
from clustering_measure import (
    CPUS,
    NEIGHBOURS,
    ONE_BLAS_THREAD,
    Measured,
    Result,
    Said,
    faiss_search,
    fast_hdbscan,
    hdbscan_library,
    knn_graph,
    measure,
    ours,
    ours_search_alone,
    scikit_learn,
)
from clustering_sets import padchest, synthetic

from raymedlt.clustering.certificate import adjusted_rand_index

_HDBSCAN_DEFAULT_TO = 10_000  # points; quadratic on one core: over two minutes at 20,000
_SCALE = (100_000, 200_000, 500_000, 1_000_000)
_MEGABYTES = 8 * 1024  # beyond the vectors, at a million
_PHASES = ("seconds_neighbours", "seconds_tree", "seconds_hierarchy", "seconds_repair", "seconds_checks")


def _shape(labels: Result) -> Said:
    return {"clusters": int(labels.max(initial=-1)) + 1, "noise_share": round(float((labels < 0).mean()), 4)}


def _certificate(fit: Measured) -> Said:
    said = fit.said
    return {
        "search": said["search"],
        "sound": said["sound"],
        "certified_edges": f"{said['certified_edges']} of {said['edges']}",
        "recall": round(said["recall"], 5),
        "recall_lower": round(said["recall_lower"], 5),
        "wrong_edges": f"{said['wrong_edges']} of {said['checked_edges']} checked",
        "sample_agreement": said["sample_agreement"],
        "repaired": f"{said['repaired_edges']} edges, {said['checked_splits']} splits checked",
        "margin": said["margin"],
        "second_searches_per_point": round(said["second_searches"] / said["points"], 3),
        "rounds": said["rounds"],
        "phases": {phase: round(said[phase], 2) for phase in _PHASES},
    }


def _unproved(name: str, fit: Measured) -> list[str]:
    """What the certificate of a fit lacks: exact mode proves every edge, certified mode is sound."""
    said = fit.said
    if said["mode"] == "exact" and said["certified_edges"] != said["edges"]:
        return [f"{name}: {said['edges'] - said['certified_edges']} edges not certified"]
    return [] if said["sound"] else [f"{name}: the certificate is not sound"]


def peers(sizes: list[int], slow: bool) -> dict[str, Any]:
    """Ours beside other libraries on PadChest's sentences (reference: hdbscan's generic algorithm)."""
    figures, failed = {}, []
    whole = padchest(max(sizes))
    for size in sizes:
        vectors = whole[:size]
        fits = {
            "raymedlt exact": measure(ours, vectors, 3),
            "raymedlt certified": measure(ours, vectors, 3, mode="certified"),
            "hdbscan generic, one BLAS thread": measure(
                hdbscan_library, vectors, environment=ONE_BLAS_THREAD, algorithm="generic"
            ),
            f"scikit-learn brute, {CPUS} jobs": measure(scikit_learn, vectors, environment=ONE_BLAS_THREAD),
            "plain kNN graph": measure(knn_graph, vectors, 3),
        }
        missing = {}
        if all(importlib.util.find_spec(name) for name in ("fast_hdbscan", "pynndescent")):
            fits["fast_hdbscan"] = measure(fast_hdbscan, vectors, 3)
        else:
            missing["fast_hdbscan"] = "not run: fast_hdbscan[nndescent] is not installed (pip install -e '.[bench]')"
        if slow or size <= _HDBSCAN_DEFAULT_TO:
            fits["hdbscan default"] = measure(hdbscan_library, vectors)
        else:
            missing["hdbscan default"] = "not run: takes minutes from here on, ask for it with --slow"
        exact, reference = fits["raymedlt exact"], fits["hdbscan generic, one BLAS thread"]
        figures[str(size)] = missing | {
            name: {
                **fit.cost(),
                "times_the_seconds_of_ours": round(fit.median / exact.median, 2),
                "agreement_with_hdbscan_generic": round(adjusted_rand_index(reference.result, fit.result), 5),
                "agreement_with_ours_exact": round(adjusted_rand_index(exact.result, fit.result), 5),
                **_shape(fit.result),
            }
            for name, fit in fits.items()
        }
        failed += _unproved(f"{size} points, exact", exact)
        failed += _unproved(f"{size} points, certified", fits["raymedlt certified"])
        for name, least in (("raymedlt exact", AGREEMENT), ("raymedlt certified", CERTIFIED_AGREEMENT)):
            agreement = adjusted_rand_index(reference.result, fits[name].result)
            if agreement < least:
                failed.append(f"{size} points: {name} agrees with hdbscan to {agreement}")
    return {"sizes": figures, "failed": failed}


def _recall(found: Result, truth: Result) -> float:
    """Share of the true neighbours that were found, [N, K] both."""
    width = np.int64(len(truth))
    rows = np.arange(len(truth), dtype=np.int64)[:, None] * width
    return float(np.isin(rows + truth, rows + found).mean())


def _cells(fit: Measured) -> str:
    """How much of the index a point sees. (The precision of the screening is chosen by a quick timing, every time.)"""
    return str(fit.said["search"].rpartition(",")[0])


def _floor(fit: Measured, search: Measured) -> Said:
    """A whole fit against the search of all neighbours alone, through the same index."""
    alone, built = search.said["seconds_search"], search.said["seconds_index"]
    return {
        "search_alone_seconds": round(alone, 2),
        "building_the_index_seconds": round(built, 2),
        "fit_over_search": round(fit.median / alone, 2),
        "fit_over_building_and_search": round(fit.median / (alone + built), 2),
    }


def whole_padchest(sentences: int | None, with_hdbscan: bool) -> dict[str, Any]:
    """All of PadChest's distinct sentences: both modes, the search alone, FAISS, and hdbscan if asked for."""
    vectors = padchest(sentences)
    lists = round(len(vectors) ** 0.5)
    failed = []
    fits, searches = {}, {}
    for mode in ("exact", "certified"):
        fits[mode] = measure(ours, vectors, 3, mode=mode)
        searches[mode] = measure(ours_search_alone, vectors, 3, mode=mode)
        failed += _unproved(mode, fits[mode])
        if _cells(searches[mode]) != _cells(fits[mode]):
            failed.append(f"{mode}: the search alone went through another index")
    truth = searches["exact"].result
    figures: dict[str, Any] = {
        "points": len(vectors),
        **{
            mode: {**fit.cost(), **_shape(fit.result), **_certificate(fit), **_floor(fit, searches[mode])}
            for mode, fit in fits.items()
        },
    }
    figures["agreement_of_both_modes"] = round(adjusted_rand_index(fits["exact"].result, fits["certified"].result), 5)
    if figures["agreement_of_both_modes"] < CERTIFIED_AGREEMENT:
        failed.append("certified mode does not agree with exact mode")
    faiss: dict[str, tuple[int, int]] = {
        "IndexFlat": (0, 0),
        f"IVF, {lists} lists, nprobe 8": (lists, 8),
        f"IVF, {lists} lists, nprobe 32": (lists, 32),
    }
    for name, (count, probes) in faiss.items():
        found = measure(faiss_search, vectors, lists=count, probes=probes)
        recall = _recall(found.result, truth)
        figures[f"FAISS {name}"] = {**found.cost(), "neighbours": NEIGHBOURS, "recall": round(recall, 5)}
        if count == 0 and recall < AGREEMENT:
            failed.append(f"FAISS IndexFlat and our exact search share only {recall} of the neighbours")
    if with_hdbscan:
        library = measure(hdbscan_library, vectors)
        agreement = {mode: adjusted_rand_index(library.result, fit.result) for mode, fit in fits.items()}
        figures["hdbscan default"] = {
            **library.cost(),
            **_shape(library.result),
            "agreement": {mode: round(value, 5) for mode, value in agreement.items()},
            "times_slower_than_ours": {mode: round(library.median / fit.median, 1) for mode, fit in fits.items()},
        }
        failed += [f"{mode} agrees with hdbscan to {a}" for mode, a in agreement.items() if a < CERTIFIED_AGREEMENT]
    return {**figures, "failed": failed}


def _exponent(sizes: list[int], seconds: list[float]) -> float:
    """Slope of log seconds over log size."""
    return round(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]), 3)


def scale(shrink: int, exact: bool) -> dict[str, Any]:
    """100,000 to a million synthetic vectors in certified mode, and in exact mode if asked for.

    A certificate may well say that it isn't sound (at 200,000 the choice of clusters hangs on .07 % of stability); what
    it calls sound must be exact mode's clusters.
    """
    sizes = [size // shrink for size in _SCALE]
    figures: dict[str, Any] = {}
    failed = []
    fits: dict[str, list[Measured]] = {"certified": [], "exact": []}
    searches = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.npy"
        synthetic(sizes[-1], path, None if shrink == 1 else 75_198 // shrink)
        for size in sizes:
            fit = measure(ours, path, rows=size, mode="certified")
            search = measure(ours_search_alone, path, rows=size, mode="certified")
            row = {**fit.cost(), **_shape(fit.result), **_certificate(fit), **_floor(fit, search)}
            fits["certified"].append(fit)
            searches.append(search)
            if exact:
                all_pairs = measure(ours, path, rows=size, mode="exact", ties="simultaneous")
                agreement = adjusted_rand_index(all_pairs.result, fit.result)
                phases = all_pairs.said
                row["exact"] = {
                    **all_pairs.cost(),
                    **_shape(all_pairs.result),
                    **_certificate(all_pairs),
                    # No search apart here, which would take as long again.
                    "fit_over_its_own_search": round(all_pairs.median / phases["seconds_neighbours"], 2),
                    "agreement_with_certified": round(agreement, 5),
                }
                fits["exact"].append(all_pairs)
                failed += _unproved(f"{size} points, exact", all_pairs)
                if agreement < CERTIFIED_AGREEMENT and fit.said["sound"]:
                    failed.append(f"{size} points: sound, yet certified mode agrees with exact mode to {agreement}")
            figures[str(size)] = row
    for mode, each in fits.items():
        failed += [f"{mode}: {fit.megabytes:.0f} MB beyond the vectors" for fit in each if fit.megabytes > _MEGABYTES]
    exponents = {
        "whole_fit": _exponent(sizes, [fit.median for fit in fits["certified"]]),
        "search_alone": _exponent(sizes, [search.said["seconds_search"] for search in searches]),
        "building_the_index": _exponent(sizes, [search.said["seconds_index"] for search in searches]),
    }
    if exact:
        exponents["whole_fit_exact"] = _exponent(sizes, [fit.median for fit in fits["exact"]])
    recalls = [fit.said["recall"] for fit in fits["certified"]]
    return {
        "sizes": figures,
        "exponents": exponents,
        "recall_from_to": [round(min(recalls), 5), round(max(recalls), 5)],
        "failed": failed,
    }

"""Density clustering: exact, certified, beside its peers, at scale.

    python benchmarks/clustering.py PART [PART ...]

Times are about those of two idle cores.

exactness   tree weight and clusters against hdbscan on six sets, certified mode and its certificate; 8 minutes, 7 GB.
            --sets openi_findings digits ... runs some of them.
weights     real counts against hdbscan on every copy; a minute, 5 GB.
peers       hdbscan, scikit-learn, fast_hdbscan (pip install -e '.[bench]') and the plain kNN graph at 5,000, 10,000 and
            20,000 PadChest sentences; 8 minutes, 7 GB. --sizes 5000 runs some; --slow adds hdbscan's default at 20,000.
padchest    all 75,198 distinct PadChest sentences and the floor: the search of all neighbours alone; 10 minutes.
            --hdbscan adds the library's default on the same vectors, 40 minutes on one core.
scale       100,000 to 1,000,000 synthetic vectors of 384 dimensions in certified mode; 10 minutes, 10 GB.
            --exact adds exact mode, 30 minutes more.
distributed two Ray workers of one thread against one process of two, on all PadChest sentences; 2 minutes.

Embedding PadChest's sentences takes some minutes once; vectors are kept in the temporary folder. Every part prints its
figures as JSON and then fails if an exact-value check did: exact mode's tree weight, proofs, and agreement with the
reference; certified mode's agreement and certificate.
"""

from __future__ import annotations

import argparse
from typing import Any

from clustering_exactness import SETS, exactness, weights
from clustering_ray import distributed
from clustering_speed import peers, scale, whole_padchest
from common import report

PARTS = ("exactness", "weights", "peers", "padchest", "scale", "distributed")
_SIZES = (5_000, 10_000, 20_000)
_QUICK = 20  # sizes are divided by this
_PADCHEST = 75_198


def run(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One part's figures; what fell short stands under "failed"."""
    shrink = _QUICK if arguments.quick else 1
    match part:
        case "exactness":
            return exactness(shrink, arguments.sets)
        case "weights":
            return weights(shrink)
        case "peers":
            return peers([size // shrink for size in arguments.sizes], arguments.slow)
        case "padchest":
            return whole_padchest(_PADCHEST // shrink if arguments.quick else None, arguments.hdbscan)
        case "distributed":
            return distributed(_PADCHEST // shrink if arguments.quick else None)
        case _:
            return scale(shrink, arguments.exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="exactness: which sets")
    parser.add_argument("--sizes", nargs="+", type=int, default=_SIZES, help="peers: numbers of sentences")
    parser.add_argument("--slow", action="store_true", help="peers: hdbscan's default at every size")
    parser.add_argument("--hdbscan", action="store_true", help="padchest: hdbscan's default too")
    parser.add_argument("--exact", action="store_true", help="scale: exact mode too")
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for part in arguments.parts:
        figures = run(part, arguments)
        report(f"clustering {part}", figures)
        assert not figures["failed"], figures["failed"]


if __name__ == "__main__":
    main()

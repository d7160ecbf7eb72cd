"""The one place that imports FAISS, which two exclusive packages provide."""

from __future__ import annotations

from types import ModuleType

from raymedlt.errors import MissingDependencyError


def faiss() -> ModuleType:
    """The faiss module.

    Raises:
        MissingDependencyError: neither faiss-cpu nor faiss-gpu is installed (they overwrite each other: never both).
    """
    try:
        import faiss as module
    except ImportError:
        raise MissingDependencyError(
            "faiss is not installed", "exactly one of faiss-cpu, faiss-gpu", "pip install -e '.[cpu]' (or '.[gpu]')"
        ) from None
    return module  # type: ignore[no-any-return]

"""One model at a time is made or loaded in a process.

While transformers loads a model it changes its own classes (weights are neither started nor tied), and puts back what
it found. Where two threads load at once, one finds what the other changed, and puts that back: from then on no model of
the process ties its weights. So whoever makes or loads a model of transformers, in a thread or beside one, holds this.
"""

from __future__ import annotations

import threading
from typing import Any

LOADING = threading.RLock()

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""For every `from_pretrained` of a given model: nothing is downloaded, and no code that lies in its folder is run.
Without the second transformers would ask at the prompt, and run it after a "y"."""

"""Runs a job's script in this process, which stops cleanly when the pipeline that started it is killed (on Linux).

Otherwise the job would work on in its folder, and a second pipeline would find the folder taken.
"""

from __future__ import annotations

import ctypes
import runpy
import signal
import sys
from pathlib import Path

_PDEATHSIG = 1  # of Linux's prctl: the signal that this process gets when its parent dies

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)  # as if the script had been started
    runpy.run_path(sys.argv[0], run_name="__main__")

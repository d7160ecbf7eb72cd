"""A disk that is full ends a run with an error that names the folder; with room again the same command goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import arguments_of, inside, tables_of, undisturbed

from raymedlt.errors import StorageError
from raymedlt.storage import Storage


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_write_that_does_not_fit_leaves_what_was_there(small_disk: Path) -> None:
    storage = Storage.of(str(small_disk))
    storage.write_bytes("a", b"old")
    with pytest.raises(StorageError, match=rf"'{small_disk}/a' can't be written \(\[Errno 28\] No space left"):
        storage.write_bytes("a", bytes(1 << 20))
    assert [path.name for path in small_disk.iterdir()] == ["a"]
    assert storage.read_bytes("a") == b"old"


def test_a_run_goes_on_when_there_is_room_again(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = small_disk / "run"
    words = arguments_of(undisturbed().source, output, "--workers", "2")
    assert inside(*words) == 1
    told = capfd.readouterr().err
    assert f"StorageError: '{output}/" in told
    assert "No space left on device" in told
    assert "free space" in told
    assert "Traceback" not in told
    assert not (output / "manifest.json").exists()
    mount("-o", "remount,size=64m", str(small_disk))
    assert inside(*words) == 0
    assert tables_of(output) == tables_of(undisturbed().output)

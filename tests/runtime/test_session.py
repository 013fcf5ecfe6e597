"""Session files of a Ray: removed at the end, or after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pbt.runtime.session import session_folder


def test_the_folder_is_there_as_long_as_it_is_needed() -> None:
    """With a short name, and to itself."""
    with session_folder() as folder, session_folder() as other:
        assert folder != other
        assert folder.is_dir()
        assert len(str(folder)) < 30
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_by_the_next() -> None:
    """What a living one uses is not."""
    dies = "import os\nfrom pbt.runtime.session import session_folder\n"
    dies += "with session_folder() as folder:\n    print(folder, flush=True)\n    os.kill(os.getpid(), 9)\n"
    with session_folder() as used:
        dead = subprocess.run([sys.executable, "-c", dies], capture_output=True, text=True, check=False)
        left = Path(dead.stdout.strip())
        assert left.is_dir()
        with session_folder():
            assert used.is_dir()
            assert not left.exists()

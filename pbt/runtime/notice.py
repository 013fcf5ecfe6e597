"""Notice that a host's process, or its node, is going to be taken away."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

#: Environment variable with the path of a file: as long as it is there, the node is going to be taken away. Whoever
#: watches for that (every cloud tells it in a way of its own) leaves the file, and removes it if it was a false alarm.
FILE = "PBT_PREEMPTION_NOTICE"


class Notice:
    """Looks for notice. SIGTERM to this process is one, too: it has to go, whatever becomes of its node.

    In a thread other than the main one signals cannot be heard; they do then what they did before.
    """

    def __init__(self) -> None:
        path = os.environ.get(FILE)
        self._file = Path(path) if path else None
        self.is_final = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._hear)

    @property
    def is_given(self) -> bool:
        """Whether to take leave."""
        return self.is_final or (self._file is not None and self._file.exists())

    def _hear(self, number: int, frame: Any) -> None:
        self.is_final = True

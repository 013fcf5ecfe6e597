"""A driver in a process of its own, for a test to kill."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.toys import sweep

if __name__ == "__main__":
    sweep(Path(sys.argv[1]), "ray", address=sys.argv[2]).run(progress=False)

"""Our search in somebody's own `ray.tune.Tuner`."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.full]

ROOT = Path(__file__).parents[2]
EXAMPLE, PAGE = ROOT / "examples" / "own" / "search.py", ROOT / "docs" / "own-code.md"


def test_the_example_searches(tmp_path: Path) -> None:
    """`examples/own/search.py`, as its page has it."""
    command = [sys.executable, str(EXAMPLE), "--trials", "11"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    loss, config = re.findall(r"^loss ([0-9.]+) with (.*)$", run.stdout, re.MULTILINE)[-1]
    assert float(loss) < 1.0
    assert "'kind'" in config
    shown = re.findall(r"```python\n(tuner = .*?)```", PAGE.read_text(), re.DOTALL)[1]
    assert textwrap.indent(shown, "    ") in EXAMPLE.read_text()

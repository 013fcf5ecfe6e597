"""The guide's recipe for the winner's weights, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pbt import Hosts, Result, Sweep
from trainables import Language

GUIDE = Path(__file__).parents[2] / "docs/guide.md"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Two small language models, five steps old."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 3000)
    return Sweep(
        name="small",
        trainable=Language(width=8, depth=1, context=8, batch=4, eval_bytes=128, data=str(folder / "text.txt")),
        space={"lr": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}},
        objective="bits_per_byte",
        budget={"members": 2, "generations": 1, "steps": 5},
        hosts=Hosts(kind="local", stacks=1, plan="off"),
        storage=folder / "runs",
        tracking=False,
    ).run()


def test_the_recipe_for_the_winners_weights_gives_the_winner(result: Result) -> None:
    """Its parameters by the names of the model, and the metrics that the sweep announced."""
    (block,) = re.findall(r"test_weights.py runs it -->\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    told: dict[str, Any] = {}
    exec(block.replace('"RUN"', repr(str(result.path))), told)
    assert set(told["weights"]) > {"embedding", "blocks.0.attention.qkv", "head"}
    assert tuple(told["weights"]["embedding"].shape) == (256, 8)
    assert {name: float(values[0]) for name, values in told["metrics"].items()} == {
        name.removeprefix("test/"): pytest.approx(value)
        for name, value in result.best.metrics.items()
        if name.startswith("test/")
    }

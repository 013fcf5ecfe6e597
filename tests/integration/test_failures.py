"""When something breaks: the error is one line with the cause, and what was recorded stays readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pbt import Hosts, Sweep, load
from pbt.errors import HostError
from searchspaces import Float
from trainables import Quadratic


def broken_after(steps: int) -> Any:
    """A trainable whose training raises once a member has consumed `steps`. Its classes travel by value."""

    class Broken:
        """A stack that breaks."""

        def __init__(self, stack: Any) -> None:
            self._stack = stack

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stack, name)

        def run(self, until: Any) -> Any:
            if max(until) > steps:
                raise RuntimeError("the third layer is missing")
            return self._stack.run(until)

    class Breaking:
        """A trainable of such stacks."""

        def __init__(self) -> None:
            self._quadratic = Quadratic()

        def describe(self) -> Any:
            return self._quadratic.describe()

        def bucket(self, hparams: Any) -> str:
            return self._quadratic.bucket(hparams)

        def build(self, bucket: str, capacity: int, place: Any) -> Any:
            return Broken(self._quadratic.build(bucket, capacity, place))

    return Breaking()


def sweep(storage: Path, kind: str) -> Sweep:
    """Four members that break in the third generation."""
    return Sweep(
        name="broken",
        trainable=broken_after(20),
        space={"lr": Float(1e-3, 1e-1, log=True)},
        objective="Q",
        budget={"members": 4, "generations": 4, "steps": 10},
        hosts=Hosts(kind=kind, stacks=2),  # type: ignore[arg-type]
        storage=storage,
        tracking=False,
    )


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.full])])
def test_an_exception_in_training_stops_the_sweep_with_its_cause(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One line, exit by HostError, and two generations in the ledger; nobody waits at the barrier for ever."""
    if kind == "ray":
        request.getfixturevalue("ray_cluster")
    with pytest.raises(HostError) as caught:
        sweep(tmp_path, kind).run(progress=False)
    assert "the third layer is missing" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    (folder,) = tmp_path.glob("broken-*")
    result = load(folder)
    assert not result.finished
    ended = [row for row in result.segments.to_pylist() if row["status"] == "ended"]
    assert {0, 1} == {row["generation"] for row in ended}
    assert len(ended) == 8

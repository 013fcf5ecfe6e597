"""Our strategies in somebody's own `ray.tune.Tuner`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune import Checkpoint

import pbt
from pbt import Sweep
from pbt.errors import SpecError
from searchspaces import Float

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Tune has much to say

SPACE = {"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)}
MEMBERS, GENERATIONS, STEPS = 4, 2, 3
LR = 0.01
ROOT = Path(__file__).parents[2]
EXAMPLE, PAGE = ROOT / "examples" / "own" / "tuner.py", ROOT / "docs" / "own-code.md"


def hill(config: dict[str, Any]) -> None:
    """The toy of the PBT paper, as people write trainables of Tune: a loop, a checkpoint, a report."""
    theta, step = [0.9, 0.9], 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            theta, step = json.loads((Path(folder) / "state.json").read_text())
    while True:
        theta = [t * (1.0 - 2.0 * config["lr"] * h) for t, h in zip(theta, (config["h0"], config["h1"]), strict=True)]
        step += 1
        report(theta, step, config)


def report(theta: list[float], step: int, config: dict[str, Any]) -> None:
    metrics = {"Q": 1.2 - sum(t * t for t in theta), "steps": step, "h0": config["h0"], "h1": config["h1"]}
    if step == config.get("breaks_at"):
        raise RuntimeError("no power")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "state.json").write_text(json.dumps([theta, step]))
        tune.report(metrics, checkpoint=Checkpoint.from_directory(folder) if config.get("keeps", True) else None)


class History(tune.Callback):
    """What trials reported, by trial and step."""

    def __init__(self) -> None:
        self.results: dict[str, dict[int, dict[str, Any]]] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.results.setdefault(trial.trial_id, {})[result["steps"]] = dict(result)


def fit(tmp_path: Path, config: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any, History]:
    usual = {"space": SPACE, "members": MEMBERS, "generations": GENERATIONS, "steps": STEPS, "seed": 3}
    scheduler = pbt.tune_scheduler(**{**usual, "strategy": "pbt", "time_attr": "steps", **options})
    history = History()
    tuner = tune.Tuner(
        tune.with_resources(hill, {"cpu": 0.5}),
        param_space={"lr": LR, **(config or {})},
        tune_config=tune.TuneConfig(
            metric="Q",
            mode="max",
            scheduler=scheduler,
            num_samples=1 if config and "breaks_at" in config else options.get("members", MEMBERS),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="fit", verbose=0, callbacks=[history]),
    )
    return tuner.fit(), scheduler, history


@pytest.mark.full
def test_it_decides_as_a_sweep_does(ray_cluster: None, tmp_path: Path) -> None:
    """The same seed gives the same configurations, scores and winner as a `pbt.Sweep` of the same toy."""
    results, scheduler, history = fit(tmp_path)
    theirs = Sweep(
        trainable="quadratic",
        space=SPACE,
        objective={"metric": "Q"},
        budget={"members": MEMBERS, "generations": GENERATIONS, "steps": STEPS},
        strategy="pbt",
        hosts={"kind": "local"},
        tracking={"enabled": False},
        storage=str(tmp_path / "runs"),
        seed=3,
    ).run(progress=False)
    assert any(row["start"] == "copied" for row in theirs.rows["segments"])
    for number, result in enumerate(results):
        reported = history.results[result.metrics["trial_id"]]
        scores = [row["score"] for row in theirs.rows["outcomes"] if row["member"] == number]
        hparams = [json.loads(row["hparams"]) for row in theirs.rows["segments"] if row["member"] == number]
        ends = [reported[STEPS * (generation + 1)] for generation in range(GENERATIONS)]
        assert [end["Q"] for end in ends] == pytest.approx(scores, abs=1e-5)  # 1.2 less squares, in float32
        for name in SPACE:
            assert [end[name] for end in ends] == pytest.approx([it[name] for it in hparams], rel=1e-12)
    best = results.get_best_result()
    assert best.metrics["Q"] == pytest.approx(theirs.best.score, abs=1e-5)
    assert scheduler.best.trial_id == best.metrics["trial_id"]


@pytest.mark.full
def test_a_trial_that_fails_leaves_the_others(ray_cluster: None, tmp_path: Path) -> None:
    """More trials than there are cores for take turns; the population goes on without one, to its end."""
    breaks_at = tune.grid_search([0, 0, 0, 0, 4])
    results, _, _ = fit(tmp_path, config={"breaks_at": breaks_at}, members=5, generations=2)
    assert [result.error is None for result in results] == [True] * 4 + [False]
    assert [result.metrics["steps"] for result in results][:4] == [2 * STEPS] * 4


@pytest.mark.full
def test_a_trial_without_a_checkpoint_is_refused(ray_cluster: None, tmp_path: Path) -> None:
    """It would begin again from nothing each time, without a word."""
    with pytest.raises(Exception, match=r"checkpoint.* is missing: there is none.* Report one with the result"):
        fit(tmp_path, config={"keeps": False}, members=2, generations=2)


@pytest.mark.full
def test_a_name_in_both_spaces_is_refused(ray_cluster: None, tmp_path: Path) -> None:
    """Who says what `h0` is?"""
    with pytest.raises(Exception, match=r"param_space.*'h0', which the scheduler's space varies.*Leave it out of one"):
        fit(tmp_path, config={"h0": 0.5}, members=2)


@pytest.mark.full
def test_the_example_tunes(tmp_path: Path) -> None:
    """`examples/own/tuner.py`, as its page has it, for two members."""
    command = [sys.executable, str(EXAMPLE), "--members", "2", "--generations", "2"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    loss, config = re.findall(r"^loss ([0-9.]+) with (.*)$", run.stdout, re.MULTILINE)[-1]
    assert float(loss) < 2.4
    assert "'lr'" in config
    shown = re.findall(r"```python\n(tuner = .*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert textwrap.indent(shown, "    ") in EXAMPLE.read_text()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"mode": "maximum"}, "mode.*'maximum'.*Give min or max"),
        ({"members": 0}, r"budget\.members"),
        ({"strategy": "pbtt"}, r"strategy\.name.*'pbtt'"),
        ({"strategy": pbt.PBT(synchronous=False)}, "does not wait for the whole population"),
        ({"strategy": "mf_pbt", "generations": 2}, "period"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], problem: str) -> None:
    """Before anything is started."""
    usual = {"space": SPACE, "members": MEMBERS, "generations": GENERATIONS, "steps": STEPS}
    with pytest.raises(SpecError, match=problem):
        pbt.tune_scheduler(**{**usual, **changed})

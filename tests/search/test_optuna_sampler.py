"""Our sampler in somebody's own Optuna study."""

import importlib.util
import math
import re
import textwrap
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

import pbt
from pbt.errors import SpecError

optuna.logging.set_verbosity(optuna.logging.WARNING)
ROOT = Path(__file__).parents[2]
EXAMPLE, PAGE = ROOT / "examples" / "own" / "study.py", ROOT / "docs" / "own-code.md"


def objective(trial, first=0, sign=1.0):
    """Epochs of something with an optimum at lr 1e-3 and `kind` None; some are stopped."""
    lr = trial.suggest_float("lr", 1e-6, 1.0, log=True)
    kind = trial.suggest_categorical("kind", [None, "wide", 3])
    layers = trial.suggest_int("layers", 1, 9, step=2)
    trial.suggest_float("constant", 0.5, 0.5)
    final = (math.log10(lr) + 3.0) ** 2 / 9 + 0.3 * (kind is not None) + 0.1 * abs(layers - 5)
    value = math.inf
    for epoch in range(8):
        value = sign * (final + 1.0 / (epoch + 1))
        trial.report(value, epoch + first)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def study(seed=0, pruner=None, direction="minimize", storage=None, **options):
    return optuna.create_study(
        sampler=pbt.optuna_sampler(seed=seed, **options),
        pruner=pruner or NopPruner(),
        direction=direction,
        storage=storage,
        study_name="study",
        load_if_exists=True,
    )


@pytest.mark.parametrize(
    ("direction", "pruner"),
    [
        ("maximize", SuccessiveHalvingPruner()),
        pytest.param("minimize", SuccessiveHalvingPruner(), marks=pytest.mark.full),
        pytest.param("minimize", NopPruner(), marks=pytest.mark.full),
    ],
)
def test_it_finds_the_best(direction, pruner):
    made = study(pruner=pruner, direction=direction)
    made.optimize(lambda trial: objective(trial, sign=1.0 if direction == "minimize" else -1.0), n_trials=35)
    best = made.best_params
    assert (best["kind"], best["layers"]) == (None, 5)
    assert 1e-4 < best["lr"] < 1e-2


def test_pruned_trials_are_learned_from():
    """With as many that were stopped after their first epoch as it takes, the first that it suggests is a good one."""
    made = study(n_startup_trials=5)
    space = {"lr": optuna.distributions.FloatDistribution(1e-6, 1.0, log=True)}
    for number in range(20):
        lr = 10.0 ** -(number * 0.3)
        value = (math.log10(lr) + 3.0) ** 2
        add = optuna.trial.create_trial
        made.add_trial(
            add(state=TrialState.PRUNED, params={"lr": lr}, distributions=space, intermediate_values={0: value})
        )
    far = add(params={"lr": 1.0}, distributions=space, value=9.0, intermediate_values={7: 9.0})
    made.add_trial(far)
    assert 1e-4 < made.ask(space).params["lr"] < 1e-2


def test_the_same_study_seed_and_number_give_the_same_suggestion(tmp_path):
    """Also in another process that opens the study."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study(storage=storage).optimize(objective, n_trials=14)
    fixed = study(storage=storage).trials[-1].params
    again = study()
    again.add_trials(study(storage=storage).trials[:-1])
    trial = again.ask()
    objective_params = {name: fixed[name] for name in ("lr", "kind", "layers")}
    suggested = {
        "lr": trial.suggest_float("lr", 1e-6, 1.0, log=True),
        "kind": trial.suggest_categorical("kind", [None, "wide", 3]),
        "layers": trial.suggest_int("layers", 1, 9, step=2),
    }
    assert suggested == objective_params


def test_a_study_that_is_taken_up_again_draws_what_it_would_have_drawn(tmp_path):
    """And not what its first trials were again, as a generator of its own would."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    for _ in range(3):
        study(storage=storage).optimize(objective, n_trials=3)
    whole = study()
    whole.optimize(objective, n_trials=9)
    assert [it.params for it in study(storage=storage).trials] == [it.params for it in whole.trials]
    assert len({tuple(it.params.values()) for it in whole.trials}) == 9


def test_workers_share_a_study(tmp_path):
    """Threads, and no two trials alike."""
    made = study(pruner=SuccessiveHalvingPruner())
    made.optimize(objective, n_trials=24, n_jobs=3)
    assert len({tuple(it.params.values()) for it in made.trials}) == 24


def test_a_parameter_that_some_trials_lack_is_drawn():
    def conditional(trial):
        kind = trial.suggest_categorical("kind", ["a", "b"])
        depth = trial.suggest_int("depth", 1, 4) if kind == "a" else 2
        return trial.suggest_float("x", -1.0, 1.0) ** 2 + depth

    made = study(n_startup_trials=4)
    made.optimize(conditional, n_trials=12)
    assert all(("depth" in it.params) == (it.params["kind"] == "a") for it in made.trials)


def test_bounds_may_change():
    """The latest count, and trials outside them are left out."""
    made = study(n_startup_trials=4)
    made.optimize(lambda trial: (trial.suggest_float("x", -1.0, 1.0) + 2.0) ** 2, n_trials=6)
    made.optimize(lambda trial: (trial.suggest_float("x", -5.0, 0.5) + 2.0) ** 2, n_trials=12)
    assert np.median([abs(it.params["x"] + 2.0) for it in made.trials[-6:]]) < 0.3


@pytest.mark.parametrize("how", ["reports NaN", "returns NaN", "raises"])
def test_trials_that_fail_or_diverge_are_kept_away_from(how):
    """Also where the best are next to those that go wrong."""

    def fragile(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        if x < 0.4 and how == "raises":
            raise RuntimeError("out of memory")
        if how == "reports NaN":
            trial.report(math.nan if x < 0.4 else x, 0)
        return math.nan if x < 0.4 else x

    made = study(n_startup_trials=6)
    made.optimize(fragile, n_trials=22, catch=(RuntimeError,))
    late = np.array([it.params["x"] for it in made.trials[10:]])
    assert np.mean(late < 0.4) < 0.5
    assert made.best_value < 0.45


def test_a_trial_that_is_interrupted_counts_for_what_it_reported():
    """Not as one that diverged."""
    made = study(n_startup_trials=3)

    def interrupted(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.report((x - 0.3) ** 2, 0)
        if abs(x - 0.3) < 0.2:
            raise OSError("the disk is full")
        return (x - 0.3) ** 2

    made.optimize(interrupted, n_trials=16, catch=(OSError,))
    assert np.median([abs(it.params["x"] - 0.3) for it in made.trials[8:]]) < 0.1


def test_steps_may_begin_anywhere():
    """From 0, as loops count, or from 1."""
    one, other = study(), study()
    one.optimize(objective, n_trials=13)
    other.optimize(lambda trial: objective(trial, first=1), n_trials=13)
    assert [it.params for it in one.trials] == [it.params for it in other.trials]


def test_several_objectives_are_refused():
    made = optuna.create_study(directions=["minimize", "maximize"], sampler=pbt.optuna_sampler())
    with pytest.raises(SpecError, match=r"study\.directions: are 2.* Return one value"):
        made.ask({"x": optuna.distributions.FloatDistribution(0, 1)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "below"),
        ({"n_startup_trials": 0}, "n_startup_trials"),
        ({"target": 0}, "target: is 0"),
        ({"target": -1.0}, "Give a number of steps"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(SpecError, match=words):
        pbt.optuna_sampler(**options)


@pytest.mark.full
def test_the_example_searches(monkeypatch, capsys):
    """`examples/own/study.py`, as its page has it."""
    spec = importlib.util.spec_from_file_location("study_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr("sys.argv", ["study.py", "--trials", "14"])
    example.main()
    assert float(re.search(r"loss ([0-9.]+) with", capsys.readouterr().out)[1]) < 0.6
    shown = re.findall(r"```python\n(study = .*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert textwrap.indent(shown, "    ") in EXAMPLE.read_text()

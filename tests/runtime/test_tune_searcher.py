"""Our search at Ray Tune's door: what it is told, what it answers, and what it keeps. No Ray is started."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from ray import tune

import pbt
from pbt.errors import SpecError
from searchspaces import Choice, Float

PARAM_SPACE = {
    "epochs": 9,
    "width": tune.lograndint(8, 129),
    "optimizer": {"kind": tune.choice(["adam", None, True]), "lr": tune.loguniform(1e-5, 1.0)},
    "dropout": tune.quniform(0.0, 0.6, 0.2),
}


def searcher(config: dict[str, Any] | None = None, mode: str = "min", **options: Any) -> Any:
    made = pbt.tune_searcher(**options)
    assert made.set_search_properties("loss", mode, PARAM_SPACE if config is None else config)
    return made


def loss_of(config: dict[str, Any]) -> float:
    optimizer = config["optimizer"]
    return (math.log10(optimizer["lr"]) + 3.0) ** 2 + (optimizer["kind"] is not None) + 2.0 * config["dropout"]


def train(made: Any, trial_id: str, epochs: int = 8, sign: float = 1.0) -> dict[str, Any]:
    config = made.suggest(trial_id)
    result = {}
    for epoch in range(1, epochs + 1):
        result = {"loss": sign * (loss_of(config) + 1.0 / epoch), "training_iteration": epoch}
        made.on_trial_result(trial_id, result)
    made.on_trial_complete(trial_id, result)
    return config


def test_what_it_suggests_is_in_tunes_space() -> None:
    made = searcher(n_startup_trials=3)
    for number in range(8):
        config = train(made, f"t{number}")
        assert config.keys() == {"width", "optimizer", "dropout"}  # what is constant is Tune's to add
        assert isinstance(config["width"], int)
        assert 8 <= config["width"] <= 128
        assert config["optimizer"]["kind"] in ("adam", None, True)
        assert 1e-5 <= config["optimizer"]["lr"] <= 1.0
        assert config["dropout"] in (0.0, 0.2, 0.4, 0.6)


@pytest.mark.parametrize(("mode", "sign"), [("max", -1.0), pytest.param("min", 1.0, marks=pytest.mark.full)])
def test_it_finds_the_best_also_from_trials_that_were_stopped(mode: str, sign: float) -> None:
    made = searcher(mode=mode, seed=1)
    tried = [train(made, f"t{number}", epochs=8 if number % 4 == 0 else 2, sign=sign) for number in range(30)]
    best = min(tried, key=loss_of)
    assert best["optimizer"]["kind"] is None
    assert best["dropout"] == 0.0
    assert loss_of(best) < 0.2


def test_the_same_seed_and_results_give_the_same_suggestions() -> None:
    one, other = searcher(seed=5), searcher(seed=5)
    assert [train(one, f"a{it}") for it in range(14)] == [train(other, f"b{it}") for it in range(14)]


@pytest.mark.parametrize("is_given_again", [False, True])
def test_it_is_saved_and_restored(tmp_path: Any, is_given_again: bool) -> None:
    """As JSON: nothing is unpickled. Trials under way go on. Tune hands the space on only to who gives it again."""
    one = searcher(seed=5)
    for number in range(12):
        train(one, f"t{number}")
    one.suggest("under way")
    one.on_trial_result("under way", {"loss": math.nan, "training_iteration": 1})
    one.save(str(tmp_path / "state"))
    other = pbt.tune_searcher(seed=5)
    other.restore(str(tmp_path / "state"))
    if is_given_again:
        assert other.set_search_properties("loss", "min", PARAM_SPACE)
    for made in (one, other):
        made.on_trial_result("under way", {"loss": 3.0, "training_iteration": 2})
    assert other.suggest("next") == one.suggest("next")


def test_initial_configurations_come_first() -> None:
    given = {"width": 64, "optimizer/kind": None, "optimizer/lr": 0.1, "dropout": 0.2}
    made = searcher(initial=[given])
    assert made.suggest("first") == {"width": 64, "optimizer": {"kind": None, "lr": 0.1}, "dropout": 0.2}


def test_a_space_of_ours_may_have_conditions() -> None:
    space = {"kind": Choice(["sgd", "adam"]), "momentum": Float(0.0, 0.9, when={"kind": "sgd"})}
    made = searcher({"epochs": 3}, space=space)
    found = [made.suggest(f"t{number}") for number in range(12)]
    assert all(("momentum" in it) == (it["kind"] == "sgd") for it in found)
    assert {it["kind"] for it in found} == {"sgd", "adam"}


def test_options_that_are_no_plain_data_are_to_be_given_again(tmp_path: Any) -> None:
    space = {"kind": tune.choice([math.sin, math.cos]), "x": tune.uniform(0.0, 1.0)}
    one = searcher(space)
    for number in range(3):
        one.suggest(f"t{number}")
    one.save(str(tmp_path / "state"))
    other = pbt.tune_searcher()
    other.restore(str(tmp_path / "state"))
    with pytest.raises(SpecError, match=r"leaves no hyperparameter open.*again, for Tuner\.restore"):
        other.suggest("next")
    assert other.set_search_properties("loss", "min", space)
    assert other.suggest("next") == one.suggest("next")


def test_without_a_param_space_the_metric_is_named_here() -> None:
    """Tune does not hand on the metric of its `TuneConfig` then."""
    space = {"x": Float(0.0, 1.0)}
    assert pbt.tune_searcher(space=space, metric="loss", mode="max").suggest("t").keys() == {"x"}
    with pytest.raises(SpecError, match=r"metric: is not given.*where there is no param_space"):
        pbt.tune_searcher(space=space).suggest("t")
    with pytest.raises(SpecError, match=r"param_space: leaves no hyperparameter open"):
        pbt.tune_searcher(metric="loss", mode="max").suggest("t")


def test_trials_that_fail_or_diverge_are_kept_away_from() -> None:
    made = searcher({"x": tune.uniform(0.0, 1.0)}, seed=2)
    late = []
    for number in range(26):
        x = made.suggest(f"t{number}")["x"]
        late += [x] * (number >= 12)
        value = math.nan if x < 0.5 else x  # the best are next to those that go wrong
        if number % 2 and x < 0.5:
            made.on_trial_complete(f"t{number}", error=True)
            continue
        made.on_trial_result(f"t{number}", {"loss": value, "training_iteration": 1})
        made.on_trial_complete(f"t{number}", {"loss": value, "training_iteration": 1})
    assert np.mean(np.array(late) < 0.5) < 0.5
    assert min(x for x in late if x >= 0.5) < 0.55


def test_a_trial_that_went_back_to_its_checkpoint_has_one_curve() -> None:
    made = searcher(seed=0)
    made.suggest("t")
    for epoch in (1, 2, 3, 2, 3, 4):
        made.on_trial_result("t", {"loss": float(epoch), "training_iteration": epoch})
    assert [time for time, _ in made._trials["t"].curve] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ({"lr": 0.1}, {}, "param_space: leaves no hyperparameter open that has bounds.* tune.loguniform"),
        ({"lr": [tune.uniform(0, 1), tune.uniform(0, 1)]}, {}, "param_space: has a list of things that vary at lr"),
        ({"lr": tune.grid_search([1, 2])}, {}, "param_space: has a grid_search for lr.* tune.choice"),
        ({"lr": tune.randn(0, 1)}, {}, "param_space: has lr, a Float of .*Normal.* Write tune.uniform"),
        ({"lr": tune.sample_from(lambda _: 1)}, {}, "param_space: has lr, .* Write tune.uniform"),
        ({"lr": tune.uniform(0, 1)}, {"space": {"x": Float(0, 1)}}, "leaves lr open, and the searcher has a space"),
        ({"lr": tune.uniform(0, 1)}, {"initial": [{"lr": 2.0}]}, "initial: lr=2.0 is not"),
        ({"lr": tune.uniform(0, 1)}, {"initial": [{}]}, "initial: lr is missing"),
        ({"my lr": tune.uniform(0, 1)}, {}, "param_space: 'my lr' cannot name"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(config: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        searcher(config, **options)


def test_a_metric_that_is_missing_is_named() -> None:
    with pytest.raises(SpecError, match=r"metric: is not given.* TuneConfig"):
        pbt.tune_searcher().set_search_properties(None, None, PARAM_SPACE)
    with pytest.raises(SpecError, match="metric: and mode go together"):
        pbt.tune_searcher(metric="loss")
    with pytest.raises(SpecError, match="mode: is 'least'"):
        pbt.tune_searcher(metric="loss", mode="least")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"space: .*Tune's go into param_space"):
        pbt.tune_searcher(space={"lr": tune.uniform(0, 1)})
    made = searcher()
    made.suggest("t")
    with pytest.raises(SpecError, match="loss: of trial t is missing; it reported accuracy, training_iteration"):
        made.on_trial_result("t", {"accuracy": 0.5, "training_iteration": 1})

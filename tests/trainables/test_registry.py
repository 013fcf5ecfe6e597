"""Trainables by name, and the package's public names."""

import subprocess
import sys

import pytest

import trainables
from trainables import Language, Place, Quadratic, TrainableError, load
from trainables.registry import REGISTERED

PUBLIC = [
    "Capabilities",
    "DataError",
    "HparamSpec",
    "Language",
    "MetricSpec",
    "Place",
    "Plan",
    "Quadratic",
    "Shard",
    "Stack",
    "State",
    "Trainable",
    "TrainableError",
    "Vision",
    "load",
    "shrink_and_perturb",
]


def test_public_names():
    """The package exports exactly these, and each can be had."""
    assert sorted(trainables.__all__) == PUBLIC == dir(trainables)
    assert all(getattr(trainables, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="Trainer"):
        _ = trainables.Trainer


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import trainables", "torch numpy pyarrow"),
        ("from trainables import TrainableError, DataError", "torch numpy pyarrow"),
        ("from trainables import Language, Quadratic, load", "ray mlflow pbt searchspaces"),
    ],
)
def test_importing_is_light(statement, forbidden):
    """The package alone loads no torch; with everything it loads nothing of the orchestrator."""
    program = f"{statement}; import sys; print(sorted(set({forbidden.split()}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("quadratic", {}, Quadratic()),
        ("quadratic", None, Quadratic()),
        ("language", {"width": 32}, Language(width=32)),
        ("trainables.language:Language", {"depth": 1}, Language(depth=1)),
    ],
)
def test_load(name, options, expected):
    """A registered name or `module.path:Class`, with its options."""
    assert load(name, options) == expected


GANG = {"make": "make", "loss": "loss", "feed": "Points"}
MODULE = {"model": "Plain", "loss": "smoothed", "data": "rows"}


def test_every_registered_name_loads():
    """No registered name is stale."""
    options = {
        "function": {"train": "tests.trainables.loops:plain", "hparams": {}, "metrics": {"loss": "min"}},
        "gang": {name: f"tests.trainables.ranked:{it}" for name, it in GANG.items()},
        "module": {name: f"tests.trainables.nets:{it}" for name, it in MODULE.items()},
    }
    assert {type(load(name, options.get(name))).__name__.lower() for name in REGISTERED} == set(REGISTERED)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("languge", {}, "'languge' is unknown; did you mean 'language'"),
        ("no.such.module:Thing", {}, "cannot be imported"),
        ("trainables.language:Lingo", {}, "cannot be imported"),
        ("language", {"widht": 3}, "no option 'widht'; did you mean 'width'"),
        ("quadratic", {"width": 3}, "no option 'width'; known: none"),
        ("tests.trainables.test_registry:NotOne", {}, "not a Trainable"),
        ("tests.trainables.test_registry:Needy", {}, "needs the option 'needed'; add it to trainable.options"),
        ("tests.trainables.test_registry:Needy", {"needed": 3}, "cannot be built"),
    ],
)
def test_load_refuses(name, options, message):
    """Each refusal is one line that names the culprit and the mend."""
    with pytest.raises(TrainableError, match=message) as caught:
        load(name, options)
    assert "\n" not in str(caught.value)


def test_a_member_across_processes_is_refused():
    """One process per member here: a larger world size is refused, not trained wrongly."""
    with pytest.raises(TrainableError, match="world_size is 2"):
        Quadratic().build("quadratic", 1, Place(world_size=2))


class NotOne:
    """A class without the protocol."""


class Needy:
    """A class whose option is left out."""

    def __init__(self, needed):
        self.needed = needed + "a word"

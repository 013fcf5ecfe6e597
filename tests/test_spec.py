"""A sweep as plain data: exact to write down and read back, and refused where it cannot be run."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.spec import (
    PARTS,
    Budget,
    Checkpoints,
    Component,
    Hosts,
    Objective,
    SweepSpec,
    Tracking,
    from_dict,
    is_number,
    to_dict,
)
from tests.examples import examples

#: Limits of a budget that need not be written.
LIMITS = ("tokens", "wall_minutes", "gpu_hours", "joules")


def spec(**changes) -> SweepSpec:
    """A small sweep."""
    parts = {
        "trainable": Component(name="quadratic"),
        "space": "quadratic",
        "objective": Objective(metric="Q"),
        "budget": Budget(members=2, generations=3, steps=4),
    }
    return SweepSpec(**parts | changes)


def json_values():
    """What JSON can hold, NaN and infinity excepted."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8")),
        st.sampled_from(
            ["1e-4", "1.", ".5", "0x1f", "no", "null", "~", "<<", "=", "2024-01-01", "1_000", "- a", "a: b"]
        ),
    )
    keys = st.one_of(st.text(st.characters(codec="utf-8"), max_size=8), st.sampled_from(["1e5", "on", "<<", "=", "3"]))
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
    )


def options():
    return st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), json_values(), max_size=3)


def components():
    return st.builds(Component, name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), options=options())


def specs():
    """Whole sweeps of every kind."""
    word = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
    count = st.integers(1, 2**40)
    amount = st.floats(0, 1e9, exclude_min=True)
    uri = st.none() | st.sampled_from(["sqlite:///a.db", "http://127.0.0.1:5000"])
    return st.builds(
        SweepSpec,
        trainable=components(),
        strategy=components(),
        space=st.one_of(word, options().filter(bool)),
        objective=st.builds(
            Objective,
            metric=word,
            mode=st.sampled_from([None, "min", "max"]),
            split=st.sampled_from(["train", "validation"]),
        ),
        budget=st.builds(
            Budget,
            members=count,
            generations=count,
            steps=count,
            tokens=st.none() | count,
            wall_minutes=st.none() | amount,
            gpu_hours=st.none() | amount,
            joules=st.none() | amount,
        ),
        checkpoints=st.builds(
            Checkpoints, every_steps=st.none() | count, every_minutes=st.none() | amount, keep=st.integers(1, 9)
        ),
        name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        seed=st.integers(0, 2**63 - 1),
        hosts=st.one_of(
            st.builds(
                Hosts,
                kind=st.just(kind),
                stacks=st.none() | count,
                device=word,
                compile=st.sampled_from(["auto", "never", "always"]),
                address=st.none() | word if kind == "ray" else st.none(),
            )
            for kind in ("ray", "local")
        ),
        storage=word,
        tracking=st.builds(Tracking, enabled=st.booleans(), uri=uri, experiment=st.none() | word),
    )


@examples(50)
@given(specs())
def test_to_dict_and_from_dict_are_inverses(given_):
    """Through JSON text, every sweep comes back equal, and so does its dictionary."""
    data = to_dict(given_)
    assert from_dict(json.loads(json.dumps(data))) == given_
    assert to_dict(from_dict(data)) == data


def test_defaults_need_not_be_written():
    """The smallest sweep, and what it means."""
    small = from_dict(
        {
            "trainable": {"name": "quadratic"},
            "space": "quadratic",
            "objective": {"metric": "Q"},
            "budget": {"members": 2, "generations": 3, "steps": 4},
        }
    )
    assert small == spec()
    assert to_dict(small) == {
        "trainable": {"name": "quadratic", "options": {}},
        "space": "quadratic",
        "objective": {"metric": "Q", "mode": None, "split": "validation"},
        "budget": {"members": 2, "generations": 3, "steps": 4} | dict.fromkeys(LIMITS),
        "strategy": {"name": "pb2", "options": {}},
        "name": "sweep",
        "seed": 0,
        "hosts": {
            "kind": "ray",
            "stacks": None,
            "device": "auto",
            "compile": "auto",
            "precision": "fp32",
            "plan": "auto",
            "gpus": 1.0,
            "ranks": 1,
            "retries": 5,
            "hang_minutes": 60.0,
            "reporter": "pbt",
            "local_storage": "refuse",
            "address": None,
        },
        "storage": "pbt-runs",
        "tracking": {"enabled": True, "uri": None, "experiment": None, "segment_runs": 200},
        "checkpoints": {"every_steps": None, "every_minutes": 5.0, "keep": 2},
        "archive": None,
    }


def test_parts_are_the_fields_that_are_dataclasses():
    """So that `from_dict` builds each of them."""
    kinds = {kind.__name__: kind for kind in (Budget, Checkpoints, Component, Hosts, Objective, Tracking)}
    fields = {field.name: kinds[field.type] for field in dataclasses.fields(SweepSpec) if field.type in kinds}
    assert fields == PARTS


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"trainable": Component(name="q", options={"a": {"b": math.nan}})}, "trainable.options.a.b: nan"),
        ({"strategy": Component(name="q", options={"a": [1.0, math.inf]})}, "strategy.options.a[1]: inf"),
        ({"space": {"lr": {"low": -math.inf}}}, "space.lr.low: -inf"),
    ],
)
def test_what_cannot_be_written_down_is_named(part, where):
    """A number JSON does not know is refused, with its place."""
    with pytest.raises(SpecError) as raised:
        to_dict(spec(**part))
    assert str(raised.value) == f"{where} cannot be written to a sweep file. Use a finite number"


def test_tuples_are_written_as_lists():
    """As JSON does."""
    data = to_dict(spec(strategy=Component(name="pbt", options={"factors": (0.8, 1.2)})))
    assert data["strategy"]["options"] == {"factors": [0.8, 1.2]}


@pytest.mark.parametrize(("members", "generations", "steps", "total"), [(1, 1, 1, 1), (2, 3, 4, 24)])
def test_member_steps(members, generations, steps, total):
    """Members times generations times steps."""
    assert Budget(members=members, generations=generations, steps=steps).member_steps == total


@pytest.mark.parametrize("field", ["members", "generations", "steps"])
@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, True, "3", None])
def test_budgets_that_train_nothing_are_refused(field, value):
    """Each part is a whole number of at least 1."""
    with pytest.raises(SpecError) as raised:
        Budget(**{"members": 1, "generations": 1, "steps": 1} | {field: value})
    message = f"budget.{field}: {value!r} is not a whole number of at least 1. Write a whole number, 1 or more"
    assert str(raised.value) == message


@pytest.mark.parametrize("field", ["wall_minutes", "gpu_hours", "joules"])
@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, True, "3"])
def test_limits_that_allow_nothing_or_everything_are_refused(field, value):
    """A limit is a positive number, or left out."""
    with pytest.raises(SpecError) as raised:
        Budget(**{"members": 1, "generations": 1, "steps": 1, field: value})
    assert (
        str(raised.value)
        == f"budget.{field}: {value!r} is not a positive number. Write a number above 0, or leave it out"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every_steps": 0}, "checkpoints.every_steps: 0 is not a whole number of at least 1"),
        ({"every_minutes": 0}, "checkpoints.every_minutes: 0 is not a positive number"),
        ({"keep": 0}, "checkpoints.keep: 0 is not a whole number of at least 1"),
    ],
)
def test_checkpoints_that_save_nothing_by_mistake_are_refused(changes, message):
    """None switches a rule off; 0 is a mistake."""
    with pytest.raises(SpecError) as raised:
        Checkpoints(**changes)
    assert str(raised.value).startswith(message)
    assert Checkpoints(every_minutes=None).every_steps is None


URIS = "Write sqlite:///FILE, postgresql://USER@HOST/DATABASE or http://HOST:PORT"
PASSWORD = (
    "tracking.uri: holds a password, which does not belong into a sweep. "
    "Leave it out and set MLFLOW_TRACKING_URI in the environment"
)
NAME = "Use at most 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Objective(metric="Q", mode="maximum"),
            "objective.mode: 'maximum' is unknown. Write min or max",
        ),
        (
            lambda: Objective(metric="Q", split="test"),
            "objective.split: 'test' may not decide. "
            "Write validation (or train); the test split is kept for the announced winner",
        ),
        (
            lambda: Hosts(kind="local", address="auto"),
            "hosts.address: is 'auto', but hosts.kind is local. Leave the address out, or write kind: ray",
        ),
        (
            lambda: Hosts(kind="local", reporter="tune"),
            "hosts.reporter: is 'tune', but hosts.kind is local. Leave the reporter out, or write kind: ray",
        ),
        (lambda: Hosts(reporter="rich"), "hosts.reporter: 'rich' is unknown. Write pbt or tune"),
        (lambda: Hosts(kind="slurm"), "hosts.kind: 'slurm' is unknown. Write ray or local"),
        (lambda: Hosts(compile="maybe"), "hosts.compile: 'maybe' is unknown. Write auto, never or always"),
        (
            lambda: Hosts(stacks=0),
            "hosts.stacks: 0 is not a whole number of at least 1. Write a whole number, 1 or more",
        ),
        (
            lambda: Hosts(stacks=True),
            "hosts.stacks: True is not a whole number of at least 1. Write a whole number, 1 or more",
        ),
        (lambda: Tracking(uri="ftp://h"), f"tracking.uri: MLflow cannot track to 'ftp://h'. {URIS}"),
        (lambda: Tracking(uri="http://[::1"), f"tracking.uri: MLflow cannot track to 'http://[::1'. {URIS}"),
        (lambda: Tracking(uri=""), f"tracking.uri: MLflow cannot track to ''. {URIS}"),
        (lambda: Tracking(uri="http://u:secret@h"), PASSWORD),
        (
            lambda: Tracking(segment_runs=-1),
            "tracking.segment_runs: -1 is not a whole number of at least 0. Write a whole number, 0 or more",
        ),
        (
            lambda: Tracking(segment_runs=True),
            "tracking.segment_runs: True is not a whole number of at least 0. Write a whole number, 0 or more",
        ),
        (lambda: Tracking(uri="ftp://u:secret@h"), PASSWORD),
        (lambda: spec(name=""), f"name: '' cannot name a folder. {NAME}"),
        (lambda: spec(name="a/b"), f"name: 'a/b' cannot name a folder. {NAME}"),
        (lambda: spec(name=".."), f"name: '..' cannot name a folder. {NAME}"),
        (lambda: spec(name="a b"), f"name: 'a b' cannot name a folder. {NAME}"),
        (lambda: spec(name="a\n"), f"name: 'a\\n' cannot name a folder. {NAME}"),
        (lambda: spec(name="a" * 65), f"name: '{'a' * 65}' cannot name a folder. {NAME}"),
        (lambda: spec(name=3), f"name: 3 cannot name a folder. {NAME}"),
        (lambda: spec(seed=-1), "seed: -1 is not a whole number of at least 0. Write a whole number, 0 or more"),
        (lambda: spec(seed=0.5), "seed: 0.5 is not a whole number of at least 0. Write a whole number, 0 or more"),
        (lambda: spec(seed=2**63), f"seed: {2**63} is too large. Use a number below 2**63"),
        (lambda: spec(space={}), "space: is empty. Name at least one hyperparameter, or a ready space"),
        (lambda: spec(space=""), "space: is empty. Name at least one hyperparameter, or a ready space"),
        (lambda: spec(storage=""), "storage: is empty. Name a folder"),
        (
            lambda: spec(trainable=Component(name="")),
            "trainable.name: is empty. Write a registered name or module.path:Class",
        ),
        (
            lambda: spec(strategy=Component(name="")),
            "strategy.name: is empty. Write a registered name or module.path:Class",
        ),
    ],
)
def test_impossible_sweeps_are_refused(make, message):
    """The message is the field as a sweep file writes it, the value, and the mend."""
    with pytest.raises(SpecError) as raised:
        make()
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "changes", [{"name": "a"}, {"name": "A-1_b.c"}, {"name": "9" * 64}, {"seed": 0}, {"seed": 2**63 - 1}]
)
def test_the_ends_of_the_ranges_are_allowed(changes):
    """Names of 64 characters, and the largest seed."""
    (name,) = changes
    assert getattr(spec(**changes), name) == changes[name]


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (0.5, True), (math.nan, True), (True, False), ("1", False), (None, False)]
)
def test_is_number(value, expected):
    """True and text are none."""
    assert is_number(value) is expected


@pytest.mark.parametrize(
    ("members", "generations", "name"),
    [
        (2, 9, "pb2"),
        (7, 9, "pb2"),
        (8, 9, "mf_pb2"),
        (64, 5, "mf_pb2"),
        (8, 4, "pb2"),
        (64, 4, "pb2"),
        (65, 9, "pbt"),
        (65, 4, "pbt"),
    ],
)
def test_the_usual_strategy_is_settled_by_the_budget(members, generations, name):
    """In the spec, so that the record names it; a strategy that is named stays, and so do options."""
    budget = Budget(members=members, generations=generations, steps=1)
    usual = spec(budget=budget)
    assert usual.strategy == Component(name=name)
    assert from_dict(to_dict(usual)) == usual
    assert spec(budget=budget, strategy=Component(name="fixed")).strategy.name == "fixed"
    options = {"resample_probability": 0.5}
    asked = Component(name="default", options=options)
    assert spec(budget=budget, strategy=asked).strategy == Component(name=name, options=options)

"""Errors: one tree, one line each, and they survive the way between processes."""

import copy
import pickle

import pytest

from pbt import errors
from pbt.errors import HparamMismatch, LedgerError, PbtError, RunNotFound, SpecError, nearest

EXAMPLES = [
    PbtError("broken"),
    SpecError("budget.members", "0 is too few", "Write 1 or more"),
    errors.StorageError("cannot write /x: No space left on device."),
    LedgerError("/x is damaged."),
    RunNotFound("no run at /x."),
    HparamMismatch(3, "lr", 0.1, 0.2),
    errors.HostError("a host stopped."),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])  # noqa: S301
def test_errors_travel(error, travel):
    """An error that was pickled in a host's process is the same here, attributes included."""
    arrived = travel(error)
    assert (type(error), str(error), vars(error)) == (type(arrived), str(arrived), vars(arrived))


def test_all_errors_are_of_one_tree():
    """Whoever catches `PbtError` catches all of them; a missing run is a kind of ledger error."""
    defined = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert {type(error) for error in EXAMPLES} == set(defined)
    assert all(issubclass(kind, PbtError) for kind in defined)
    assert issubclass(RunNotFound, LedgerError)


def test_a_spec_error_names_field_problem_and_mend():
    """In one line, and each by itself."""
    error = SpecError("budget.members", "0 is too few", "Write 1 or more")
    assert str(error) == "budget.members: 0 is too few. Write 1 or more"
    assert (error.field, error.problem, error.mend) == ("budget.members", "0 is too few", "Write 1 or more")


def test_a_mismatch_names_member_hyperparameter_and_values():
    """Wanted and got, and what to look at."""
    error = HparamMismatch(3, "lr", 0.1, None)
    assert str(error) == (
        "member 3: lr is not in effect: wanted 0.1, got None. "
        "The member was stopped; check that the trainable's set_hparams writes 'lr'."
    )
    assert (error.member, error.hparam, error.wanted, error.got) == (3, "lr", 0.1, None)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("membres", ["members", "steps"], "Did you mean 'members'?"),
        ("MEMBERS", ["members", "steps"], "Did you mean 'members'?"),
        ("q", ["Q", "loss"], "Did you mean 'Q'?"),
        ("zzz", ["steps", "members"], "Known: members, steps."),
        ("", ["b", "a"], "Known: a, b."),
        ("x", (name for name in ("b", "a")), "Known: a, b."),
        ("Name", ["Name", "name"], "Did you mean 'name'?"),
    ],
)
def test_nearest(name, known, expected):
    """A near miss is guessed, whatever its case; else all known names are listed in order."""
    assert nearest(name, known) == expected

"""The baseline: everybody keeps what they began with."""

import pytest

from pbt.errors import SpecError
from pbt.population import PBT, Fixed
from pbt.strategy import Copy, Set, Start
from tests.contracts.strategy_contract import SPACE, Case, SynchronousContract, make_task, of_kind, play

INITIAL = ({"lr": 0.01, "optimizer": "adamw", "depth": 2, "mix": {"books": 0.5, "web": 0.5}},)


class TestContract(SynchronousContract):
    """`Fixed` keeps the contract of every strategy."""

    @pytest.fixture
    def options(self):
        return Fixed()


def test_nobody_is_replaced():
    """Whatever the scores, nothing is copied and nothing is set."""
    task = make_task(members=4, generations=5)
    scores = [[float(member * generation) for generation in range(5)] for member in range(4)]
    actions = play(Fixed(), Case(task=task, scores=scores)).actions
    assert of_kind(actions, Copy) + of_kind(actions, Set) == []


@pytest.mark.parametrize("initial", [(), INITIAL, INITIAL * 2])
def test_begins_as_pbt_does(initial):
    """With equal seed, space and budget, `Fixed` and `PBT` start the very same members."""
    case = Case(task=make_task(members=3, generations=1, seed=5), scores=[[0.0]] * 3)
    fixed, pbt = (of_kind(play(kind(initial=initial), case).actions, Start) for kind in (Fixed, PBT))
    assert pbt == fixed
    assert list(initial) == [start.hparams for start in fixed[: len(initial)]]
    for start in fixed:
        SPACE.check(start.hparams)


def test_initial_configurations_must_be_a_list():
    """The mistake is refused with the option's name, as `PBT` does."""
    with pytest.raises(SpecError, match=r"^strategy\.options\.initial: 'lr' is not a list of mappings\. Write"):
        Fixed(initial="lr")

"""What a step counts in a search that tries smaller models first."""

from pbt.record.sizes import Sizes

SIZES = Sizes({"fidelity": {"name": "width", "rates": [[16, 0.25], [32, 0.5], [64, 1.0]]}})


def test_a_step_of_a_smaller_model_counts_less():
    assert [0.25, 0.5, 1.0] == [SIZES.rate({"width": it, "lr": 0.1}) for it in (16, 32, 64)]
    assert [False, False, True] == [SIZES.is_wanted({"width": it}) for it in (16, 32, 64)]


def test_members_of_several_sizes_are_one_configuration():
    small, large, other = ({"width": 16, "lr": 0.1}, {"lr": 0.1, "width": 64}, {"lr": 0.2, "width": 64})
    assert SIZES.configuration(0, small) == SIZES.configuration(5, large) != SIZES.configuration(6, other)


def test_in_any_other_run_all_steps_are_alike_and_each_member_is_one():
    plain = Sizes({})
    assert plain.rate({"width": 16}) == 1.0
    assert plain.is_wanted({"width": 16})
    assert plain.configuration(0, {"lr": 0.1}) != plain.configuration(1, {"lr": 0.1})

"""What `pbt space show` tells of a space: densities against what the domains promise."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pbt.report.space import as_json, densities, show
from searchspaces import Choice, Float, Int, Simplex, Space

SPACE = Space(
    {
        "optimizer": Choice(["sgd", "adam", "lion"]),
        "lr": Float(1e-4, 1e-1, log=True),
        "layers": Int(1, 4),
        "momentum": Float(0.0, 1.0, when={"optimizer": ["sgd", "lion"]}),
        "mix": Simplex(["web", "code", "books"]),
    }
)


@pytest.fixture(scope="module")
def found():
    return {it.name: it for it in densities(SPACE)}


def test_draws_are_even_on_a_domains_own_scale(found):
    """Shares of equally wide bins, and quantiles in the hyperparameter's own numbers."""
    assert found["lr"].shares == pytest.approx([1 / 12] * 12, abs=0.01)
    assert found["lr"].quantiles == pytest.approx([10**-3.85, 10**-2.5, 10**-1.15], rel=0.1)
    assert (found["lr"].scale, found["lr"].active) == ("log", 1.0)


def test_options_have_a_share_each(found):
    """Whole numbers fall into their own bins."""
    assert found["optimizer"].shares == pytest.approx([1 / 3] * 3, abs=0.02)
    filled = [share for share in found["layers"].shares if share]
    assert filled == pytest.approx([0.25] * 4, abs=0.02)


def test_proportions_are_told_part_by_part(found):
    """Each weight of three, drawn evenly from the simplex, has the density 2 (1 - w): its median is 1 - sqrt(1/2)."""
    for part in ("web", "code", "books"):
        it = found[f"mix[{part}]"]
        assert it.quantiles[1] == pytest.approx(1 - 0.5**0.5, abs=0.02)
        assert it.shares[0] == pytest.approx(1 - (11 / 12) ** 2, abs=0.02)


def test_a_condition_is_told_with_its_share(found):
    """Of the draws that have it, and in words."""
    assert found["momentum"].active == pytest.approx(2 / 3, abs=0.02)
    assert found["momentum"].condition == "optimizer is sgd or lion"


def test_it_is_shown_as_a_table():
    """With everything a person needs to see a slip of a bound."""
    console = Console(file=io.StringIO(), width=160)
    show(SPACE, console)
    told = console.file.getvalue()
    for words in ("lr", "0.0001 to 0.1, log", "whole, 1 to 4", "sgd, adam, lion"):
        assert words in told
    assert "momentum is active in 67% of the draws: where optimizer is sgd or lion" in told
    assert SPACE.hash[:12] in told


def test_it_is_told_to_programs():
    """The space as a sweep file holds it comes back."""
    told = json.loads(as_json(SPACE))
    assert Space.from_json(told["space"]) == SPACE
    assert [it["name"] for it in told["densities"]][:2] == ["optimizer", "lr"]

"""Who searches: ours, what everybody compares with, and Optuna's."""

from __future__ import annotations

from collections.abc import Callable

from optuna.pruners import HyperbandPruner
from optuna.samplers import CmaEsSampler, GPSampler, TPESampler

from benchmarks.search import smacs
from benchmarks.search.bohb import bohb
from benchmarks.search.optunas import OptunaPolicy
from benchmarks.search.plain import PlainModel
from benchmarks.search.smacs import SmacPolicy
from benchmarks.search.world import Snap
from pbt.search.curve_model import CurveModel
from pbt.search.ensemble_search import EnsembleSearch
from pbt.search.entropy_search import EntropySearch
from pbt.search.freeze_thaw import FreezeThawPolicy
from pbt.search.policy import Ladder, Policy
from pbt.search.promotion import Halving, MedianStopping, Straight
from pbt.search.proposers import sobol, uniform
from searchspaces import Simplex, Space

#: Builds a policy for a space, given what becomes of proposals, the ladder and a seed.
Method = Callable[[Space, Snap, Ladder, int], Policy]

#: Optuna's samplers draw ten at random before they learn: the whole budget. These draw one for each worker.
_DRAWN = 4


def _hyperband(ladder: Ladder) -> HyperbandPruner:
    return HyperbandPruner(min_resource=int(ladder.rungs[0]), max_resource=int(ladder.target), reduction_factor=3)


METHODS: dict[str, Method] = {
    "freeze_thaw": lambda space, snap, ladder, seed: FreezeThawPolicy(model=CurveModel(space)),
    "mf_mes": lambda space, snap, ladder, seed: EntropySearch(model=CurveModel(space)),
    "rung_ensemble": lambda space, snap, ladder, seed: EnsembleSearch(model=CurveModel(space)),
    "random": lambda space, snap, ladder, seed: Straight(uniform(space)),
    "sobol": lambda space, snap, ladder, seed: Straight(sobol(space, seed)),
    "asha": lambda space, snap, ladder, seed: Halving(uniform(space)),
    "hyperband": lambda space, snap, ladder, seed: Halving(uniform(space), brackets=3),
    "bohb": lambda space, snap, ladder, seed: Halving(bohb(space), brackets=3),
    "median": lambda space, snap, ladder, seed: MedianStopping(uniform(space)),
    "plain_mes": lambda space, snap, ladder, seed: EntropySearch(model=PlainModel(space)),
    "tpe": lambda space, snap, ladder, seed: OptunaPolicy(space, snap, TPESampler(seed=seed, n_startup_trials=_DRAWN)),
    "tpe_hyperband": lambda space, snap, ladder, seed: OptunaPolicy(
        space, snap, TPESampler(seed=seed), _hyperband(ladder)
    ),
    "gp": lambda space, snap, ladder, seed: OptunaPolicy(space, snap, GPSampler(seed=seed, n_startup_trials=_DRAWN)),
    "cma_es": lambda space, snap, ladder, seed: OptunaPolicy(space, snap, CmaEsSampler(seed=seed)),
}

if smacs.is_there():
    METHODS["smac"] = lambda space, snap, ladder, seed: SmacPolicy(space, seed, ladder.rungs[0], ladder.target)

#: Those that have a model of ours.
OURS = ("freeze_thaw", "mf_mes", "rung_ensemble")
#: Those that know nothing like a mixture.
NO_MIXTURES = frozenset({"tpe", "tpe_hyperband", "gp", "cma_es", "smac"})


def can_search(method: str, space: Space) -> bool:
    """Whether a method has a word for everything in a space."""
    return method not in NO_MIXTURES or not any(isinstance(it, Simplex) for it in space.values())

"""Strategies that evolve a population."""

from pbt.population.fixed import Fixed
from pbt.population.pbt import PBT

__all__ = ["PBT", "Fixed"]

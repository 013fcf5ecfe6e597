"""Strategies that evolve a population."""

from pbt.population.fixed import Fixed
from pbt.population.halving import Halving
from pbt.population.ipbt import IPBT
from pbt.population.mf_pb2 import MFPB2
from pbt.population.mf_pbt import MFPBT
from pbt.population.pb2 import PB2
from pbt.population.pbt import PBT
from pbt.population.replay import Arm, Replay

__all__ = ["IPBT", "MFPB2", "MFPBT", "PB2", "PBT", "Arm", "Fixed", "Halving", "Replay"]

"""Search for the configuration that is best once it is trained to the end, with what many shorter runs say of it."""

from pbt.search.strategies import ASHA, MFMES, FreezeThaw, MedianRule, OptunaSearch, RandomSearch, RungEnsemble

__all__ = ["ASHA", "MFMES", "FreezeThaw", "MedianRule", "OptunaSearch", "RandomSearch", "RungEnsemble"]

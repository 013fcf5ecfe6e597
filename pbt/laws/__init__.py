"""Scaling laws: fitted to sweeps, with intervals, and used to plan what to train next."""

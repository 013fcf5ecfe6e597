"""How good what a strategy finds is: ours, the baselines, and Ray Tune's own, at equal member-steps."""

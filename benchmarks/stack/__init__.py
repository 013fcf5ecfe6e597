"""How fast members train together, and what else the training core promises; run by `python -m benchmarks.stack`."""

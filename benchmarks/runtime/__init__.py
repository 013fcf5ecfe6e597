"""What the runtime costs: see `python -m benchmarks.runtime --help`."""

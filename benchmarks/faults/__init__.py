"""What is lost when processes are killed: see `python -m benchmarks.faults --help`."""

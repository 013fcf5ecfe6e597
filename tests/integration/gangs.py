"""A sweep of three gangs at once, in a process of its own: with a Ray of its own, which has room for them."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import ray

from pbt.runtime.cluster import ENVIRONMENT
from tests.integration.test_gangs import sweep

if __name__ == "__main__":
    os.environ.update(ENVIRONMENT, PYTHONPATH=os.getcwd())
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    sweep(Path(sys.argv[1]), ranks=2).run(progress=False)

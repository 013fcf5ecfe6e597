"""Shared by all tests: one thread per process, repeatable examples, and one Ray for the tests marked `ray`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite(
    "tests.contracts.stack_contract",
    "tests.contracts.states",
    "tests.contracts.strategy_contract",
    "tests.runtime.miniature",
)


# The same few examples every time; `scripts/test --full` looks for new and more (--hypothesis-profile=default).
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=20)
settings.register_profile("default", deadline=None, max_examples=50)  # how long an example takes is no matter of tests
settings.register_profile("thorough", deadline=None)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    # The person's own cluster and server are none of the tests' business.
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`gpu` tests say why they skip."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for the whole session, its files in a private folder."""
    from pbt.runtime.cluster import cluster

    with cluster(None):
        yield

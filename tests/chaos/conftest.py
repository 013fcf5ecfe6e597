"""Shared by the chaos suite: helpers explain their assertions, and file operations pass by whoever injects faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.chaos.subject")

from tests.chaos import faults  # noqa: E402


# Not for the package: without an __init__.py that is the whole session, and others found their disk watched.
@pytest.fixture(scope="module", autouse=True)
def _watched_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, faults.watched():
        patch.setattr("pbt.record.wal.SYNC_S", 3600.0)  # the thread that syncs comes when it likes: never
        yield

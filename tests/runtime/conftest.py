"""Shared by the tests of the runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def no_sync() -> Iterator[None]:
    """Files are written and not synced: that they outlive the machine is tested where they are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield

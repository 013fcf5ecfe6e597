from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A small text in which every block differs from every other."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(2000)))
    return path

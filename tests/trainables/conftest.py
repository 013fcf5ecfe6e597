import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
# The contract suites are imported as `tests.contracts.*`, whatever way pytest was started.
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))
pytest.register_assert_rewrite("tests.contracts.stack_contract", "tests.contracts.states")


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A small text in which every block differs from every other."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(2000)))
    return path

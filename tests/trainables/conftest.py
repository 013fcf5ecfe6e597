from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A small text in which every block differs from every other."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(2000)))
    return path


@pytest.fixture(scope="session")
def domains(tmp_path_factory) -> Path:
    """Three folders of text: numbers, words, and one letter again and again."""
    root = tmp_path_factory.mktemp("domains")
    texts = {
        "numbers": "".join(f"{i} squared is {i * i}.\n" for i in range(1000)),
        "words": "".join(f"{'abcdefg'[i % 7]}{'hijkl'[i % 5]} and {'mnopqrstuvw'[i % 11]}\n" for i in range(900)),
        "xs": "x" * 3000,
    }
    for name, text in texts.items():
        (root / name).mkdir()
        (root / name / "text.txt").write_text(text)
    return root

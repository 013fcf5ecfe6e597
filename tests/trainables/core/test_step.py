import logging

import pytest

from trainables import Place
from trainables.core import step


@pytest.fixture
def _no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    step._notice_no_compiler.cache_clear()
    yield
    step._notice_no_compiler.cache_clear()


@pytest.mark.parametrize("how", ["never", "auto"])
def test_the_cpu_is_eager_unless_told_otherwise(how):
    """Short CPU runs do not repay a compilation."""
    assert step.step_function(Place(compile=how)) is step.train_step


def test_always_compiles():
    """`always` gives another function than the eager step, where there is a compiler."""
    if step.compiler() is None:
        pytest.skip("no C++ compiler")
    assert step.step_function(Place(compile="always")) is not step.train_step


@pytest.mark.usefixtures("_no_compiler")
def test_without_a_compiler_it_is_eager_with_one_notice(caplog):
    """However many stacks are built, the notice comes once and says what to install."""
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert step.step_function(Place(compile="always")) is step.train_step
    assert len(caplog.records) == 1
    assert "install g++" in caplog.text


@pytest.mark.usefixtures("_no_compiler")
def test_nothing_is_said_where_nothing_would_be_compiled(caplog):
    """Eager by choice needs no compiler."""
    step.step_function(Place(compile="auto"))
    step.step_function(Place(compile="never"))
    assert not caplog.records


@pytest.mark.usefixtures("_no_compiler")
def test_cxx_names_a_compiler(monkeypatch, tmp_path):
    """$CXX is looked up first."""
    compiler = tmp_path / "my-c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "my-c++")
    assert step.compiler() == str(compiler)

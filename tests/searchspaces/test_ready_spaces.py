"""The public names, `load`, and the spaces that come with the package."""

import subprocess
import sys
import types

import numpy as np
import pytest

import searchspaces
from searchspaces import Choice, Int, Space, SpaceError, load

ADAMW = ("lr", "weight_decay", "beta1", "beta2")
SCHEDULE = ("warmup_steps", "decay_steps", "final_lr_ratio")
LANGUAGE = (*ADAMW, "dropout", *SCHEDULE)
VISION = (*ADAMW, "label_smoothing", "dropout", "shift", "cutout", *SCHEDULE)


def test_exported_members():
    """The public API is these names."""
    assert searchspaces.__all__ == ["READY", "Choice", "Float", "Int", "Simplex", "Space", "SpaceError", "load"]


def test_imports_numpy_only():
    """The package loads nothing that its users did not ask for."""
    code = "import sys, searchspaces as s; s.load('language'); print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert {"pbt", "trainables", "ray", "torch", "mlflow", "scipy", "pandas"}.isdisjoint(loaded)


@pytest.mark.parametrize(("name", "hparams"), [("adamw", ADAMW), ("language", LANGUAGE), ("vision", VISION)])
def test_ready_space(name, hparams):
    """A ready space has the names that the trainables know, and its draws span it."""
    space = load(name)
    assert tuple(space) == hparams
    u = np.array([space.encode(space.sample(np.random.default_rng(seed))) for seed in range(100)])
    assert (u.min(axis=0) < 0.15).all()  # whole numbers from 0 to 3 stand in the middle of their quarters
    assert (u.max(axis=0) > 0.85).all()


@pytest.mark.parametrize(
    ("name", "typical"),
    [
        ("adamw", {"lr": 1e-3, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999}),
        (
            "language",
            {
                "lr": 1e-3,
                "weight_decay": 0.1,
                "beta1": 0.9,
                "beta2": 0.95,
                "dropout": 0.0,
                "warmup_steps": 100,
                "decay_steps": 1000,
                "final_lr_ratio": 0.1,
            },
        ),
        (
            "vision",
            {
                "lr": 1e-3,
                "weight_decay": 0.05,
                "beta1": 0.9,
                "beta2": 0.999,
                "label_smoothing": 0.1,
                "dropout": 0.0,
                "shift": 1,
                "cutout": 0,
                "warmup_steps": 100,
                "decay_steps": 1000,
                "final_lr_ratio": 0.1,
            },
        ),
    ],
)
def test_ready_space_holds_the_common_defaults(name, typical):
    """What practitioners start from is within the ranges."""
    load(name).check(typical)


def test_betas_vary_in_memory():
    """Perturbing a beta multiplies its memory 1 / (1 - beta)."""
    space = load("adamw")
    point = {"lr": 1e-3, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99}
    moved = space.perturb(point, np.random.default_rng(0), factors=(0.5,), resample_probability=0)
    assert (1 / (1 - moved["beta1"]), 1 / (1 - moved["beta2"])) == pytest.approx((20, 200))


def test_load_your_own(monkeypatch):
    """`module.path:ATTRIBUTE` names a space anywhere."""
    mine = Space({"layers": Int(1, 4), "optimizer": Choice(["a", "b"])})
    module = types.ModuleType("my_spaces")
    module.TINY = mine
    monkeypatch.setitem(sys.modules, "my_spaces", module)
    assert load("my_spaces:TINY") is mine
    with pytest.raises(SpaceError, match=r"module 'my_spaces' has no 'TNY': did you mean 'TINY'\?"):
        load("my_spaces:TNY")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "langage",
            r"space 'langage' is not a ready one: did you mean 'language'\? \(your own is 'module.path:SPACE'\)",
        ),
        ("control", r"space 'control' is not a ready one: choose one of adamw, language, vision"),
        ("no_such.module:SPACE", r"module 'no_such.module' is not found"),
        ("searchspaces.no_such:SPACE", r"module 'searchspaces.no_such' is not found"),
        (":SPACE", r"module '' has no absolute name"),
        (".adamw:SPACE", r"module '.adamw' has no absolute name"),
        ("math:pi", r"math:pi is float, not a Space"),
    ],
)
def test_load_refuses(name, message):
    """A name that leads nowhere is refused with the nearest one."""
    with pytest.raises(SpaceError, match=message):
        load(name)


def test_load_shows_what_a_module_lacks(tmp_path, monkeypatch):
    """A module that is there but cannot import its own dependency says so itself."""
    (tmp_path / "lacking_spaces.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load("lacking_spaces:SPACE")

"""The coordinate check as a command: the numbers, the verdict, the picture, and what is refused before it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pbt.cli import main
from pbt.report.coordinates import Check, Setup
from trainables import Language, Place
from trainables.core.coordinates import Coordinates, coordinates

SMALL = {"context": 16, "batch": 4, "eval_bytes": 64, "base_width": 16}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A little text, far from random."""
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"the {number} of {number * 7 % 13} and" for number in range(400)))
    return path


def pbt(*arguments: str) -> Any:
    """Call the command."""
    return CliRunner().invoke(main, ["coordinates", *arguments])


def options(text: Path, **more: Any) -> list[str]:
    """As arguments of the command line."""
    return [f"--option={name}={value}" for name, value in {**SMALL, "data": text, **more}.items()]


def found(growth: dict[str, float], tolerance: float = 0.2, varied: str = "width", **options: Any) -> Check:
    """A check at sizes 64, 128 and 256 that found this growth with each doubling."""
    setup = Setup(
        trainable="language",
        options=options,
        varied=varied,
        sizes=(64, 128, 256),
        hparams={},
        steps=1,
        seeds=1,
        tolerance=tolerance,
        place=Place(),
    )
    changes = {name: 0.1 * factor ** np.arange(3) for name, factor in growth.items()}
    layers = {
        size: {n: Coordinates(size=np.ones(2), change=np.array([0.0, c[i]])) for n, c in changes.items()}
        for i, size in enumerate(setup.sizes)
    }
    return Check(setup=setup, found=layers, changes=changes, growth=growth)


def test_json_has_what_the_check_measures(text):
    """The same numbers as in Python, and the slope of their logarithms as numpy fits it."""
    done = pbt(*options(text), "--parametrization=mup", "--widths=8,16,32", "--hparam=lr=0.02", "--steps=2", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    made = {w: Language(**SMALL, width=w, data=text, parametrization="mup") for w in (8, 16, 32)}
    wanted = coordinates(made, {"lr": 0.02}, steps=2, seeds=(0, 1), place=Place(compile="never"))
    assert facts["sizes"] == [8, 16, 32]
    assert (facts["varied"], facts["steps"], facts["seeds"], facts["hparams"]) == ("width", 2, 2, {"lr": 0.02})
    assert facts["options"]["parametrization"] == "mup"
    assert list(facts["activations"]) == list(wanted[8])
    for name, own in facts["activations"].items():
        changes = [wanted[width][name].change[-1] for width in (8, 16, 32)]
        assert own["change"] == pytest.approx(changes, rel=1e-12)
        assert own["growth"] == pytest.approx(2 ** np.polyfit([3, 4, 5], np.log2(changes), 1)[0], rel=1e-9)
        assert facts["by_size"]["16"][name]["size"] == pytest.approx(wanted[16][name].size.tolist(), rel=1e-12)
    assert facts["holds"] == all(1 / 1.2 <= own["growth"] <= 1.2 for own in facts["activations"].values())


def test_the_table_tells_standard_from_mup(text):
    """`standard` moves more when wider, `mup` does not; the verdict says so, and what to try."""
    widths = ["--widths=16,32,64", "--hparam=lr=0.01"]
    standard, mup = (pbt(*options(text), *widths, *more) for more in ([], ["--parametrization=mup", "--tolerance=0.3"]))
    assert (standard.exit_code, mup.exit_code) == (0, 0)
    assert "How far activations move in 4 steps, by width" in standard.stdout
    assert "blocks.1.mlp" in standard.stdout
    assert "Does not hold: with each doubling of the width," in standard.stdout
    assert "--parametrization mup` is made for that" in standard.stdout
    assert "Holds: every activation moves about as far whatever the width, within 30%" in mup.stdout
    assert "is made for that" not in mup.stdout


def test_depths_compare_the_last_blocks(text, tmp_path):
    """Depths instead of widths; the picture is a PNG."""
    plot = tmp_path / "drift.png"
    arguments = ["--depths=1,2", "--steps=1", "--seeds=1", "--json", f"--plot={plot}"]
    done = pbt(*options(text, width=8, base_width=8), *arguments)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    last = [f"blocks.last{part}" for part in (".attention", ".mlp", "")]
    assert list(facts["activations"]) == ["embedding", *last, "head"]
    for name in last:
        of_two = facts["by_size"]["2"][name.replace("last", "1")]["change"][-1]
        of_one = facts["by_size"]["1"][name.replace("last", "0")]["change"][-1]
        assert facts["activations"][name]["change"] == [of_one, of_two]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("growth", "says"),
    [
        ({"a": 1.19, "b": 1 / 1.19}, "Holds: every activation moves about as far whatever the width, within 20% for"),
        ({"a": 1.1, "b": 2.5, "c": 1.3}, "b moves 2.5 times as far (2 of 3 activations beyond 20%)."),
        ({"a": 0.5, "b": 1.5}, "a moves 0.5 times as far (2 of 2 activations beyond 20%)."),
        ({"a": 1.21}, "a moves 1.21 times as far (1 of 1 activation beyond 20%)."),
        ({"a": 3.0, "b": float("nan")}, "Cannot tell: b does not move at all, or without bound."),
    ],
)
def test_the_verdict(growth, says):
    """The worst is named: that which grows or shrinks by the largest factor, or is no number."""
    check = found(growth)
    assert says in check.verdict
    assert check.holds == check.verdict.startswith("Holds")


@pytest.mark.parametrize(
    ("varied", "parametrization", "better"),
    [
        ("width", "standard", "mup"),
        ("width", "mup", None),
        ("width", "completep", None),
        ("depth", "standard", "completep"),
        ("depth", "mup", "completep"),
        ("depth", "completep", None),
    ],
)
def test_what_to_try(varied, parametrization, better):
    """A parametrization that is not made for what varies has a better one."""
    check = found({"a": 2.0}, varied=varied, parametrization=parametrization)
    assert check.setup.better == better


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["langage"], "'langage' is unknown; did you mean 'language'?"),
        (["quadratic"], "'quadratic' has no option 'width'"),
        (["--option=wdth=3"], "has no option 'wdth'; did you mean 'width'?"),
        (["--parametrization=mupp"], "parametrization is 'mupp'; did you mean 'mup'?"),
        (["--widths=8"], "--widths is 8. Give at least two, each once."),
        (["--depths=2,4,2"], "--depths is 2,4,2. Give at least two, each once."),
        (["--widths=8,10"], "width is 10; give a multiple of 4"),
        (["--widths=8,16", "--depths=1,2"], "--widths and --depths are both given."),
        (["--widths=8,16", "--hparam=lrr=1"], "hparam 'lrr' is unknown; did you mean 'lr'?"),
        (["--plot=nowhere/drift.png"], "there is no folder 'nowhere'. Make it first."),
        (["--plot=drift.jp"], "--plot is 'drift.jp'. Give a file that ends in .png, .svg or .pdf."),
        (["--device=cudaa"], "'cudaa' cannot be used here"),
        (["--widths=8,x"], "'8,x' is not a list of whole numbers such as 64,128,256."),
        (["--widths=0,8"], "'0,8' is not a list of whole numbers"),
        (["--option=width"], "'width' is not NAME=VALUE."),
        (["--hparam=lr=["], "is not valid YAML"),
        (["--steps=0"], "0 is not in the range x>=1"),
    ],
)
def test_what_is_wrong_is_refused(arguments, says, tmp_path, monkeypatch):
    """In words that name it, with exit code 2."""
    monkeypatch.chdir(tmp_path)
    done = pbt(*arguments)
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_model_without_activations_is_refused(tmp_path, monkeypatch):
    """A trainable of the user's own, found beside where the command is called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_hills.py").write_text(
        "from dataclasses import dataclass\n"
        "from trainables.quadratic import Quadratic\n"
        "@dataclass(frozen=True)\n"
        "class Hill(Quadratic):\n"
        "    width: int = 1\n"
    )
    done = pbt("my_hills:Hill", "--widths=1,2")
    assert done.exit_code == 2
    assert "Hill has no activations to watch" in done.stderr

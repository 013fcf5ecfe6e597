"""A training script of one's own becomes a population with the few lines that the documentation says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pbt
from pbt import Sweep
from pbt.record.result import Result
from trainables import adapt

OWN = Path(__file__).parents[2] / "examples" / "own"
PAGE = Path(__file__).parents[2] / "docs" / "own-code.md"
FEW = {"budget.members": 4, "budget.generations": 3, "budget.steps": 1, "trainable.options.arguments": ["--epochs", 3]}


def the_diff() -> str:
    (found,) = re.findall(r"```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain script with the documented lines in it, beside its sweep file."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("digits.py", "digits.yaml"):
        (folder / name).write_bytes((OWN / name).read_bytes())
    subprocess.run(["git", "apply", "-p1", "-"], cwd=folder, input=the_diff().encode(), check=True)
    return folder


@pytest.fixture
def importable(script: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(script)
    monkeypatch.delitem(sys.modules, "digits", raising=False)
    monkeypatch.chdir(script)  # it writes a checkpoint of its own
    return script


def run(script: Path, tmp_path: Path, **overrides: Any) -> Result:
    usual = {**FEW, "hosts.kind": "local", "storage": str(tmp_path), "tracking.enabled": False}
    return Sweep.from_file(script / "digits.yaml", {**usual, **overrides}).run(progress=False)


def test_few_lines_have_to_change() -> None:
    """Ten at most, of a script that knows nothing of pbt."""
    plain = (OWN / "digits.py").read_text()
    assert "pbt" not in plain
    assert "adapt" not in plain
    assert 60 <= len(plain.splitlines()) <= 120
    changed = [line for line in the_diff().splitlines() if re.match(r"[+-](?![+-])", line)]
    assert len(changed) <= 10


def test_the_page_shows_the_sweep_file() -> None:
    """As it is, but for the comments it begins with."""
    shown = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert (OWN / "digits.yaml").read_text().endswith(shown)


@pytest.mark.full
def test_the_script_still_runs_by_itself(script: Path) -> None:
    """And does what it did before: the same digits."""
    command = [sys.executable, "digits.py", "--epochs", "1", "--checkpoint", "alone.pt"]
    plain, adapted = (
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        for folder in (plain_copy(script), script)
    )
    assert plain.startswith("epoch   1  val loss")
    assert plain == adapted


def plain_copy(script: Path) -> Path:
    folder = script / "plain"
    folder.mkdir(exist_ok=True)
    (folder / "digits.py").write_bytes((OWN / "digits.py").read_bytes())
    return folder


@pytest.mark.parametrize("strategy", ["pbt", "halving"])
def test_it_trains_as_a_population(importable: Path, tmp_path: Path, strategy: str) -> None:
    """Under population-based training and under successive halving; the winner's weights have the winner's score."""
    result = run(importable, tmp_path, **{"strategy.name": strategy, "objective.metric": "accuracy"})
    assert result.finished
    assert [] == result.rows["incidents"]
    (digits,) = (module for name, module in sys.modules.items() if name == "digits")
    net = digits.Net(dropout=0.0)
    weights = load_file(pbt.export(result, tmp_path / "winner") / "weights.safetensors")
    net.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    _, validation = digits.make_loaders(64)
    _, accuracy = digits.evaluate(net, validation, torch.device("cpu"))
    assert accuracy == pytest.approx(result.best.score, abs=1e-9)
    assert accuracy > 0.9


def test_in_python_it_is_the_same_sweep(importable: Path, tmp_path: Path) -> None:
    """As in the page's example."""
    trainable = adapt.from_function(
        "digits:main",
        hparams={"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "dropout": 0.1},
        metrics={"loss": "min", "accuracy": "max"},
        arguments=["--epochs", "3"],
    )
    file = Sweep.from_file(importable / "digits.yaml", {**FEW, "trainable.options.arguments": ["--epochs", "3"]})
    assert file.resolved.trainable == trainable
    sweep = Sweep.from_spec(file.spec, trainable)
    assert sweep.spec == file.spec


def test_it_goes_on_where_it_stood(importable: Path, tmp_path: Path) -> None:
    """Extended to three generations, it is what it had been with three from the beginning."""
    whole = run(importable, tmp_path / "whole", **{"strategy.name": "pbt"})
    short = run(importable, tmp_path / "short", **{"strategy.name": "pbt", "budget.generations": 2})
    longer = pbt.extend(short.run.path, generations=3, progress=False)
    assert longer.digest() == whole.digest()


def test_what_the_script_does_not_read_is_not_in_effect(importable: Path, tmp_path: Path) -> None:
    """Told once while it runs, and of every segment in its story; the sweep goes on."""
    text = (importable / "digits.py").read_text()
    (importable / "deaf.py").write_text(text.replace("weight_decay=args.weight_decay", "weight_decay=5e-4"))
    result = run(importable, tmp_path, **{"trainable.options.train": "deaf:main", "strategy.name": "pbt"})
    assert result.finished
    (incident,) = result.rows["incidents"]
    assert incident["kind"] == "not_in_effect"
    assert incident["message"].startswith("weight_decay is not in effect: the training function did not ask for it")
    outcomes = result.rows["outcomes"]
    assert all('"lr"' in row["hparams_in_effect"] for row in outcomes)
    assert not any("weight_decay" in row["hparams_in_effect"] for row in outcomes)


# --- a module of one's own


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `network.yaml`, where Python finds the module."""
    monkeypatch.syspath_prepend(OWN)
    monkeypatch.delitem(sys.modules, "network", raising=False)
    return OWN


def train_network(tmp_path: Path, **overrides: Any) -> Result:
    usual = {"budget.generations": 3, "hosts.kind": "local", "storage": str(tmp_path), "tracking.enabled": False}
    return Sweep.from_file(OWN / "network.yaml", {**usual, **overrides}).run(progress=False)


@pytest.mark.parametrize("strategy", ["pbt", "halving"])
def test_a_module_trains_as_a_population(network: Path, tmp_path: Path, strategy: str) -> None:
    """The winner's weights are the module's own, and have the winner's score."""
    result = train_network(tmp_path, **{"strategy.name": strategy, "objective.metric": "accuracy"})
    assert result.finished
    assert [] == result.rows["incidents"]
    module = sys.modules["network"]
    net = module.Network().eval()
    net.load_state_dict(load_file(pbt.export(result, tmp_path / "winner") / "weights.safetensors"))
    pixels, digits = module.data()["validation"]
    with torch.no_grad():
        accuracy = adapt.accuracy(net(pixels), digits)
    assert float(accuracy) == pytest.approx(result.best.score, abs=1e-9)
    assert accuracy > 0.9


def test_a_module_in_python_is_the_same_sweep(network: Path) -> None:
    """As in the page's example."""
    import network as own  # type: ignore[import-not-found]

    trainable = adapt.from_module(
        own.Network,
        own.loss,
        own.data,
        metrics={"accuracy": (adapt.accuracy, "max")},
        arguments={"channels": 16},
        batch=64,
    )
    file = Sweep.from_file(OWN / "network.yaml")
    assert file.resolved.trainable == trainable


def test_the_page_shows_the_network() -> None:
    """The sweep file's trainable, and the module, as they are."""
    shown = PAGE.read_text()
    text = (OWN / "network.yaml").read_text()
    trainable = text[text.index("trainable:") : text.index("\n# What may vary")]
    assert f"```yaml\n{trainable}```" in shown
    (code,) = re.findall(r"```python\nclass Network.*?```", shown, re.DOTALL)
    assert code.removeprefix("```python\n").removesuffix("```") in (OWN / "network.py").read_text()


# --- other people's loops


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # both have much to say about small fits
@pytest.mark.parametrize("name", ["lit", "hf"])
def test_a_fit_by_a_trainer_trains_as_a_population(
    name: str, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples of Lightning and of Hugging Face, as they are, for a few epochs."""
    monkeypatch.chdir(tmp_path)
    few = {"budget.members": 4, "budget.generations": 3, "budget.steps": 1, "strategy.name": "pbt"}
    usual = {"hosts.kind": "local", "storage": str(tmp_path / "runs"), "tracking.enabled": False}
    result = Sweep.from_file(OWN / f"{name}.yaml", {**few, **usual}).run(progress=False)
    assert result.finished
    assert [] == result.rows["incidents"]
    scores = [row["score"] for row in result.rows["outcomes"]]
    assert min(scores[-4:]) < min(scores[:4])

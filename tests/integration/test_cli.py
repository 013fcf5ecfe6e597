"""The command line: bad input is one line with the mend and exit code 2, before anything starts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pbt.cli import main

GOOD: dict[str, Any] = {
    "name": "toy",
    "trainable": {"name": "quadratic", "options": {}},
    "space": {"h0": {"type": "float", "low": 0.0, "high": 1.0}, "h1": {"type": "float", "low": 0.0, "high": 1.0}},
    "objective": {"metric": "Q"},
    "budget": {"members": 4, "generations": 3, "steps": 5},
    "hosts": {"kind": "local", "stacks": 2},
    "tracking": {"enabled": False},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pbt(*arguments: str) -> Any:
    """Call the command line."""
    return CliRunner().invoke(main, arguments)


def with_change(folder: Path, key: str, value: Any) -> str:
    """A sweep file with one value changed."""
    data = json.loads(json.dumps(GOOD))
    inner = data
    *path, last = key.split(".")
    for name in path:
        inner = inner[name]
    inner[last] = value
    (folder / "sweep.yaml").write_text(yaml.safe_dump(data))
    return "sweep.yaml"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("budgt", {}, ["budgt", "'budget'"]),
        ("budget.membrs", 3, ["budget.membrs", "'members'"]),
        ("space.h0.low", 2.0, ["space.h0", "low", "2"]),
        ("space.h0.type", "flaot", ["h0", "'float'"]),
        ("space.h7", {"type": "float", "low": 0.0, "high": 1.0}, ["space.h7", "h0, h1, lr"]),
        ("space.lr", {"type": "float", "low": -1.0, "high": 0.1}, ["space.lr", "-1", "0 or above"]),
        ("space.h0", {"type": "choice", "options": ["a", "b"]}, ["space.h0", "'a'", "number"]),
        ("space.h0", {"type": "choice", "options": [True, False]}, ["space.h0", "True", "number"]),
        ("space.h0", {"type": "simplex", "parts": ["a", "b"]}, ["space.h0", "kind"]),
        ("hosts", {"kind": "ray", "device": "cuda:1"}, ["hosts.device", "cuda:1", "cuda"]),
        ("hosts", {"kind": "ray", "address": "ray://somewhere:10001"}, ["hosts.address", "auto"]),
        ("strategy", {"name": "json:JSONDecoder"}, ["strategy.name", "json:JSONDecoder"]),
        ("strategy", {"name": ":X"}, ["strategy.name", ":X"]),
        ("objective.metric", "q", ["objective.metric", "'q'", "'Q'"]),
        ("objective.split", "test", ["objective.split", "test"]),
        ("trainable.name", "quadratc", ["quadratc", "quadratic"]),
        ("trainable.options.wdth", 3, ["wdth"]),
        ("strategy", {"name": "pbtt"}, ["strategy.name", "'pbt'"]),
        ("strategy", {"name": "pbt", "options": {"quantle": 0.3}}, ["strategy.options.quantle", "'quantile'"]),
        ("strategy", {"name": "pbt", "options": {"quantile": 3}}, ["quantile", "3"]),
        (
            "strategy",
            {"name": "pbt", "options": {"initial": [{"h0": 0.5, "h1": 7.0}]}},
            ["strategy.options.initial[0]", "h1", "7"],
        ),
        (
            "strategy",
            {"name": "pbt", "options": {"initial": [{"h0": 0.5, "h1": 0.5}] * 5}},
            ["strategy.options.initial", "5", "4 members"],
        ),
        ("budget.members", 0, ["budget.members", "0"]),
        ("budget.members", "many", ["budget.members", "'many'"]),
        ("hosts.stacks", 9, ["hosts.stacks", "9", "4"]),
        ("hosts.device", "tpu9", ["hosts.device", "tpu9"]),
        ("tracking", {"uri": "file:///tmp/mlruns"}, ["tracking.uri", "sqlite:///"]),
        ("tracking", {"uri": "postgresql://me:secret@host/db"}, ["tracking.uri", "MLFLOW_TRACKING_URI"]),
        ("storage", "/proc/nowhere", ["storage", "/proc/nowhere"]),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(folder: Path, key: str, value: Any, says: list[str]) -> None:
    """Exit code 2, one line that names field, value and mend, no traceback, and no run folder."""
    outcome = pbt("run", with_change(folder, key, value))
    assert outcome.exit_code == 2, outcome.output
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    for word in says:
        assert word in outcome.stderr
    assert "Traceback" not in outcome.output
    assert not list(folder.glob("pbt-runs/*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "nowhere.yaml"),
        ("run", "."),
        ("show", "nothing"),
        ("show", "latest"),
        ("sync", "nothing"),
        ("watch", "nothing"),
        ("report", "nothing"),
        ("show", "latest", "--storage", "nowhere"),
    ],
)
def test_a_missing_file_or_run_is_one_line(folder: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 2 and the mend."""
    outcome = pbt(*arguments)
    assert outcome.exit_code == 2
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr


@pytest.mark.parametrize("content", ["", "- 1\n- 2\n", "a: [\n", "\x00\x01", "budget: 3\nbudget: 4\n"])
def test_a_file_that_is_no_sweep_is_one_line(folder: Path, content: str) -> None:
    """Empty files, lists, broken YAML, binaries and repeated keys."""
    (folder / "sweep.yaml").write_text(content)
    outcome = pbt("run", "sweep.yaml")
    assert outcome.exit_code == 2
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr


@pytest.mark.parametrize("data", ["nowhere.txt", "empty.txt", "short.txt", "empty"])
def test_a_bad_corpus_is_one_line(folder: Path, data: str) -> None:
    """Missing, empty and too small text, and an empty folder."""
    (folder / "empty.txt").touch()
    (folder / "short.txt").write_text("ab")
    (folder / "empty").mkdir()
    sweep = with_change(folder, "trainable", {"name": "language", "options": {}})
    outcome = pbt("run", sweep, "--data", data)
    assert outcome.exit_code == 2, outcome.output
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    assert data in outcome.stderr


def test_debug_shows_the_traceback(folder: Path) -> None:
    """The error itself, for whoever mends the program."""
    outcome = CliRunner().invoke(main, ["run", "nowhere.yaml", "--debug"])
    assert type(outcome.exception).__name__ == "SpecError"


def test_run_show_list(folder: Path) -> None:
    """A sweep is run, then shown and listed, as text and as JSON."""
    outcome = pbt("run", with_change(folder, "name", "toy"))
    assert outcome.exit_code == 0, outcome.output
    (run,) = (folder / "pbt-runs").glob("toy-*")
    assert {"lineage.png", "curves.png"} <= {path.name for path in (run / "plots").iterdir()}

    shown = pbt("show", "latest")
    assert shown.exit_code == 0
    assert run.name in shown.output

    facts = json.loads(pbt("show", run.name, "--json").output)
    assert facts["summary"]["run"] == run.name
    assert facts["summary"]["best_score"] > 0

    listed = pbt("list")
    assert run.name in listed.output
    assert [run.name] == [entry["run"] for entry in json.loads(pbt("list", "--json").output)]


def test_a_misspelt_key_is_named_rather_than_the_right_one_missed(folder: Path) -> None:
    """`membrs` instead of `members`: two errors to a parser, one to a person."""
    outcome = pbt("run", with_change(folder, "budget", {"membrs": 4, "generations": 3, "steps": 5}))
    assert 2 == outcome.exit_code
    assert "budget.membrs: is not a known key. Did you mean 'members'?" in outcome.stderr


def test_where_nobody_survives_the_exit_code_says_so(folder: Path) -> None:
    """Everything diverges: the record is kept, and the mend is named."""
    outcome = pbt("run", with_change(folder, "space", {"lr": {"type": "float", "low": 1e29, "high": 1e30}}))
    assert 1 == outcome.exit_code
    assert "no member survived" in outcome.stderr
    assert "learning rate" in outcome.stderr
    assert "finished" in pbt("list").output


TRAINABLE = """
from trainables import Quadratic

class Mine(Quadratic):
    def build(self, bucket, capacity, place):
        {what}
"""


@pytest.mark.parametrize(
    ("what", "code"), [("return super().build(bucket, capacity, place)", 0), ("raise ValueError('no such layer')", 1)]
)
def test_a_trainable_beside_the_sweep_file(folder: Path, what: str, code: int) -> None:
    """It is found without further ado; when it breaks, the run says why."""
    module = f"mine_{code}"
    (folder / f"{module}.py").write_text(TRAINABLE.format(what=what))
    outcome = pbt("run", with_change(folder, "trainable", {"name": f"{module}:Mine", "options": {}}))
    assert code == outcome.exit_code, outcome.output
    (entry,) = json.loads(pbt("list", "--json").output)
    assert {0: "finished", 1: "failed"}[code] == entry["status"]
    if code:
        assert "no such layer" in outcome.stderr
        assert "no such layer" in pbt("show", "latest").output


def test_list_of_nothing(folder: Path) -> None:
    """An empty storage folder is no error."""
    outcome = pbt("list")
    assert outcome.exit_code == 0
    assert "no run" in outcome.output.lower()
    assert json.loads(pbt("list", "--json").output) == []


# --- taken up again


def test_extend_goes_on_beyond_the_end(folder: Path) -> None:
    """The winner's summary says how often the sweep was taken up; a space may come from a file."""
    assert pbt("run", with_change(folder, "seed", 1)).exit_code == 0
    wider = {"h0": {"type": "float", "low": 0.0, "high": 2.0}, "h1": {"type": "float", "low": 0.0, "high": 1.0}}
    (folder / "wider.yaml").write_text(yaml.safe_dump(wider))
    done = pbt("extend", "latest", "--generations", "5", "--members", "6", "--space", "wider.yaml")
    assert (done.exit_code, done.exception) == (0, None)
    assert "6 members x 5 generations x 5 steps" in done.output
    assert "taken up   extended 1 time" in done.output
    assert "incidents" not in done.output  # everybody's state was loaded
    facts = json.loads(pbt("show", "latest", "--json").output)
    assert [session["reason"] for session in facts["summary"]["sessions"]] == ["start", "extend"]
    assert facts["summary"]["sessions"][0]["software"]["torch"]
    assert [incident["kind"] for incident in facts["summary"]["incidents"]] == ["recovered"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resume", "latest"), ["has finished", "pbt extend", "--generations"]),
        (("stop", "latest"), ["has finished"]),
        pytest.param(("extend", "latest"), ["extend: changes nothing", "generations"], marks=pytest.mark.full),
        pytest.param(
            ("extend", "latest", "--generations", "2"), ["budget.generations", "2", "3"], marks=pytest.mark.full
        ),
        (("extend", "latest", "--space", "quadratc"), ["space", "quadratc"]),
        pytest.param(("extend", "latest", "--tokens", "0"), ["budget.tokens", "0"], marks=pytest.mark.full),
        pytest.param(("extend", "latest", "--gpu-hours", "1"), ["budget.gpu_hours", "cpu"], marks=pytest.mark.full),
        (("resume", "nothing"), ["nothing"]),
        (("resume", "latest", "--local", "--ranks", "2"), ["--local", "--ranks"]),
        (("resume", "latest", "--local", "--address", "auto"), ["--local", "--address"]),
    ],
    ids=" ".join,
)
def test_what_cannot_be_taken_up_is_refused_in_one_line(
    folder: Path, arguments: tuple[str, ...], says: list[str]
) -> None:
    """With the mend, and the run stays as it was."""
    assert pbt("run", with_change(folder, "seed", 0)).exit_code == 0
    before = pbt("show", "latest", "--json").output
    refused = pbt(*arguments)
    assert refused.exit_code == 2
    (line,) = refused.output.strip().splitlines()
    for words in says:
        assert words in line
    assert before == pbt("show", "latest", "--json").output


def test_an_address_for_a_sweep_that_runs_here_is_refused(folder: Path) -> None:
    """Nobody is to believe that it trains on the cluster; `--local` sets the file's address aside."""
    refused = pbt("run", with_change(folder, "seed", 1), "--address", "10.0.0.1:6379")
    assert refused.exit_code == 2
    assert "hosts.address: is '10.0.0.1:6379', but hosts.kind is local" in refused.stderr
    hosts = {"kind": "ray", "address": "10.0.0.1:6379", "stacks": 1}
    assert pbt("run", with_change(folder, "hosts", hosts), "--local").exit_code == 0


def test_a_space_file_that_is_not_there_is_named(folder: Path) -> None:
    """And not taken for the name of a ready space."""
    assert pbt("run", with_change(folder, "seed", 1)).exit_code == 0
    refused = pbt("extend", "latest", "--space", "nofile.yaml")
    assert refused.exit_code == 2
    assert "nofile.yaml: cannot be read (No such file or directory). Check the path" in refused.stderr


def test_an_end_before_the_last_generation_is_told(folder: Path) -> None:
    """By the summary, in words and as a fact, and by what resuming such a run says."""
    one = GOOD["budget"]["members"] * GOOD["budget"]["steps"]
    done = pbt("run", with_change(folder, "budget", {**GOOD["budget"], "tokens": one}))
    assert done.exit_code == 0, done.output
    assert re.search(r"ended early +the tokens are used up: ", done.output)
    assert json.loads(pbt("show", "latest", "--json").output)["summary"]["ended_early"].startswith(
        "the tokens are used"
    )
    again = pbt("resume", "latest")
    assert again.exit_code == 2
    assert "--tokens N` goes on with more" in again.stderr


def test_a_run_whose_description_is_damaged_is_not_a_run_that_is_not_there(folder: Path) -> None:
    """The list names the damage, and does not say that there are no runs."""
    assert pbt("run", with_change(folder, "seed", 1)).exit_code == 0
    (file,) = folder.glob("*/*/run.json")
    file.write_text("{")
    listed = pbt("list")
    assert "There are no runs" not in listed.output
    assert "run.json is damaged" in listed.stderr
    file.unlink()
    shown = pbt("show", str(file.parent))
    assert f"RUN: {file} is missing. Restore it from a backup." in shown.stderr


@pytest.mark.full
def test_a_database_that_cannot_be_written_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with the mend."""
    assert pbt("run", with_change(folder, "tracking", {"enabled": True})).exit_code == 0
    known = os.access
    monkeypatch.setattr("os.access", lambda path, mode, **more: mode != os.W_OK and known(path, mode, **more))
    behind = pbt("sync", "latest")
    assert behind.exit_code == 1
    wanted = r"pbt: MLflow is still behind \(.*cannot write \S+mlflow.db. Make it .* try again\.\n"
    assert re.fullmatch(wanted, behind.stderr)


def test_a_job_whose_storage_would_be_lost_is_refused(folder: Path) -> None:
    """Before anything travels: no cluster is asked."""
    sweep = with_change(folder, "name", "toy")
    outcome = pbt("submit", sweep, "--storage", "pbt-runs", "--address", "http://127.0.0.1:1")
    assert outcome.exit_code == 2
    assert "storage: pbt-runs would lie in the job's own folder" in outcome.stderr


@pytest.mark.parametrize("verb", ["submit", "watch", "stop"])
def test_a_cluster_that_does_not_answer_is_told_with_its_mend(
    folder: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """For every verb that asks one."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    sweep = with_change(folder, "name", "toy")
    more = (sweep, "--storage", str(folder)) if verb == "submit" else ("job",)
    outcome = pbt(verb, *more, "--address", "http://127.0.0.1:1")
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stderr.startswith("pbt: --address: no cluster takes jobs at 'http://127.0.0.1:1'")
    assert "Start one with `ray start --head`" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_spaces_are_shown_by_name_and_by_file(folder: Path) -> None:
    """A ready one, that of a sweep file, and one of the person's own."""
    (folder / "mine_space.py").write_text(
        "from searchspaces import Float, Space\nSPACE = Space({'x': Float(0.0, 1.0)})\n"
    )
    for named, word in (
        ("adamw", "weight_decay"),
        (with_change(folder, "name", "toy"), "h1"),
        ("mine_space:SPACE", "x"),
    ):
        outcome = pbt("space", "show", named, "--json")
        assert outcome.exit_code == 0, outcome.output
        assert word in json.loads(outcome.stdout)["space"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "adamx"), "space 'adamx' is not a ready one: did you mean 'adamw'"),
        (("show", "nothing.yaml"), "nothing.yaml: cannot be read"),
        (("import", "nothing.yaml"), "nothing.yaml: cannot be read"),
        (("import", "list.yaml"), "list.yaml: holds no space. Give a W&B sweep"),
        (("import", "normal.yaml"), "lr has the distribution 'normal', which has no counterpart"),
    ],
)
def test_a_space_that_is_none_is_told_with_its_mend(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    """One line, exit code 2."""
    (folder / "list.yaml").write_text("[1, 2]")
    (folder / "normal.yaml").write_text("parameters: {lr: {distribution: normal, mu: 0, sigma: 1}}")
    outcome = pbt("space", *arguments)
    assert (outcome.exit_code, len(outcome.stderr.splitlines())) == (2, 1), outcome.output
    assert says.lower() in outcome.stderr.lower()


def test_an_imported_space_is_one(folder: Path) -> None:
    """What is printed goes into a sweep file as it stands; what does not vary is told as a comment."""
    wandb = {"parameters": {"h0": {"min": 0.0, "max": 1.0}, "epochs": {"value": 3}}}
    (folder / "wandb.yaml").write_text(yaml.safe_dump(wandb))
    outcome = pbt("space", "import", "wandb.yaml")
    assert outcome.exit_code == 0, outcome.output
    assert yaml.safe_load(outcome.stdout) == {"space": {"h0": {"type": "float", "low": 0.0, "high": 1.0}}}
    assert "# epochs: 3" in outcome.stdout

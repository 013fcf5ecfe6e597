"""Run folders: made under names of their own, found by any part of them, and never mistaken."""

import json
import re
from pathlib import Path

import pytest

from pbt.errors import LedgerError, RunNotFound, StorageError
from pbt.record.runs import find_run, list_damaged, list_runs, make_run, open_run, prepare_storage

T0 = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


def made(storage, *names, at=T0):
    """Runs, one second after another."""
    return [make_run(storage, name, {}, clock=lambda: at + i) for i, name in enumerate(names)]  # noqa: B023


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# --- storage


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_storage_folder_is_made(tmp_path, depth):
    """With all its parents, and left empty."""
    storage = tmp_path.joinpath(*"abc"[:depth])
    assert prepare_storage(storage) == storage
    assert list(storage.iterdir()) == []


def test_what_is_in_the_storage_folder_stays(tmp_path):
    """Preparing it twice harms nothing."""
    (tmp_path / "precious").write_text("data")
    prepare_storage(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(("below", "reason"), [("", "File exists"), ("runs", "Not a directory")])
def test_a_storage_that_cannot_be_a_folder_is_one_line(tmp_path, below, reason):
    """Where a file stands in its place, or above it."""
    (tmp_path / "file").write_text("")
    storage = tmp_path / "file" / below if below else tmp_path / "file"
    with pytest.raises(StorageError) as raised:
        prepare_storage(storage)
    assert one_line(raised) == (
        f"storage: cannot write {storage} ({reason}). Name a folder you may write with --storage."
    )


def test_a_storage_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    """The folder is there, but takes no file."""

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StorageError, match=r"^storage: cannot write \S+ \(Permission denied\)\. Name a folder"):
        prepare_storage(tmp_path)


# --- making


def test_a_run_is_named_after_the_sweep_and_the_time(tmp_path):
    """In UTC, whatever the machine's time zone; `run.json` keeps what it was made with."""
    run = make_run(tmp_path, "small-lm", {"spec": {"seed": 3}}, clock=lambda: T0)
    assert run.id == run.path.name == "small-lm-20231114-221320"
    assert json.loads((run.path / "run.json").read_text()) == run.info
    assert run.info == {"run_id": run.id, "created": T0, "spec": {"seed": 3}}


def test_runs_of_one_second_have_names_of_their_own(tmp_path):
    """However many there are."""
    runs = [make_run(tmp_path, "a", {}, clock=lambda: T0) for _ in range(12)]
    stem = "a-20231114-221320"
    assert [run.id for run in runs] == [stem, *(f"{stem}-{number}" for number in range(2, 13))]
    assert [run.info["run_id"] for run in runs] == [run.id for run in runs]


@pytest.mark.parametrize(("name", "reason"), [("missing", "No such file or directory"), ("file", "Not a directory")])
def test_a_run_that_cannot_be_made_is_one_line(tmp_path, name, reason):
    """The storage folder is gone, or is none."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as raised:
        make_run(tmp_path / name, "a", {})
    assert one_line(raised).startswith(f"storage: cannot write {tmp_path / name} ({reason}).")


# --- finding


def test_a_run_is_opened_by_its_folder(tmp_path):
    """And is what was made."""
    (run,) = made(tmp_path, "a")
    assert open_run(run.path) == run


@pytest.mark.parametrize("path", [".", "missing", "file"])
def test_other_folders_are_no_runs(tmp_path, path):
    """Nor are files, nor what is not there."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunNotFound) as raised:
        open_run(tmp_path / path)
    assert re.fullmatch(rf"no run at {re.escape(str(tmp_path / path))} \(.+\)\. `pbt list` shows .*", one_line(raised))


@pytest.mark.parametrize("text", ["", "{", "\x00", "[]", "null", "3", "{}"])
def test_a_damaged_run_json_is_named(tmp_path, text):
    """Whatever is left of it."""
    (run,) = made(tmp_path, "a")
    file = run.path / "run.json"
    file.write_text(text)
    with pytest.raises(LedgerError) as raised:
        open_run(run.path)
    assert re.fullmatch(rf"{re.escape(str(file))} is damaged: .*\. Restore it from a backup\.", one_line(raised))


def test_runs_are_listed_newest_first(tmp_path):
    """By the time they were made, whatever their names; other folders and files are passed over."""
    runs = made(tmp_path, "b", "a", "c")
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlflow.db").write_text("")
    assert list_runs(tmp_path) == runs[::-1]


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_where_there_are_no_runs_the_list_is_empty(tmp_path, name):
    """Also where there is no folder."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert list_runs(tmp_path / name) == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("latest", 3),
        ("small-20231114-221320", 0),
        ("small-20231114-221320-2", 1),
        ("small-20231114-221322", 2),
        ("large", 3),
        ("large-2023", 3),
    ],
)
def test_a_run_is_found_by_any_beginning_of_its_name(tmp_path, reference, expected):
    """A whole name wins over longer ones that begin with it."""
    runs = [
        make_run(tmp_path, name, {}, clock=lambda at=at: T0 + at)
        for name, at in (("small", 0), ("small", 0), ("small", 2), ("large", 3))
    ]
    assert find_run(reference, tmp_path) == runs[expected]


def test_a_run_is_found_by_its_path(tmp_path):
    """Wherever it lies."""
    (run,) = made(tmp_path, "a")
    assert find_run(str(run.path), tmp_path / "elsewhere") == run


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "small",
            "RUN: 'small' fits 2 runs in {}: small-20231114-221321, small-20231114-221320. Write more of its name.",
        ),
        ("", "RUN: is empty. Write its name, the beginning of it, its folder, or latest."),
        ("smal-20231114-221320", "RUN: no run 'smal-20231114-221320' in {}. Did you mean 'small-20231114-221320'?"),
        ("zzz", "RUN: no run 'zzz' in {}. Known: small-20231114-221320, small-20231114-221321."),
    ],
)
def test_what_is_not_found_is_explained(tmp_path, reference, message):
    """With the number of runs that fit, the nearest name, or all names."""
    made(tmp_path, "small", "small")
    with pytest.raises(RunNotFound) as raised:
        find_run(reference, tmp_path)
    assert one_line(raised) == message.format(tmp_path)


@pytest.mark.parametrize("reference", ["latest", "a"])
def test_where_there_is_no_run_at_all(tmp_path, reference):
    """The message says how to get one."""
    with pytest.raises(RunNotFound) as raised:
        find_run(reference, tmp_path)
    assert one_line(raised) == (
        f"RUN: there is no run in {tmp_path}. Start one with `pbt demo`, or name its --storage."
    )


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    """They are listed and found, and what is wrong with it is said."""
    (good,) = made(tmp_path, "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    assert list_runs(tmp_path) == [good]
    assert find_run("latest", tmp_path) == good
    assert [str(tmp_path / "bad" / "run.json") in str(error) for error in list_damaged(tmp_path)] == [True]
    with pytest.raises(LedgerError, match="damaged"):
        find_run("bad", tmp_path)

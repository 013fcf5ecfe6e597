"""The lineage page: what travels in it is what the ledger says, and it needs nothing but itself."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pbt import dialect
from pbt.cli import main
from pbt.lineage import Lineage
from pbt.member import SegmentKey
from pbt.record.ledger import Ledger
from pbt.record.mirrored import without_secrets
from pbt.record.result import Result, load
from pbt.record.schema import canonical
from pbt.report import lineage_page as pages
from pbt.report.show import population_of
from tests import ledgers


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The scripted sweep."""
    return load(ledgers.tell(tmp_path_factory.mktemp("runs") / "made-up"))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A sweep of some size, with copies, a failure and scores that are no numbers."""
    return load(ledgers.simulate(tmp_path_factory.mktemp("runs") / "crowd", members=20, generations=12))


def _page(result: Result) -> tuple[str, dict[str, Any], dict[str, NDArray[Any]]]:
    """The text of a page, and what travels in it."""
    page = pages.lineage_page(result)
    (data,) = re.findall(r'<script type="text/plain" id="data">(.*?)</script>', page, re.S)
    return page, *pages.unpack(data)


def _keys(lineage: Lineage) -> list[SegmentKey]:
    return sorted(lineage.segments)


# ------------------------------------------------------------------------------------------------------- packing


@given(
    st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers() | st.none(), max_size=4),
    st.dictionaries(st.text(max_size=9), st.lists(st.floats(width=32), max_size=9), max_size=4),
    st.lists(st.integers(0, 255), max_size=9),
)
def test_what_is_packed_comes_out_again(head: dict[str, Any], floats: dict[str, list[float]], small: list[int]) -> None:
    """Names, kinds and bits of columns, whatever their lengths."""
    head.pop("columns", None)
    columns: dict[str, NDArray[Any]] = {name: np.array(values, np.float32) for name, values in floats.items()}
    columns |= {"small": np.array(small, np.uint8), "whole": np.array(small, np.int32)}
    back, held = pages.unpack(pages.pack(head, columns))
    assert head == back
    assert list(columns) == list(held)
    for name, values in columns.items():
        assert values.dtype == held[name].dtype
        assert values.tobytes() == held[name].tobytes()


# ---------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("which", ["told", "crowd"])
def test_its_segments_are_those_of_the_lineage(which: str, request: pytest.FixtureRequest) -> None:
    """In order of member and time, with parents as places among them."""
    result: Result = request.getfixturevalue(which)
    _, columns = pages.page_data(result)
    keys, lineage = _keys(result.lineage), result.lineage
    for at, key in enumerate(keys):
        segment = lineage.segments[key]
        own = {name: columns[f"segment/{name}"][at] for name in ("member", "generation", "age", "consumed")}
        assert own == {
            "member": key.member,
            "generation": segment.generation,
            "age": segment.age[0],
            "consumed": segment.consumed[0],
        }
        assert pages.STARTS[columns["segment/start"][at]] == segment.start
        assert pages.STATUSES[columns["segment/status"][at]] == segment.status
        ends = columns["segment/ageEnd"][at], columns["segment/consumedEnd"][at]
        assert ends == tuple(-1 if end is None else end for end in (segment.age[1], segment.consumed[1]))
        parent = columns["segment/parent"][at]
        assert (keys[parent] if parent >= 0 else None) == segment.parent
        score = segment.score
        wanted = "none" if score is None else "diverged" if math.isnan(score) else "number"
        assert pages.SCORES[columns["segment/scored"][at]] == wanted
        if wanted == "number":
            assert columns["segment/score"][at] == np.float32(score)
    assert len(keys) == len(columns["segment/member"])


def test_hyperparameters_are_numbers_options_their_places_and_a_simplex_its_parts(told: Result) -> None:
    """Each varied one is described; what is fixed is left out."""
    head, columns = pages.page_data(told)
    assert [
        {"name": "lr", "type": "float", "low": 1e-4, "high": 1e-1, "log": True, "options": []},
        {"name": "optimizer", "type": "choice", "options": ["sgd", "adamw"]},
        {"name": "nesterov", "type": "choice", "options": ["no", "yes"]},
        {"name": "mix/books", "type": "float", "low": 0.0, "high": 1.0, "options": []},
        {"name": "mix/web", "type": "float", "low": 0.0, "high": 1.0, "options": []},
    ] == head["hparams"]
    for at, key in enumerate(_keys(told.lineage)):
        values = told.lineage.segments[key].hparams
        wanted = [values["lr"], float(values["optimizer"] == "adamw"), float(values["nesterov"]), 0.25, 0.75]
        assert [np.float32(value) for value in wanted] == [columns[f"hparam/{place}"][at] for place in range(5)]
    assert not [name for name in columns if name.startswith("effect/")]


def _run_of_one(
    folder: Path, ordered: dict[str, Any], held: dict[str, Any] | None, statuses: Sequence[str] = ()
) -> Result:
    """A sweep of one member and one segment, and what became of its checkpoint."""
    ledgers.run_json(folder, members=1, generations=1, steps=ledgers.STEPS)
    pen = ledgers.Pen(Ledger(folder), ledgers.Clock())
    pen.begin(0, 0, ordered)
    pen.settle()
    if held is not None:
        where = {"member": 0, "segment": 0, "status": "ended", "age_end": 100, "consumed_end": 100, "score": 1.0}
        pen.ledger.append("outcomes", **where, hparams_in_effect=canonical(held), reason="")
    for status in statuses:
        pen.ledger.append("checkpoints", member=0, segment=0, digest="aa", size_bytes=1, status=status)
    pen.ledger.close(finished=False)
    return load(folder)


def test_a_hyperparameter_that_is_not_active_is_no_number(tmp_path: Path) -> None:
    """A conditional one, say."""
    _, columns = pages.page_data(_run_of_one(tmp_path / "run", {"optimizer": "sgd"}, None))
    assert [True, False, True, True, True] == [bool(np.isnan(columns[f"hparam/{place}"][0])) for place in range(5)]


def test_what_the_device_held_is_told_where_it_was_something_else(tmp_path: Path) -> None:
    """Rounding to float32 is nothing else."""
    ordered = ledgers.hparams(0)
    rounded = ordered | {"lr": float(np.float32(ordered["lr"]))}
    _, columns = pages.page_data(_run_of_one(tmp_path / "same", ordered, rounded))
    assert [] == [name for name in columns if name.startswith("effect/")]
    _, columns = pages.page_data(_run_of_one(tmp_path / "other", ordered, ordered | {"lr": 0.5}))
    assert [("effect/0", [0.5])] == [(name, list(held)) for name, held in columns.items() if name.startswith("effect/")]


def test_reasons_are_told_where_they_belong(told: Result) -> None:
    """Of a copy at the segment it began, of an exploit that was declined and of a failure at the one that ended."""
    head, columns = pages.page_data(told)
    keys = _keys(told.lineage)
    kinds = ("copy", "decline", "failure")
    found = {
        (kinds[kind], keys[at], int(donor), head["words"][words])
        for at, kind, donor, words in zip(
            *(columns[f"event/{name}"] for name in ("segment", "kind", "donor", "words")), strict=True
        )
    }
    assert {
        ("copy", SegmentKey(5, 1), 0, "member 0 is better"),
        ("copy", SegmentKey(4, 1), 1, "member 1 is better"),
        ("copy", SegmentKey(1, 3), 5, "member 5 is better"),
        ("decline", SegmentKey(2, 1), -1, ledgers.DECLINED),
        ("failure", SegmentKey(3, 1), -1, ledgers.FAILURE),
    } == found


def test_curves_have_every_point_and_the_objective_comes_first(told: Result) -> None:
    """In order of member and time; the system's metrics are no learning curves."""
    head, columns = pages.page_data(told)
    names = [(series["split"], series["name"]) for series in head["series"]]
    assert ("validation", "bits_per_byte") == names[0]
    assert {("validation", "bits_per_byte"), ("train", "loss"), ("test", "bits_per_byte")} == set(names)
    keys = _keys(told.lineage)
    for place, (split, name) in enumerate(names):
        rows = [row for row in told.rows["metrics"] if (row["split"], row["name"]) == (split, name)]
        wanted = sorted((row["member"], row["segment"], row["age"], np.float32(row["value"])) for row in rows)
        where, ages, values = (columns[f"points/{place}/{part}"] for part in ("segment", "age", "value"))
        found = [
            (keys[at].member, keys[at].index, int(age), value)
            for at, age, value in zip(where, ages, values, strict=True)
        ]
        assert repr(wanted) == repr(found)  # NaN, too


def test_curves_beyond_what_a_page_can_hold_are_left_out_and_named(
    told: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The objective is the last to go."""
    monkeypatch.setattr(pages, "MAX_POINTS", 30)
    head, _ = pages.page_data(told)
    assert ["bits_per_byte", "bits_per_byte"] == [series["name"] for series in head["series"]]
    assert ["train loss"] == head["leftOut"]


def test_the_best_is_the_winner_and_before_there_is_one_the_best_end_of_a_living_member(
    told: Result, crowd: Result, tmp_path: Path
) -> None:
    """As the table says."""
    for result in (told, crowd, load(ledgers.tell(tmp_path / "half", commits=6))):
        head, _ = pages.page_data(result)
        best = population_of(result).best
        assert best is not None
        assert result.lineage.last(best.member).key == _keys(result.lineage)[head["run"]["best"]]
        assert (result.winner is not None) == head["run"]["announced"]


def test_what_it_takes_to_run_the_sweep_again_is_there(told: Result) -> None:
    """Its file, which holds no passwords, its seed, and what it must come to."""
    head, _ = pages.page_data(told)
    again = head["run"]["sweep"]
    assert told.run.info["spec"]["seed"] == head["run"]["seed"]
    assert told.digest() == head["run"]["digest"]
    assert dialect.write(without_secrets(told.run.info["spec"])) == again
    assert "members: 6" in again


def test_nobody_waits_for_the_digest_of_a_sweep_that_goes_on(tmp_path: Path) -> None:
    """It would be another a moment later."""
    with contextlib.closing(ledgers.story(tmp_path / "run")) as commits:
        next(commits)
        facts = pages.page_data(load(tmp_path / "run"))[0]["run"]
    assert ("running", "") == (facts["status"], facts["digest"])


def test_checkpoints_that_are_gone_are_not_offered(tmp_path: Path) -> None:
    """Nor those that are damaged; saved again, they are."""
    hparams = ledgers.hparams(0)
    for number, end in enumerate(("saved", "removed", "saved", "damaged"), start=1):
        statuses = ("saved", "removed", "saved", "damaged")[:number]
        head, _ = pages.page_data(_run_of_one(tmp_path / str(number), hparams, hparams, statuses))
        assert ([(0, "aa")] if end == "saved" else []) == head["saved"]


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    """An empty one."""
    ledgers.run_json(tmp_path / "run", members=2, generations=2, steps=10)
    Ledger(tmp_path / "run").close(finished=False)
    _, head, columns = _page(load(tmp_path / "run"))
    assert head["run"]["best"] is None
    assert {0} == {len(values) for values in columns.values()}


# ---------------------------------------------------------------------------------------------------------- page


def test_the_page_needs_nothing_but_itself(told: Result) -> None:
    """No address of anything, and a policy that lets it load nothing."""
    page, _, _ = _page(told)
    assert [] == re.findall(r"(?:https?:)?//[a-z]", re.sub(r'id="data">.*?<', "", page, flags=re.S).replace("// ", ""))
    assert [] == re.findall(r"<(?:link|img|iframe|script)[^>]+(?:src|href)=", page)
    assert "default-src 'none'" in page
    assert "{{" not in page


def test_names_do_not_become_markup(tmp_path: Path) -> None:
    """A run's name, an option's, a reason."""
    bad = "</script><script>alert(1)</script>"
    run = ledgers.run_json(tmp_path / "run", members=1, generations=1, steps=10)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"run_id": bad}))
    pen = ledgers.Pen(Ledger(run), ledgers.Clock())
    pen.begin(0, 0, ledgers.hparams(0))
    pen.settle()
    pen.fail(0, 0, 5, bad)
    pen.ledger.close(finished=False)
    page, head, _ = _page(load(run))
    assert "alert(1)" not in page.replace("&lt;script&gt;alert(1)", "")
    assert bad in head["words"]


# -------------------------------------------------------------------------------------------------- command line


def _pbt(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["lineage", *arguments])


def test_open_writes_the_page_and_shows_the_member(told: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the browser of the person."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    page = told.path / "lineage.html"
    outcome = _pbt(str(told.path), "--open", "--member", "1")
    assert (0, f"The lineage of made-up is in {page}\n", "") == (outcome.exit_code, outcome.stdout, outcome.stderr)
    assert [f"{page.as_uri()}#1:3"] == opened
    assert page.read_text() == pages.lineage_page(told)


def test_without_a_browser_it_says_where_the_page_is(
    told: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster, say; a file of one's own choice, and no other is written."""
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    mine = tmp_path / "mine.html"
    outcome = _pbt(str(told.path), "--open", "--html", str(mine))
    assert 0 == outcome.exit_code
    assert "No browser was found here" in outcome.stderr
    assert mine.exists()


def test_html_alone_opens_nothing(told: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is to be sent to somebody."""
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("opened"))
    assert 0 == _pbt(str(told.path), "--html", str(tmp_path / "mine.html")).exit_code


def test_a_folder_that_is_not_there_is_not_made(told: Result, tmp_path: Path) -> None:
    """It is misspelt, more often than not."""
    outcome = _pbt(str(told.path), "--html", str(tmp_path / "new" / "page.html"))
    assert 2 == outcome.exit_code
    there_is_none = f"there is no folder {tmp_path / 'new'}. Make it, or name another file: --html."
    assert f"pbt: cannot write {tmp_path / 'new' / 'page.html'}: {there_is_none}\n" == outcome.stderr
    assert not (tmp_path / "new").exists()


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be written anywhere, as on a disk that is mounted so; who may do everything is root here."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pbt.record.archive.open", refuse, raising=False)


@pytest.mark.usefixtures("read_only")
def test_a_page_that_may_not_be_written_is_told_with_the_mend(told: Result, tmp_path: Path) -> None:
    """In one line, which is about that file and not about new runs."""
    outcome = _pbt(str(told.path), "--html", str(tmp_path / "page.html"))
    assert 2 == outcome.exit_code
    wanted = f"pbt: cannot write {tmp_path / 'page.html'}: Read-only file system. Name another file: --html.\n"
    assert wanted == outcome.stderr


@pytest.mark.usefixtures("read_only")
def test_where_nothing_may_be_written_the_page_that_is_there_is_opened(
    told: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the time it is of; without one, the mend is to write it elsewhere."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    page = told.path / "lineage.html"
    page.unlink(missing_ok=True)
    outcome = _pbt(str(told.path), "--open")
    assert (2, []) == (outcome.exit_code, opened)
    assert outcome.stderr.endswith("Read-only file system. Name another file: --html.\n")
    page.write_text("the page of old")
    os.utime(page, (ledgers.CREATED, ledgers.CREATED))
    outcome = _pbt(str(told.path), "--open")
    assert (0, [page.as_uri()], "") == (outcome.exit_code, opened, outcome.stderr)
    assert f"is in {page}, as of 2023-11-14 22:13 UTC: nothing may be written there now" in outcome.stdout
    assert "the page of old" == page.read_text()


def test_json_and_a_page_exclude_each_other(told: Result) -> None:
    """One prints, the other writes."""
    outcome = _pbt(str(told.path), "--json", "--open")
    assert 2 == outcome.exit_code
    assert "choose one" in outcome.stderr

"""The report: one file, whole, and safe whatever the names are."""

from __future__ import annotations

import gc
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pbt
from pbt.cli import main
from pbt.errors import PbtError
from pbt.record.ledger import LedgerReader
from pbt.record.result import Result, load
from pbt.report import canvas, interactive, report_page
from pbt.report.plots import figures
from pbt.report.report_page import write_report
from tests import ledgers

EVIL = "<script>alert('1')</script>"


class Reader(HTMLParser):
    """What a browser would find: tags with their attributes, and the words outside of programs and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open[-1:]):
            self.words.append(data)


def _nothing(result: Any) -> list[str]:
    return []


def _blank(result: Result) -> dict[str, Any]:
    """All pictures, empty."""
    return dict.fromkeys(figures(result), lambda: canvas.new_figure(1.0, 1.0))


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a run whose sweep, hyperparameter, option and metric are named like programs."""
    run = ledgers.tell(tmp_path_factory.mktemp("evil") / "run <b>&amp;")
    info = json.loads((run / "run.json").read_text())
    info["hparams"] = {EVIL: {"type": "choice", "options": [EVIL, "tame"]}} | info["hparams"]
    info["spec"]["name"] = EVIL
    info["objective"]["metric"] = f"bits_per_byte{EVIL}"
    (run / "run.json").write_text(json.dumps(info))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "_pictures", _nothing)  # what stands beside them is ours
        return write_report(run, run.parent / "report.html")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripted sweep's report, with a failure's reason that is a program."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "FAILURE", EVIL)
        run = ledgers.tell(folder / "made-up-1")
        patch.setattr(report_page, "figures", _blank)  # what they show is tested with them
        return write_report(run, folder / "report.html")


def test_names_and_reasons_are_words_and_never_programs(evil: Path, plain: Path) -> None:
    """They are shown as they are written."""
    told = " ".join(Reader(plain.read_text()).words)
    assert f"failed: {EVIL}" in told
    told = " ".join(Reader(evil.read_text()).words)
    assert EVIL in told
    assert "run <b>&amp;" in told
    for file in (evil, plain):
        assert EVIL not in file.read_text()


def test_pictures_that_can_be_moved_hold_what_the_others_show(plain: Path) -> None:
    """All members that have a score, every quantile, and the winner's ancestry."""
    result = load(plain.parent / "made-up-1")
    (lines,) = interactive.parallel(result).data
    assert ["lr", "optimizer", "nesterov", "mix/books (the<br>rest is web)", "bits_per_byte"] == [
        dimension.label for dimension in lines.dimensions
    ]
    assert [1.65, 1.3, 1.8, 1.75, 1.4] == list(lines.line.color)
    traces = {trace.name: trace for trace in interactive.scores(result).data}
    assert [2.0, 1.6, 1.5, 1.3] == list(traces["best at its age"].y)
    assert [2.0, 1.6, 1.5, 1.3] == list(traces["ancestry of the best, member 1"].y)
    assert "trained by member 5<br>lr 0.002<br>optimizer adamw" in traces["ancestry of the best, member 1"].hovertext[1]
    assert {f"member {member}" for member in (0, 1, 2, 4, 5)} <= set(traces)


def test_nothing_is_fetched_from_anywhere(plain: Path) -> None:
    """One file is enough: no address in any tag, and a policy that forbids it."""
    tags = Reader(plain.read_text()).tags
    addresses = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert 10 == len(addresses)
    assert all(str(address).startswith("data:image/png;base64,") for address in addresses)
    (policy,) = (a["content"] for tag, a in tags if tag == "meta" and "http-equiv" in a)
    assert str(policy).startswith("default-src 'none'; img-src data: blob:;")


def test_every_picture_is_there_with_a_caption(plain: Path) -> None:
    """None is forgotten."""
    named = [attributes["alt"] for tag, attributes in Reader(plain.read_text()).tags if tag == "img"]
    assert set(figures(load(plain.parent / "made-up-1"))) == set(named)
    assert len(named) == plain.read_text().count("<figcaption>")


def test_the_library_is_there_once(plain: Path) -> None:
    """With both pictures that can be moved."""
    text = plain.read_text()
    assert 1 == text.count("plotly.js v")
    assert {"scores", "parallel"} <= {attributes.get("id") for _, attributes in Reader(text).tags}


def test_all_that_was_found_is_told(plain: Path) -> None:
    """Summary, winner, its story in sentences, its schedule, members, and how to get it again."""
    told = " ".join(Reader(plain.read_text()).words)
    for words in (
        "member 1, validation 1.3000, test 1.3500",
        "The winner: member 1, 1.3000",
        "took over the weights of member 5 (5:2, score 1.5000); lr ",
        "Its ancestry: 0:0 → 5:1-2 → 1:3.",
        "How to get it again",
        "metric: bits_per_byte",
        load(plain.parent / "made-up-1").digest(),
    ):
        assert words in told


def test_it_follows_the_reader_s_colours_and_can_be_printed(plain: Path) -> None:
    """Light and dark."""
    text = plain.read_text()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


@pytest.mark.parametrize("commits", [1, 5])
def test_a_run_under_way_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """Also before there is a score; that its pictures can be drawn is tested with them."""
    monkeypatch.setattr(report_page, "_pictures", _nothing)
    run = ledgers.tell(tmp_path / "run", commits=commits)
    text = pbt.write_report(load(run), tmp_path / "report.html").read_text()
    assert ("The best so far: member 5" in text) == (commits == 5)
    assert ("plotly.js v" in text) == (commits == 5)
    assert "run, unfinished" in text


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    """It says as much as there is."""
    from pbt.record.ledger import Ledger

    run = ledgers.run_json(tmp_path / "bare", members=2, generations=2, steps=2)
    Ledger(run).close(finished=False)
    told = Reader(write_report(run, tmp_path / "report.html").read_text()).words
    assert "no member has a score" in told


def test_the_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its pictures are written, too."""
    reads: list[Any] = []
    tables = LedgerReader.tables
    monkeypatch.setattr(LedgerReader, "tables", lambda *arguments: reads.append(arguments) or tables(*arguments))
    monkeypatch.setattr(report_page, "figures", _blank)
    monkeypatch.setattr("pbt.report.plots.figures", lambda result, baseline: _blank(result))
    run = ledgers.tell(tmp_path / "run")
    outcome = CliRunner().invoke(main, ["report", str(run), "--plots"])
    assert (0, 1) == (outcome.exit_code, len(reads))
    assert "10 pictures are in" in outcome.output
    assert gc.isenabled()


def test_without_plotly_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line."""
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    run = ledgers.tell(tmp_path / "run")
    with pytest.raises(PbtError, match=re.escape("pip install 'pbt[plots]'")):
        write_report(run, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()

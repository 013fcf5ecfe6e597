"""`pbt lineage`, `why`, `ancestors`, `descendants`, `schedule` and `diff`: what a person sees, and the same as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from pbt.cli import main
from pbt.lineage import MemberNotFound, Standing
from pbt.member import SegmentKey
from pbt.record.ledger import Ledger
from pbt.record.lock import WriterLock
from pbt.record.mirrored import Story
from pbt.record.result import Result, load
from pbt.record.schema import canonical
from pbt.record.story import Entry
from pbt.report import provenance
from pbt.report.console import Progress
from pbt.report.sentences import both, changed, sentence, values
from pbt.report.show import as_json, population_of, show
from tests import ledgers

NAMES = list(ledgers.SPACE)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: the scripted sweep, and the same cut off in the middle of its third generation."""
    folder = tmp_path_factory.mktemp("runs")
    ledgers.tell(folder / "made-up")
    ledgers.tell(folder / "half", commits=5)
    return folder


@pytest.fixture(scope="module")
def told(storage: Path) -> Result:
    """The scripted sweep."""
    return load(storage / "made-up")


@pytest.fixture
def under_way(storage: Path) -> Iterator[Result]:
    """The half sweep while somebody writes it."""
    lock = WriterLock(storage / "half")
    yield load(storage / "half")
    lock.release()


def _console(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width)


def _printed(show: Callable[..., None], *arguments: Any, width: int = 100, **options: Any) -> list[str]:
    """The lines that a verb prints, without trailing spaces."""
    console = _console(width)
    show(*arguments, console, **options)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _words(line: str) -> str:
    """A row of a table, however wide its columns."""
    return " ".join(line.split())


def pbt(*arguments: str) -> Any:
    """Call the command line."""
    return CliRunner().invoke(main, arguments)


# --------------------------------------------------------------------------------------------------------- lineage


def test_lineage_is_a_forest_of_members(told: Result) -> None:
    """Who descended from whom, when, with scores; the winner's tree first, and dead lines last."""
    assert _printed(provenance.show_lineage, told) == [
        "made-up, finished: 6 members, 22 segments, 3 copies",
        "5 living members from 3 of 6 fresh starts: 0:0 (3), 1:0 (1), 2:0 (1)",
        "",
        "line of descent    from   gens       age      score   now",
        "──────────────────────────────────────────────────────────────",
        "member 0          fresh    1-4     0-400     1.6500   living",
        "└╴member 5          0:0    2-4   100-400     1.4000   living",
        "  └╴member 1        5:2      4   300-400     1.3000   winner",
        "member 1          fresh    1-3     0-300     1.9000   replaced",
        "└╴member 4          1:0    2-4   100-400     1.7500   living",
        "member 2          fresh    1-4     0-400     1.8000   living",
        "member 3          fresh    1-2     0-140     2.3000   failed",
        "member 4          fresh      1     0-100   diverged   replaced",
        "member 5          fresh      1     0-100     2.5000   replaced",
    ]


def test_the_lineage_of_one_member(told: Result) -> None:
    """What it descends from, and what descends from it: then and now."""
    lines = _printed(provenance.show_lineage, told, member="4")[5:]
    assert [line.split()[-1] for line in lines] == ["on", "living", "replaced"]
    assert [re.sub(r" .*", "", line.split("member ")[1]) for line in lines] == ["1", "4", "4"]


def test_the_lineage_of_a_sweep_under_way(under_way: Result) -> None:
    """The best so far, and who is training."""
    lines = _printed(provenance.show_lineage, under_way)
    assert lines[0] == "half, running: 6 members, 17 segments, 2 copies"
    assert lines[5:7] == [
        "member 0          fresh    1-3     0-200     1.8000   running",
        "└╴member 5          0:0    2-3   100-200     1.6000   best",
    ]


def test_nobody_is_said_to_train_in_a_sweep_that_was_killed(storage: Path) -> None:
    """What was under way has stopped, in every verb."""
    killed = load(storage / "half")
    assert _printed(provenance.show_lineage, killed)[5].split()[-1] == "stopped"
    assert _printed(provenance.show_why, killed, 5, width=150)[-1].endswith("; stopped before it reported")
    assert not re.search(" now ", _printed(provenance.show_why, killed, 5, times=True, width=150)[-1])
    assert _printed(provenance.show_why, killed, "5:2")[0] == "segment 5:2 of half, generation 3: stopped"
    assert _printed(provenance.show_ancestors, killed, 5, width=130)[-1].split()[:4] == ["5:2", "3", "200", "-"]
    assert _printed(provenance.show_diff, killed, 5, 0)[4].split() == ["status", "stopped", "stopped"]


def test_many_lines_are_cut_to_the_most_interesting(tmp_path: Path) -> None:
    """The winner's ancestry is shown, the rest counted where it belongs; --all shows everything."""
    run = load(ledgers.simulate(tmp_path / "run", members=100, generations=10))
    short = _printed(provenance.show_lineage, run, width=80)
    whole = _printed(provenance.show_lineage, run, width=80, everything=True)
    num_lines = len(run.lineage.lines())
    assert len(whole) == 5 + num_lines
    assert len(short) == 5 + 40 + 1
    assert max(map(len, short[3:-1] + whole[3:])) <= 80
    hidden = sum(int(count.replace(",", "")) for line in short for count in re.findall(r"\(\+([\d,]+)\)", line))
    assert 0 < hidden <= num_lines - 40
    assert short[-1] == f"{num_lines - 40:,} lines not shown, (+n) where they belong; --all shows them"
    assert sum(line.endswith("winner") for line in short) == sum(line.endswith("winner") for line in whole) == 1
    ancestors = {segment.key.member for segment in run.lineage.ancestors(run.best.member)}
    shown = {int(number) for line in short[5:-1] for number in re.findall(r"member (\d+)", line)}
    assert ancestors <= shown


def test_where_large_is_good_the_largest_live_longest_in_the_picture(tmp_path: Path) -> None:
    """The most interesting are the best, whichever way that is."""
    shown = []
    for mode in ("min", "max"):
        run = load(ledgers.simulate(tmp_path / mode, members=100, generations=1, diverges=False))
        info = {**run.run.info, "objective": {**run.run.info["objective"], "mode": mode}}
        lines = _printed(provenance.show_lineage, Result(dataclasses.replace(run.run, info=info)))[6:-1]
        shown.append([float(line.split()[-2]) for line in lines])
    assert max(shown[0][1:]) < min(shown[1][1:])
    assert shown[0][1:] == sorted(shown[0][1:])


def test_lineage_in_ascii(told: Result) -> None:
    """On a terminal that knows no more."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    provenance.show_lineage(told, Console(file=file, width=100))
    file.seek(0)
    assert "  `-member 1" in file.read()


def test_a_sweep_before_its_first_decision(tmp_path: Path) -> None:
    """There is nothing to show, and that is said."""
    ledgers.run_json(tmp_path / "run", members=2, generations=1, steps=1)
    Ledger(tmp_path / "run").close(finished=False)
    run = load(tmp_path / "run")
    assert _printed(provenance.show_lineage, run) == [
        "run, unfinished: 0 members, 0 segments, 0 copies",
        "Nothing has been trained yet.",
    ]
    assert json.loads(provenance.lineage_json(run))["lines"] == []
    with pytest.raises(MemberNotFound, match="none is best"):
        provenance.named(run, "best")


def test_a_sweep_that_nobody_survived(tmp_path: Path) -> None:
    """No roots, then."""
    ledgers.run_json(tmp_path / "run", members=1, generations=1, steps=100)
    pen = ledgers.Pen(Ledger(tmp_path / "run"), ledgers.Clock())
    pen.begin(0, 0, ledgers.hparams(0))
    pen.settle()
    pen.fail(0, 0, 40, "lost")
    pen.ledger.close(finished=True)
    assert _printed(provenance.show_lineage, load(tmp_path / "run"))[1] == "no member is living"


def test_lineage_as_json(told: Result) -> None:
    """All lines, and the roots of what lives."""
    facts = json.loads(provenance.lineage_json(told))
    assert {name: facts[name] for name in ("run", "status", "members", "segments", "copies", "best")} == {
        "run": "made-up",
        "status": "finished",
        "members": 6,
        "segments": 22,
        "copies": 3,
        "best": 1,
    }
    assert facts["roots"][0] == {"root": "0:0", "members": [0, 1, 5]}
    assert len(facts["lines"]) == 9
    assert facts["lines"][2] == {
        "member": 1,
        "segments": [3, 3],
        "generations": [3, 3],
        "start": "copied",
        "parent": "5:2",
        "age": [300, 400],
        "score": 1.3,
        "fate": "held",
        "living": True,
    }
    diverged = next(line for line in facts["lines"] if line["member"] == 4)
    assert diverged["score"] is None  # NaN is no JSON
    assert len(json.loads(provenance.lineage_json(told, "4"))["lines"]) == 3


# ------------------------------------------------------------------------------------------------------------- why


def test_why_tells_a_members_story(told: Result) -> None:
    """Every line with generation, age and steps run."""
    assert _printed(provenance.show_why, told, 1) == [
        "member 1 of made-up: the winner, last bits_per_byte 1.3000",
        "",
        "gen   age   steps run   what happened",
        "─" * 100,
        "  1     0           0   started from new weights with lr 0.002, optimizer adamw, nesterov no, mix",
        "                        books 25% web 75%",
        "  1   100         100   scored 2.1000, rank 2 of 6",
        "  1   100         100   gave its weights to member 4 (4:1), whose generation 2 begins with them",
        "  2   200         200   scored 1.9500, rank 3 of 5",
        "  3   300         300   scored 1.9000, rank 4 of 5",
        "  4   300         300   took over the weights of member 5 (5:2, score 1.5000); lr 0.002 -> 0.012,",
        "                        optimizer adamw -> sgd: member 5 is better",
        "  4   400         400   scored 1.3000, rank 1 of 5",
        "  4   400         400   announced the winner: budget spent",
        "  4   400         400   evaluated on the test split: bits_per_byte 1.3500",
        "  4   400         400   checkpoint cdcdcdcdcdcd saved",
    ]


def test_why_with_times(told: Result) -> None:
    """In UTC, when it was recorded."""
    lines = _printed(provenance.show_why, told, "3", times=True)
    assert "  2   140         140   2023-11-14 22:14:20   failed: out of memory on cuda:0" in lines
    assert lines[0] == "member 3 of made-up: failed, last bits_per_byte 2.3000"


def test_why_of_a_segment(told: Result) -> None:
    """What it began with, and how it ended."""
    lines = _printed(provenance.show_why, told, "5:1")
    assert lines[0] == "segment 5:1 of made-up, generation 2: ended"
    assert [line.split()[3] for line in lines[4:] if line[:3].strip()] == ["took", "scored"]


def test_why_of_a_member_that_is_training(under_way: Result) -> None:
    """The story ends in the present."""
    lines = _printed(provenance.show_why, under_way, "5", times=True, width=150)
    assert lines[0] == "member 5 of half: living, last bits_per_byte 1.6000"
    assert re.match(r"  3   200         200 +now   began to train with lr 0\.002, optimizer", lines[-1])


def test_why_as_json(told: Result) -> None:
    """A list of what happened, with the sentence that people read."""
    story = json.loads(provenance.why_json(told, "1"))
    copy = next(entry for entry in story if entry["kind"] == "copy")
    assert copy["text"].startswith("took over the weights of member 5 (5:2, score 1.5000); lr 0.002 -> 0.012")
    assert (copy["hparams_before"]["lr"], copy["hparams"]["lr"]) == (0.002, 0.012)
    assert (copy["generation"], copy["age"], copy["other_member"], copy["other_segment"]) == (3, 300, 5, 2)
    assert copy["at"].startswith("2023-11-14T22:14:50")
    assert json.loads(provenance.why_json(told, 4))[1]["score"] is None


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"kind": "start", "hparams": {"lr": 0.1, "momentum": 0.9}}, "started from new weights with lr 0.1"),
        ({"kind": "start", "hparams": {}}, "started from new weights with no hyperparameters"),
        (
            {"kind": "restart", "before": {"lr": 0.1}, "hparams": {"lr": 0.2}, "reason": "all diverged."},
            "began again from new weights; lr 0.1 -> 0.2: all diverged",
        ),
        (
            {"kind": "copy", "other": SegmentKey(3, 1), "score": 0.5, "before": {"lr": 1.0}, "hparams": {"lr": 1.0}},
            "took over the weights of member 3 (3:1, score 0.5000); the same hyperparameters",
        ),
        ({"kind": "set", "before": {"lr": 0.1}, "hparams": {"lr": 0.2}}, "went on with lr 0.1 -> 0.2"),
        ({"kind": "donate", "other": SegmentKey(3, 1)}, "gave its weights to member 3 (3:1)"),
        (
            {"kind": "donate", "other": SegmentKey(3, 1), "other_generation": 4},
            "gave its weights to member 3 (3:1), whose generation 5 begins with them",
        ),
        ({"kind": "ended", "score": 0.5, "standing": Standing(2, 5, 0)}, "scored 0.5000, rank 2 of 5"),
        (
            {"kind": "ended", "score": 0.5, "standing": Standing(2, 5, 3)},
            "scored 0.5000, rank 2 of 5 so far, 3 to come",
        ),
        ({"kind": "ended", "score": float("nan"), "standing": Standing(5, 5, 0)}, "diverged, rank 5 of 5"),
        ({"kind": "ended", "score": None}, "diverged"),
        (
            {"kind": "ended", "score": 0.5, "hparams": {"lr": 0.1, "wd": 1.0}, "in_effect": {"lr": 0.3}},
            "scored 0.5000; not in effect: lr was 0.3 where 0.1 was ordered",
        ),
        ({"kind": "failed", "reason": "out of memory."}, "failed: out of memory"),
        (
            {"kind": "failed", "hparams": {"lr": 0.1}, "in_effect": {"lr": None}, "reason": "deaf"},
            "failed; not in effect: lr was - where 0.1 was ordered: deaf",
        ),
        ({"kind": "running", "hparams": {"lr": 0.1}}, "began to train with lr 0.1; no report yet"),
        (
            {"kind": "running", "hparams": {"lr": 0.1}, "detail": "stopped"},
            "began to train with lr 0.1; stopped before it reported",
        ),
        ({"kind": "decline", "reason": "too close"}, "kept its weights: too close"),
        ({"kind": "evaluate", "reason": "on the test split"}, "to be evaluated: on the test split"),
        (
            {"kind": "evaluated", "detail": "test", "metrics": {"loss": 0.5, "acc": 0.25}},
            "evaluated on the test split: loss 0.5000, acc 0.2500",
        ),
        ({"kind": "saved", "detail": "ab" * 32}, "checkpoint abababababab saved"),
        ({"kind": "removed", "detail": "ab" * 32}, "checkpoint abababababab removed"),
        ({"kind": "damaged", "detail": "ab" * 32}, "checkpoint abababababab found damaged"),
        ({"kind": "incident", "detail": "host_lost", "reason": "stack 1"}, "host lost: stack 1"),
        ({"kind": "retrained", "segment": 3}, "segment 3 had been lost and was trained again"),
        ({"kind": "session", "detail": "resume"}, "the sweep was taken up again (resume)"),
        ({"kind": "budget", "reason": "tokens"}, "the budget ended: tokens"),
        ({"kind": "extend"}, "the sweep was extended"),
        ({"kind": "won", "other": SegmentKey(1, 3), "reason": "best"}, "announced the winner: best"),
        ({"kind": "finish", "other": SegmentKey(1, 3)}, "the sweep finished and member 1 won"),
        (
            {"kind": "finish", "reason": "every member failed"},
            "the sweep finished without a winner: every member failed",
        ),
        ({"kind": "merge", "reason": "of a later version"}, "merge: of a later version"),
    ],
)
def test_each_kind_of_entry_is_a_sentence(facts: dict[str, Any], expected: str) -> None:
    """Plain English, with the recorded reason at its end."""
    assert sentence(Entry(at=0.0, **facts), ["lr"]) == expected


def test_hyperparameters_in_words() -> None:
    """Those that vary, in the sweep's order; of changes, all that changed, with digits enough to see it."""
    assert values(ledgers.hparams(0), NAMES) == "lr 0.001, optimizer sgd, nesterov yes, mix books 25% web 75%"
    assert changed({"a": 1, "b": 2}, {"b": 3, "c": 4}) == "a 1 -> -, b 2 -> 3, c - -> 4"
    assert changed({"a": 1}, {"a": 2}, " | ") == "a 1 | 2"
    assert both(0.123456, 0.1234567) == ("0.123456", "0.1234567")
    assert both(0.1, 0.2) == ("0.1", "0.2")


# ------------------------------------------------------------------------- ancestors, descendants, schedule, diff


def test_ancestors(told: Result) -> None:
    """Root first, with a column for each hyperparameter where there is room."""
    lines = _printed(provenance.show_ancestors, told, 1, width=130)
    assert lines[0] == "ancestors of member 1: 4 segments, members 0 -> 5 -> 1"
    assert _words(lines[2]) == "segment gen from age to age start score lr optimizer nesterov mix"
    assert _words(lines[4]) == "0:0 1 0 100 fresh 2.0000 0.001 sgd yes books 25% web 75%"
    assert _words(lines[7]) == "1:3 4 300 400 copy of 5:2 1.3000 0.012 sgd no books 25% web 75%"


def test_ancestors_where_there_is_little_room(told: Result) -> None:
    """What changed from one to the next, in words; nothing is cut off."""
    lines = _printed(provenance.show_ancestors, told, "5:2", width=80)
    assert lines[0] == "ancestors of segment 5:2: 3 segments, members 0 -> 5"
    words = " ".join(" ".join(line.split()) for line in lines[4:])
    assert "mix books 25% web 75%" in words
    assert "lr 0.001 -> 0.002, optimizer sgd -> adamw" in words
    assert "own 1.5000 the same hyperparameters" in words
    assert max(map(len, lines)) <= 80


def test_ancestors_of_a_member_that_is_training(under_way: Result) -> None:
    """Up to the segment under way."""
    lines = _printed(provenance.show_ancestors, under_way, "5", width=130)
    assert lines[-1].split()[:6] == ["5:2", "3", "200", "now", "own", "-"]


def test_descendants(told: Result) -> None:
    """The forest of those whose weights came from it, and who holds them now."""
    lines = _printed(provenance.show_descendants, told, 0)
    assert lines[0] == "descendants of member 0: 8 segments; held now by 3 living members 0, 1, 5"
    assert [line.split()[-1] for line in lines[4:]] == ["living", "living", "winner"]
    assert _printed(provenance.show_descendants, told, "5:1")[0] == (
        "descendants of segment 5:1: 4 segments; held now by 2 living members 1, 5"
    )
    assert _printed(provenance.show_descendants, told, 3)[0] == (
        "descendants of member 3: 2 segments; held now by no living member"
    )


def test_many_descendants_are_counted(tmp_path: Path) -> None:
    """The first dozen living members are named, the first forty lines shown."""
    run = load(ledgers.simulate(tmp_path / "run", members=100, generations=10))
    root = max(run.lineage.members, key=lambda member: len(run.lineage.descendants(f"{member}:0")))
    lines = _printed(provenance.show_descendants, run, f"{root}:0")
    living = sum(run.descendants(f"{root}:0")["living"].to_pylist())
    assert re.search(rf"held now by {living} living members (\d+, ){{11}}\d+ and {living - 12} more$", lines[0])
    assert len(lines) == 4 + 40 + 1
    assert len(_printed(provenance.show_descendants, run, f"{root}:0", everything=True)) > 44


def test_segments_as_json(told: Result) -> None:
    """Hyperparameters are objects, and nothing is there twice."""
    found = json.loads(provenance.segments_json(told.ancestors(1)))
    assert [(row["member"], row["segment"]) for row in found] == [(0, 0), (5, 1), (5, 2), (1, 3)]
    assert found[-1]["hparams"] == ledgers.hparams(5, 1)
    assert not [name for name in found[-1] if name.startswith("hparams/")]


def test_the_schedule(told: Result) -> None:
    """Who trained the weights, from which age to which, with what."""
    lines = _printed(provenance.show_schedule, told, 1)
    assert lines[0] == "schedule of member 1: what its weights were trained with"
    assert [_words(line) for line in lines[4:]] == [
        "0 100 member 0 0.001 sgd yes books 25% web 75%",
        "100 300 member 5 0.002 adamw yes books 25% web 75%",
        "300 400 member 1 0.012 sgd no books 25% web 75%",
    ]


def test_the_schedule_as_json_can_be_replayed(told: Result) -> None:
    """Every step of age has its hyperparameters, to the last bit, and nothing else is said."""
    steps = json.loads(provenance.schedule_json(told, 1))
    assert steps == [
        {"age_start": 0, "age_end": 100, "member": 0, "hparams": ledgers.hparams(0)},
        {"age_start": 100, "age_end": 300, "member": 5, "hparams": ledgers.hparams(0, 1)},
        {"age_start": 300, "age_end": 400, "member": 1, "hparams": ledgers.hparams(5, 1)},
    ]


def test_diff(told: Result) -> None:
    """Until when they are the same, what they are now, and what happened in between."""
    assert _printed(provenance.show_diff, told, 1, 5) == [
        "member 1 and member 5 parted at age 300, as generation 4 began: up to 5:2 they are one and the same",
        "",
        "            member 1   member 5",
        "───────────────────────────────",
        "status         ended      ended",
        "age              400        400",
        "steps run        400        400",
        "score         1.3000     1.4000",
        "lr             0.012      0.002",
        "nesterov          no        yes",
        "optimizer        sgd      adamw",
        "",
        "    age      member 1      member 5   differ in",
        "─" * 96,
        "300-400   1:3  1.3000   5:3  1.4000   lr 0.012 | 0.002, nesterov no | yes, optimizer sgd | adamw",
    ]


def test_diff_shows_a_long_value_whole(tmp_path: Path) -> None:
    """On as many lines as it takes: it is what is compared."""
    parts = [f"a-long-name-{number}" for number in range(6)]
    ledgers.run_json(tmp_path / "run", members=2, generations=1, steps=100, space={"mixture": {"type": "simplex"}})
    pen = ledgers.Pen(Ledger(tmp_path / "run"), ledgers.Clock())
    for member, share in enumerate((0.15, 0.19)):
        pen.begin(member, 0, {"mixture": dict.fromkeys(parts, share)})
    pen.settle()
    pen.ledger.close(finished=False)
    lines = _printed(provenance.show_diff, load(tmp_path / "run"), 0, 1, width=80)
    words = " ".join(lines)
    assert (words.count("15%"), words.count("19%")) == (6, 6)
    assert max(map(len, lines)) <= 80


def test_an_exploit_has_one_generation_whoever_tells_it(told: Result) -> None:
    """The one that begins with the copied weights: counted from 1 for people, from 0 for programs."""
    shown = io.StringIO()
    show(told, Console(file=shown, width=130))
    console = Progress(told.run.info, Console(file=io.StringIO(), width=130, height=40, force_terminal=True))
    with console:
        console.update((table, row) for table, rows in told.rows.items() for row in rows)
    sweep = Story("min", {})
    sweep.add([(table, row) for table, rows in told.rows.items() for row in rows])
    assert "gen 4 <- member 5" in shown.getvalue()
    assert "gen 4 <- member 5" in console._console.file.getvalue()  # type: ignore[attr-defined]
    assert sweep.tags(1)["pbt.last_exploit"] == "gen 4 <- member 5"
    assert any(line.startswith("  4   300") and "took over" in line for line in _printed(provenance.show_why, told, 1))
    assert any("whose generation 4 begins with them" in line for line in _printed(provenance.show_why, told, 5))
    assert "parted at age 300, as generation 4 began" in _printed(provenance.show_diff, told, 1, 5)[0]
    assert _words(_printed(provenance.show_lineage, told)[7]) == "└╴member 1 5:2 4 300-400 1.3000 winner"
    facts = json.loads(as_json(told))
    assert [row["exploit_generation"] for row in facts["members"] if row["member"] == 1] == [3]
    assert [row["generation"] for row in facts["exploits"] if row["member"] == 1] == [3]
    assert [row["generation"] for row in told.why(1).to_pylist() if row["kind"] == "copy"] == [3]


def test_diff_of_strangers_says_what_differs_once(told: Result) -> None:
    """Where it goes on to differ, it says so."""
    lines = _printed(provenance.show_diff, told, 1, 2)
    assert lines[0] == "member 1 and member 2 have no common ancestor"
    assert lines[-2:] == [
        "200-300   5:2  1.5000   2:2  1.8500   as above",
        "300-400   1:3  1.3000   2:3  1.8000   lr 0.012 | 0.003, nesterov no | yes",
    ]


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("5:1", "1", "member 1 descends from segment 5:1, which ends at age 200, with generation 2"),
        ("1", "5:1", "member 1 descends from segment 5:1, which ends at age 200, with generation 2"),
        ("1", "1:3", "member 1 and segment 1:3 are the same"),
        ("0:0", "1", "member 1 descends from segment 0:0, which ends at age 100, with generation 1"),
    ],
)
def test_diff_of_relatives(told: Result, a: str, b: str, says: str) -> None:
    assert _printed(provenance.show_diff, told, a, b)[0] == says


def test_diff_of_the_same_says_nothing_more(told: Result) -> None:
    """There is nothing that differs."""
    assert len(_printed(provenance.show_diff, told, 1, 1)) == 8


def test_diff_of_members_that_are_training(under_way: Result) -> None:
    """With the scores they had last."""
    lines = _printed(provenance.show_diff, under_way, "5", "0")
    assert lines[4].split() == ["status", "running", "running"]
    assert lines[7].split() == ["score", "1.6000", "1.8000"]


def test_diff_as_json(told: Result) -> None:
    """Now, since when, and every stretch of age."""
    facts = json.loads(provenance.diff_json(told, 1, 5))
    assert (facts["common"], facts["parted_at"]) == ("5:2", 300)
    assert facts["hparams"]["lr"] == [0.012, 0.002]
    assert set(facts["hparams"]) == {"lr", "nesterov", "optimizer"}
    assert (facts["a"]["member"], facts["b"]["score"], facts["a"]["age"]) == (1, 1.4, 400)
    assert [stretch["shared"] for stretch in facts["stretches"]] == [True, True, True, False]
    assert facts["stretches"][-1]["a_hparams"]["lr"] == 0.012
    strangers = json.loads(provenance.diff_json(told, 1, 2))
    assert (strangers["common"], strangers["parted_at"]) == (None, 0)


def test_brackets_are_no_markup(tmp_path: Path) -> None:
    """Names, values and reasons are printed letter by letter."""
    ledgers.run_json(tmp_path / "run", members=2, generations=1, steps=100, space={"[bold]x": ledgers.SPACE["lr"]})
    pen = ledgers.Pen(Ledger(tmp_path / "run"), ledgers.Clock())
    for member in range(2):
        pen.begin(member, 0, {"[bold]x": f"[red]{member}"})
    pen.settle()
    pen.fail(1, 0, 40, "[/] gone")
    pen.ledger.close(finished=False)
    run = load(tmp_path / "run")
    printed = "\n".join(
        [
            *_printed(provenance.show_why, run, 1),
            *_printed(provenance.show_ancestors, run, 0),
            *_printed(provenance.show_diff, run, 0, "1:0"),
        ]
    )
    assert "failed: [/] gone" in printed
    assert "started from new weights with [bold]x [red]1" in printed
    assert "[bold]x" in printed.partition("ancestors of")[2].splitlines()[2]
    assert "[red]0" in printed


# ------------------------------------------------------------------------------------------------ the command line

VERBS = [
    ("lineage",),
    ("why", "1"),
    ("ancestors", "1"),
    ("descendants", "0"),
    ("schedule", "1"),
    ("diff", "1", "5"),
]


def _call(verb: tuple[str, ...], storage: Path, *options: str, run: str = "made-up") -> Any:
    return pbt(verb[0], run, *verb[1:], "--storage", str(storage), *options)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_prints_and_each_has_json(storage: Path, verb: tuple[str, ...]) -> None:
    """Exit code 0, and nothing on standard error."""
    words, facts = _call(verb, storage), _call(verb, storage, "--json")
    assert (words.exit_code, words.stderr, facts.exit_code, facts.stderr) == (0, "", 0, "")
    assert len(words.stdout.splitlines()) > 3
    assert json.loads(facts.stdout)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_can_be_asked_while_a_sweep_runs(storage: Path, verb: tuple[str, ...]) -> None:
    assert _call(verb, storage, run="half").exit_code == 0
    assert _call(verb, storage, "--json", run="half").exit_code == 0


def test_latest_and_best(storage: Path) -> None:
    """Runs and members by what they are."""
    latest = storage / "latest-run"
    ledgers.tell(latest)
    info = json.loads((latest / "run.json").read_text())
    (latest / "run.json").write_text(json.dumps({**info, "created": ledgers.CREATED + 5}))
    assert "member 1 of latest-run: the winner" in _call(("why", "best"), storage, run="latest").stdout
    assert "member 5 of half: living" in _call(("why", "best"), storage, run="half").stdout
    assert _call(("diff", "best", "5"), storage).stdout == _call(("diff", "1", "5"), storage).stdout
    lines = _call(("lineage",), storage, "--member", "best", "--json").stdout
    assert lines == _call(("lineage",), storage, "--member", "1", "--json").stdout


@pytest.mark.parametrize("commits", range(1, 10))
def test_the_best_is_the_one_of_the_live_table(tmp_path: Path, commits: int) -> None:
    """At any time, whichever way is good."""
    run = load(ledgers.tell(tmp_path / "run", commits))
    for mode in ("min", "max"):
        info = {**run.run.info, "objective": {**run.run.info["objective"], "mode": mode}}
        result = Result(dataclasses.replace(run.run, info=info))
        best = population_of(result).best
        assert json.loads(provenance.lineage_json(result))["best"] == (best.member if best else None)


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        (("why", "9"), "MEMBER: the sweep has no member 9. Its members are 0 to 5."),
        (("ancestors", "9"), "Its members are 0 to 5."),
        (("descendants", "1:4"), "MEMBER: member 1 has no segment 4. Its segments are 1:0 to 1:3."),
        (("schedule", "x"), "MEMBER: 'x' names no member. Write its number (3), or a segment of it (3:5)."),
        (("diff", "1", "9"), "Its members are 0 to 5."),
        (("lineage", "--member", "9"), "Its members are 0 to 5."),
    ],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_unknown_member_is_one_line(
    storage: Path, verb: tuple[str, ...], says: str, options: tuple[str, ...]
) -> None:
    """Exit code 2, and those there are."""
    outcome = _call(verb, storage, *options)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("pbt: MEMBER: ")
    assert outcome.stderr.rstrip("\n").endswith(says)
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_run_is_one_line(storage: Path, verb: tuple[str, ...]) -> None:
    outcome = _call(verb, storage, run="nothing")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("pbt: RUN: no run 'nothing'")
    assert len(outcome.stderr.splitlines()) == 1


def test_a_damaged_lineage_is_one_line(tmp_path: Path) -> None:
    """No endless loop, no traceback."""
    ledgers.run_json(tmp_path / "run", members=1, generations=1, steps=1)
    ledger = Ledger(tmp_path / "run", ledgers.Clock())
    row = {"hparams": canonical({}), "seed": 1, "generation": 0, "start": "own", "age_start": 0, "consumed_start": 0}
    ledger.append("segments", member=0, segment=0, parent_member=0, parent_segment=0, **row)
    ledger.close(finished=False)
    outcome = _call(("why", "0"), tmp_path, run="run")
    assert outcome.exit_code == 2
    assert outcome.stderr == "pbt: segment 0:0 descends from itself. Restore the ledger from a backup.\n"

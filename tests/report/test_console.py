"""What a person sees in the terminal: live, as plain lines, and afterwards with `pbt show`."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pbt.member import SegmentKey
from pbt.record.ledger import Ledger, LedgerReader, Tail
from pbt.record.result import Result, load
from pbt.record.runs import open_run
from pbt.report.console import Progress
from pbt.report.show import as_json, show, show_list
from tests import ledgers


def _plain(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width)


def _live(width: int = 120, height: int = 40) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system="truecolor")


def _printed(console: Console) -> str:
    """What was printed, without colours and cursor movements."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def _told(run: Path, console: Console, now: float = ledgers.CREATED + 100) -> str:
    """What `Progress` prints of a ledger read at once."""
    with Progress(load(run).run.info, console, clock=lambda: now) as progress:
        progress.update(Tail(LedgerReader(run)).poll())
    return _printed(console)


# ----------------------------------------------------------------------------------------------------- plain lines


def test_without_a_terminal_a_sweep_is_a_line_for_each_generation(tmp_path: Path) -> None:
    assert _told(ledgers.tell(tmp_path / "made-up-1"), _plain(width=60)).splitlines() == [
        "made-up-1: language under pbt, 6 members x 4 generations of 100 steps; "
        "validation bits_per_byte, lower is better",
        "generation 1/4  best 2.0000 (member 0)  median 2.2000  then 2 exploits  1 diverged  0:30",
        "member 3 failed after 140 steps: out of memory on cuda:0",
        "generation 2/4  best 1.6000 (member 5)  median 1.9500  0 exploits  1 considered and kept  1:01",
        "generation 3/4  best 1.5000 (member 5)  median 1.8500  then 1 exploit  1:31",
        "generation 4/4  best 1.3000 (member 1)  median 1.6500  0 exploits  2:01",
        "made-up-1 finished after 2:01: best is member 1, bits_per_byte 1.3000; 3 exploits, 1 diverged, 1 failure",
    ]


def test_following_a_sweep_prints_each_line_once_and_in_time(tmp_path: Path) -> None:
    run, console = tmp_path / "made-up-1", _plain()
    story = ledgers.story(run)
    next(story)
    tail, lines = Tail(LedgerReader(run)), []
    with Progress(load(run).run.info, console) as progress:
        for _ in story:
            progress.update(tail.poll())
            progress.update([])
            lines.append(len(_printed(console).splitlines()))
    assert lines == [1, 2, 3, 4, 4, 5, 6, 6]
    assert _printed(console) == _told(run, _plain())


def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path) -> None:
    last = _told(ledgers.tell(tmp_path / "run", commits=5), _plain()).splitlines()[-1]
    assert last == "run is unfinished after 1:01: 58% trained, 2 exploits, 1 diverged, 1 failure"


def test_markup_in_names_is_printed_as_it_is(tmp_path: Path) -> None:
    run = ledgers.tell(tmp_path / "run", commits=4)
    rows = Tail(LedgerReader(run)).poll()
    for _, row in rows:
        if row.get("status") == "failed":
            row["reason"] = "[red]no[/nothing] such device"
    console = _plain()
    with Progress(load(run).run.info, console) as progress:
        progress.update(rows)
    assert "[red]no[/nothing] such device" in _printed(console)


def test_a_quiet_console_stays_quiet(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), quiet=True, force_terminal=True)
    assert _told(ledgers.tell(tmp_path / "run"), console) == ""


# ------------------------------------------------------------------------------------------------------ live table


def test_on_a_terminal_the_best_member_comes_first_and_is_marked(tmp_path: Path) -> None:
    console = _live()
    shown = _told(ledgers.tell(tmp_path / "run", commits=5), console)
    rows = [line for line in shown.splitlines() if "running" in line]
    best = "* 5 200 1.6000 0.002 adamw yes books 25% web 75% running gen 2 <- member 0"
    assert " ".join(rows[0].split()) == best
    assert [row.split()[0] for row in rows[1:5]] == ["0", "1", "2", "4"]
    assert "\x1b[1;32m" in console.file.getvalue(), "the best stands out in bold green"  # type: ignore[attr-defined]


def test_the_bar_tells_generation_share_and_time_left(tmp_path: Path) -> None:
    """58 % in 100 s leaves about 71 s."""
    shown = _told(ledgers.tell(tmp_path / "run", commits=5), _live())
    assert re.search(r"generation 3/4 .* 58% +1:40 elapsed, about 1:11 left", shown)


def test_a_finished_sweep_has_nothing_left(tmp_path: Path) -> None:
    shown = _told(ledgers.tell(tmp_path / "run"), _live(), now=ledgers.CREATED + 9_999)
    assert "100% 2:01 elapsed" in shown
    assert "left" not in shown


def test_a_population_too_tall_for_the_terminal_shows_the_best(tmp_path: Path) -> None:
    run = ledgers.simulate(tmp_path / "run", members=64, generations=3)
    shown = _told(run, _live(height=20)).rsplit("\r", 1)[-1]
    assert "53 members more, with worse scores" in shown
    assert max(len(line) for line in shown.splitlines()) <= 120


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (110, None),
        (92, "last exploit"),
        (80, "last exploit, age"),
        (70, "mix, last exploit, age"),
        (50, "nesterov, mix, last exploit, age"),
    ],
)
def test_what_tells_less_makes_room_for_hyperparameters(tmp_path: Path, width: int, left_out: str | None) -> None:
    """While a sweep runs, and afterwards; what is not shown is named."""
    console, run = _plain(width), ledgers.tell(tmp_path / "run")
    show(load(run), console)
    for shown in (_told(run, _live(width)), _printed(console)):
        named = {" ".join(words.split()) for words in re.findall(r"not shown: ([^\r\n]*)", shown)}
        assert named == (set() if left_out is None else {left_out})
        assert max(len(line.rstrip()) for line in shown.splitlines() if " ended" in line) <= width
        assert "0.012" in shown


def test_a_hyperparameter_too_long_for_the_terminal_takes_several_lines(tmp_path: Path) -> None:
    """One is shown in any case, to its end."""
    run = ledgers.tell(tmp_path / "run")
    info, console = json.loads((run / "run.json").read_text()), _plain(40)
    info["hparams"] = {"mix": info["hparams"]["mix"]}
    (run / "run.json").write_text(json.dumps(info))
    show(load(run), console)
    members = _printed(console).partition("Members")[2].partition("not shown: last exploit, age")[0]
    assert members.count("25%") == members.count("75%") == 6
    assert max(len(line) for line in members.splitlines()) <= 40


def test_failures_are_told_once_above_the_table(tmp_path: Path) -> None:
    run, console = ledgers.tell(tmp_path / "run"), _live()
    with Progress(load(run).run.info, console, clock=lambda: 0.0) as progress:
        progress.update(Tail(LedgerReader(run)).poll())
        progress.update([])
    assert _printed(console).count(ledgers.FAILURE) == 1


def test_members_that_fail_alike_are_told_together(tmp_path: Path) -> None:
    """While the sweep runs, and afterwards."""
    run, console, after = tmp_path / "run", _plain(), _plain(width=120)
    ledgers.run_json(run, members=4, generations=2, steps=ledgers.STEPS)
    pen = ledgers.Pen(Ledger(run), ledgers.Clock())
    for member in range(4):
        pen.begin(member, 0, ledgers.hparams(member))
    pen.settle()
    for member, reason in enumerate(["no such layer", "no such layer", "out of memory", "no such layer"]):
        pen.fail(member, 0, after=1, reason=reason)
    pen.ledger.close(finished=False)
    show(load(run), after)
    assert _told(run, console).splitlines()[1:3] == [
        "members 0, 1 and 3 failed after 1 step: no such layer",
        "member 2 failed after 1 step: out of memory",
    ]
    assert re.findall(r"^(members? \d.*?) {2,}(failed: .*?) *$", _printed(after), re.M) == [
        ("members 0, 1 and 3", "failed: no such layer"),
        ("member 2", "failed: out of memory"),
    ]


def test_plain_lines_give_a_sign_of_life_after_a_minute_without_news(tmp_path: Path) -> None:
    """Not on a terminal, where a clock is moving."""
    run, now = ledgers.tell(tmp_path / "run", commits=2), SimpleNamespace(s=0.0)
    tail, plain, live = Tail(LedgerReader(run)), _plain(), _live()
    with (
        Progress(load(run).run.info, plain, clock=lambda: ledgers.CREATED + now.s) as progress,
        Progress(load(run).run.info, live, clock=lambda: ledgers.CREATED + now.s) as table,
    ):
        news = {100.0: list(tail.poll())}
        for now.s in (59.0, 60.0, 61.0, 100.0, 159.0, 160.0):
            rows = news.get(now.s, [])
            progress.update(rows)
            table.update(rows)
    assert [line for line in _printed(plain).splitlines() if "elapsed" in line] == [
        "0% trained, 1:00 elapsed",
        "25% trained, 2:39 elapsed, about 7:57 left",
    ]
    assert "trained, 2:39" not in _printed(live)


def test_a_lost_host_is_told_once_however_many_stacks_it_had(tmp_path: Path) -> None:
    """While the sweep runs, and afterwards."""
    run, console, after = tmp_path / "run", _plain(), _plain()
    ledgers.run_json(run, members=2, generations=2, steps=10)
    ledger = Ledger(run)
    for stack in (0, 1):
        ledger.append("incidents", kind="host_lost", stack=stack, message="host 0: its node was lost")
    ledger.close(finished=False)
    show(load(run), after)
    assert 1 == _told(run, console).count("Host 0: its node was lost")
    assert 1 == _printed(after).count("host 0: its node was lost")


# ------------------------------------------------------------------------------------------------------------ show


def test_show_prints_summary_members_schedule_exploits_and_files(tmp_path: Path) -> None:
    console = _plain(width=120)
    show(load(ledgers.tell(tmp_path / "made-up-1")), console)
    shown = [" ".join(line.split()) for line in _printed(console).splitlines()]
    assert "best member 1, validation 1.3000, test 1.3500" in shown
    assert "objective validation bits_per_byte [bits/byte], lower is better" in shown
    assert "exploits 3, 1 considered and kept" in shown
    assert "member 3 failed: out of memory on cuda:0" in shown
    assert "* 1 400 1.3000 0.012 sgd no books 25% web 75% ended gen 4 <- member 5" in shown
    assert "100 300 member 5 0.002 adamw yes books 25% web 75%" in shown
    assert "4 1 1.9000 5 1.5000 0.002 -> 0.012 adamw -> sgd" in shown
    assert any(line.startswith(f"{tmp_path}/made-up-1/ledger") for line in shown)


@pytest.mark.parametrize(
    ("commits", "members", "says"),
    [(2, [4], "1 segment (4:0), the last of member 4 among them"), (None, [], "1 segment (4:0)")],
)
def test_what_diverged_is_told(tmp_path: Path, commits: int | None, members: list[int], says: str) -> None:
    """Also once the member has been given other weights; no score is shown as nan."""
    console = _plain(width=120)
    run = ledgers.tell(tmp_path / "run", commits) if commits else ledgers.tell(tmp_path / "run")
    show(load(run), console)
    assert re.findall(r"^diverged {2,}(.*?) *$", _printed(console), re.M) == [says]
    assert json.loads(as_json(load(run)))["summary"]["diverged"] == {"segments": ["4:0"], "members": members}
    assert " nan " not in _printed(console)


def test_one_is_no_plural(tmp_path: Path) -> None:
    console = _plain(width=120)
    show(load(ledgers.simulate(tmp_path / "run", members=1, generations=1, steps=1)), console)
    assert re.search(r"^budget +1 member x 1 generation x 1 step *$", _printed(console), re.M)


def test_a_run_in_which_nothing_diverged_has_no_line_for_it(tmp_path: Path) -> None:
    console = _plain(width=120)
    run = ledgers.simulate(tmp_path / "run", members=4, generations=2, diverges=False)
    show(load(run), console)
    assert "diverged" not in _printed(console)
    assert json.loads(as_json(load(run)))["summary"]["diverged"] == {"segments": [], "members": []}


def _measured(run: Path, device: str, **used: float) -> Result:
    """A stack trains two members side by side, 500 tokens/s each; then one after the other, 700 tokens/s."""
    ledgers.run_json(run, members=2, generations=2, steps=10)
    info = json.loads((run / "run.json").read_text()) | {"device": device}
    (run / "run.json").write_text(json.dumps(info))
    ledger = Ledger(run)
    pen = ledgers.Pen(ledger, ledgers.Clock(), stacks=1)
    for number, turn in enumerate([[(0, 0), (1, 0)], [(0, 1)], [(1, 1)]]):
        for member, generation in turn:
            pen.begin(member, generation, ledgers.hparams(member))
            pen.latest[member] = SegmentKey(member, generation)
        ledger.append("orders", order=f"o{number}", stack=0, kind="work", segments=json.dumps(turn))
        for key in turn:
            known = {"tokens_per_s": 700.0 if number else 500.0, "memory_bytes": 2e6, "peak_memory_bytes": 3e9 + key[0]}
            _end(ledger, *key, known | ({"mfu": 0.25} if used else {}), used)
    ledger.append("usage", session=1, joules=used.get("joules"))
    ledger.close(finished=False)
    return load(run)


def test_plans_are_shown_once_for_stacks_that_are_alike(tmp_path: Path) -> None:
    ledgers.run_json(tmp_path / "run", members=2, generations=2, steps=10)
    ledger = Ledger(tmp_path / "run")
    for stack, chunk in ((0, 4), (1, 4), (2, 2)):
        data = json.dumps({"stack": stack, "plan": {"chunk": chunk, "compiled": False}})
        ledger.append("decisions", kind="plan", reason=f"stack {stack}: {chunk} members train together", data=data)
    ledger.close(finished=False)
    result = load(tmp_path / "run")
    summary = json.loads(as_json(result))["summary"]
    assert [(plan["stacks"], plan["plan"]["chunk"]) for plan in summary["plans"]] == [([0, 1], 4), ([2], 2)]
    out = io.StringIO()
    show(result, Console(file=out, width=200))
    assert "stacks 0, 1: 4 members train together\n" in re.sub(" +\n", "\n", out.getvalue())
    assert "stack 2: 2 members train together\n" in re.sub(" +\n", "\n", out.getvalue())


@pytest.mark.parametrize(
    ("ranks", "says"),
    [([2, 2], ", 2 processes share a member"), ([2, 1], ", 2, then 1 processes share a member"), ([1, 1], "")],
)
def test_the_place_of_a_gang_says_how_many_share_a_member(tmp_path: Path, ranks: list[int], says: str) -> None:
    """In one session after another."""
    ledgers.run_json(tmp_path / "run", members=2, generations=2, steps=10)
    ledger = Ledger(tmp_path / "run")
    for session, number in enumerate(ranks, start=1):
        spec = json.dumps({"hosts": {"ranks": number}})
        ledger.append("sessions", session=session, reason="start" if session == 1 else "resume", spec=spec)
    ledger.append("stacks", session=1, stack=0, capacity=1, device="cuda", dtype="float32", compile="auto")
    ledger.close(finished=False)
    console = _plain(width=120)
    show(load(tmp_path / "run"), console)
    assert f"cuda, float32, compile auto{says}\n" in re.sub(" +\n", "\n", _printed(console))


def _end(ledger: Ledger, member: int, segment: int, system: dict[str, float], used: dict[str, float]) -> None:
    key = {"member": member, "segment": segment}
    for name, value in system.items():
        ledger.append("metrics", split="system", name=name, value=value, age=10, consumed=10, **key)
    ended = {"status": "ended", "hparams_in_effect": "{}", "age_end": 10, "consumed_end": 10, "score": 1.0}
    ledger.append("outcomes", wall_s=2.0, tokens=1000, **ended, **key, **used)


def _system_lines(result: Result) -> dict[str, str]:
    console = _plain(width=120)
    show(result, console)
    lines = [line.split(maxsplit=1) for line in _printed(console).splitlines()]
    return {line[0]: line[1].strip() for line in lines if line and line[0] in ("speed", "memory", "energy")}


def test_speed_memory_and_energy_are_shown(tmp_path: Path) -> None:
    result = _measured(tmp_path / "run", "cuda", flops=6e9, joules=80.0)
    assert _system_lines(result) == {
        "speed": "700 tokens/s, MFU 25.0%, while training",
        "memory": "2.0 MB a member, the process at most 3.0 GB of a GPU",
        "energy": "80 joules",
    }


@pytest.mark.parametrize(
    ("device", "flops", "speed", "energy"),
    [
        ("cpu", 6e9, "a CPU has no published peak", "the CPU's counters (RAPL) cannot be read"),
        ("cpu", None, "the FLOPs of a step are not known", "the CPU's counters (RAPL) cannot be read"),
        ("cuda:1", 6e9, "the peak of this device is not on file", "see Speed, memory and energy in docs/guide.md"),
    ],
)
def test_what_is_not_known_of_speed_and_energy_is_told_with_its_reason(
    tmp_path: Path, device: str, flops: float | None, speed: str, energy: str
) -> None:
    result = _measured(tmp_path / "run", device)
    for row in result.rows["outcomes"]:
        row["flops"] = flops
    said = _system_lines(result)
    assert said["speed"] == f"700 tokens/s, while training (no MFU: {speed})"
    assert said["energy"] == f"not measured: {energy}"


def test_speed_memory_and_energy_are_in_the_json(tmp_path: Path) -> None:
    facts = json.loads(as_json(_measured(tmp_path / "run", "cuda", flops=6e9, joules=80.0)))
    assert facts["summary"]["system"] == {
        "device": "cuda",
        "tokens_per_s": 700.0,
        "stacks_at_once": 1.0,
        "mfu": 0.25,
        "stacks": [{"stack": 0, "tokens_per_s": 700.0, "mfu": 0.25}],
        "flops": 24e9,
        "member_bytes": 2e6,
        "peak_memory_bytes": 3e9 + 1,
        "joules": 80.0,
    }
    (own, _) = sorted(facts["members"], key=lambda row: row["member"])
    assert (own["flops"], own["joules"]) == (12e9, 160.0)
    assert own["system"] == {"tokens_per_s": 700.0, "mfu": 0.25, "memory_bytes": 2e6, "peak_memory_bytes": 3e9}


def test_a_live_table_ends_with_the_speed(tmp_path: Path) -> None:
    """That of the latest segments, while the sweep runs; then the one that `pbt show` tells."""
    result = _measured(tmp_path / "run", "cuda", flops=6e9)
    assert "700 tokens/s, MFU 25.0% in the latest segments" in _told(result.path, _live()).rsplit("\r", 1)[-1]


def test_the_speed_of_a_sweep_that_has_ended_is_the_one_of_show(tmp_path: Path) -> None:
    """The median, though the latest segments were slower."""
    run = ledgers.run_json(tmp_path / "run", members=1, generations=3, steps=10)
    ledger = Ledger(run)
    pen = ledgers.Pen(ledger, ledgers.Clock(), stacks=1)
    for generation, speed in enumerate((700.0, 700.0, 500.0)):
        pen.begin(0, generation, ledgers.hparams(0))
        pen.settle()
        ledger.append("orders", order=f"o{generation}", stack=0, kind="work", segments=json.dumps([[0, generation]]))
        _end(ledger, 0, generation, {"tokens_per_s": speed}, {})
    ledger.commit()
    assert "500 tokens/s in the latest segments" in _told(run, _live())
    ledger.append("decisions", kind="finish", member=0, reason="budget spent")
    ledger.close(finished=True)
    assert "700 tokens/s, while training" in _told(run, _live()).rsplit("\r", 1)[-1]
    assert _system_lines(load(run))["speed"].startswith("700 tokens/s, while training")


def test_a_run_without_measurements_has_no_lines_for_them(tmp_path: Path) -> None:
    assert _system_lines(load(ledgers.tell(tmp_path / "run"))) == {}


def test_the_same_facts_come_as_strict_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    facts = json.loads(as_json(load(ledgers.tell(tmp_path / "run", commits=2))), parse_constant=refuse)
    assert facts["summary"]["status"] == "unfinished"
    assert facts["summary"]["best_member"] == 0
    assert [row["score"] for row in facts["members"] if row["member"] == 4] == [None]


def test_json_has_the_whole_story(tmp_path: Path) -> None:
    facts = json.loads(as_json(load(ledgers.tell(tmp_path / "run"))))
    assert [row["member"] for row in facts["members"]] == [1, 5, 0, 4, 2, 3]
    assert [(row["generation"], row["best"]) for row in facts["generations"]] == [
        (0, 2.0),
        (1, 1.6),
        (2, 1.5),
        (3, 1.3),
    ]
    schedule = [(step["age_start"], step["age_end"], step["member"]) for step in facts["schedule"]]
    assert schedule == [(0, 100, 0), (100, 300, 5), (300, 400, 1)]
    assert facts["exploits"][-1]["changed"] == {"lr": [0.002, 0.012], "optimizer": ["adamw", "sgd"]}
    assert facts["summary"]["member_steps"] == 5 * 400 + 140
    assert facts["summary"]["best_metrics"]["test/bits_per_byte"] == 1.35


def test_a_list_tells_runs_apart(tmp_path: Path) -> None:
    runs = [ledgers.tell(tmp_path / "done"), ledgers.tell(tmp_path / "half", commits=5)]
    runs.append(ledgers.run_json(tmp_path / "bare", members=2, generations=2, steps=2))
    console = _plain(width=120)
    show_list([open_run(run) for run in runs], tmp_path, console=console)
    shown = [" ".join(line.split()) for line in _printed(console).splitlines()]
    assert "done finished 6 x 4 x 100 1.3000 1" in shown
    assert "half unfinished 6 x 4 x 100 1.6000 5" in shown
    assert "bare empty 2 x 2 x 2 - -" in shown


def test_a_list_of_nothing_says_how_to_begin(tmp_path: Path) -> None:
    console = _plain()
    show_list([], tmp_path, console=console)
    assert "Start one with `pbt demo`" in _printed(console)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_tables_fit_the_terminal(tmp_path: Path, width: int) -> None:
    console = _plain(width)
    show(load(ledgers.simulate(tmp_path / "run", members=8, generations=3)), console)
    tables = _printed(console).split("Files")[0].splitlines()
    assert max(len(line) for line in tables) <= width

"""Replays of schedules that a population found, and winners handed over: end to end, in this process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from click.testing import CliRunner

import pbt
from pbt import PBT, Budget, Fixed, Hosts, Result, Sweep
from pbt.cli import main
from pbt.errors import LedgerError, SpecError, StorageError
from pbt.lineage import MemberNotFound
from pbt.population import IPBT
from pbt.population.replay import Replay, replay_seed
from pbt.record.validity import violations
from pbt.report.comparison import Comparison, compare, margin
from searchspaces import Choice, Float
from trainables import Language, Place, Quadratic, State

SPACE = {"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)}


def sweep(storage: Path, strategy: Any = None, **changes: Any) -> Sweep:
    """Four members of the paper's toy."""
    fields: dict[str, Any] = {"seed": 0, "budget": Budget(members=4, generations=4, steps=10), "space": SPACE} | changes
    return Sweep(
        name="toy",
        trainable=Quadratic(),
        objective="Q",
        strategy=strategy or PBT(quantile=0.25),
        hosts=Hosts(kind="local", stacks=1),
        storage=storage,
        tracking=False,
        **fields,
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run whose winner changed hyperparameters."""
    found = sweep(tmp_path_factory.mktemp("toy")).run(progress=False)
    assert len({str(step.hparams) for step in found.best.schedule}) > 1, "nothing to replay"
    return found


@pytest.fixture(scope="module")
def replayed(toy: Result) -> Comparison:
    """Its winner's schedule, replayed."""
    return pbt.replay(toy, seeds=3, stacks=1, progress=False)


def cli(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# --- what is compared


def test_a_schedule_is_replayed_beside_what_it_has_to_beat(toy: Result, replayed: Comparison) -> None:
    """Three arms in one sweep: the winner's schedule to the last bit, a fixed sweep's winner, and random search."""
    lineage, names = replayed.result.lineage, ["the schedule", "the best fixed configuration", "random search"]
    assert names == [arm.name for arm in replayed.arms]
    assert 9 == len(lineage.members)
    expected = [(step.age_start, step.age_end, step.hparams) for step in toy.lineage.schedule(toy.best.member)]
    merged = [step for place, step in enumerate(expected) if place == 0 or step[2] != expected[place - 1][2]]
    for member in range(3):
        own = [(step.age_start, step.hparams) for step in lineage.schedule(member)]
        assert [(start, hparams) for start, _, hparams in merged] == own
    (fixed,) = (pbt.load(path) for path in toy.path.parent.glob("toy-fixed-*"))
    assert [fixed.best.hparams] == [step.hparams for step in lineage.schedule(3)]
    began = [[(own[0].hparams, own[0].seed) for own in map(run.lineage.of, range(4))] for run in (toy, fixed)]
    assert began[0] == began[1]
    for run in (replayed.result, fixed):
        kept = run.path / "checkpoints"
        assert [] == violations(run.rows, lambda digest, kept=kept: (kept / f"{digest}.json").exists())
    drawn = [lineage.of(member)[0].hparams["lr"] for member in (6, 7, 8)]
    assert 3 == len(set(drawn))
    assert {40} == {lineage.last(member).age[1] for member in lineage.members}
    assert {"replay"} == {replayed.result.run.info["spec"]["strategy"]["name"]}


def test_members_with_the_same_seed_are_paired(replayed: Comparison) -> None:
    """The k-th of every arm has the k-th seed, and no member of a population has it."""
    seeds = [replayed.result.lineage.of(member)[0].seed for member in range(9)]
    assert [replay_seed(0, k) for k in range(3)] * 3 == seeds
    assert tuple(seeds[:3]) == replayed.seeds


def test_the_toy_replays_to_the_winners_own_score(toy: Result, replayed: Comparison) -> None:
    """It begins at the same place whatever the seed, so the schedule alone decides, and all pairs differ alike."""
    assert (toy.best.score,) * 3 == replayed.arms[0].scores
    fixed, random = replayed.differences
    assert ("better", 0.0, 3) == (fixed.verdict, fixed.margin, fixed.wins)
    assert "with every seed: the 3 pairs differ alike" in replayed.sentences[0]
    assert margin(random.ahead) == random.margin


def test_a_replay_is_read_again_and_goes_on_where_it_was_stopped(
    toy: Result, replayed: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the ledger alone: the same decisions, the same scores."""
    again = pbt.replay(pbt.load(replayed.result.path))
    assert (replayed.arms, replayed.differences) == (again.arms, again.differences)
    (fixed,) = toy.path.parent.glob("toy-fixed-*")
    with monkeypatch.context() as stopped:
        stopped.setattr("pbt.launch.is_asked_to_stop", lambda run: True)
        with pytest.raises(KeyboardInterrupt):
            pbt.replay(toy, seeds=3, stacks=1, baseline=pbt.load(fixed), progress=False)
    (rest,) = (run for run in toy.path.parent.glob("toy-replay-*") if not pbt.load(run).finished)
    resumed = pbt.replay(pbt.load(rest), progress=False)
    assert resumed.result.digest() == replayed.result.digest()
    assert (replayed.arms, replayed.differences) == (resumed.arms, resumed.differences)


def test_a_baseline_that_was_stopped_says_how_to_go_on(
    toy: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a run like any other; the replay has not begun."""
    run = pbt.load(shutil.copytree(toy.path, tmp_path / "toy"))
    monkeypatch.setattr("pbt.launch.is_asked_to_stop", lambda run: True)
    with pytest.raises(KeyboardInterrupt, match=r"pbt resume .*toy-fixed-.* Then `pbt replay .*toy --baseline`"):
        pbt.replay(run, seeds=1, progress=False)
    assert not list(tmp_path.glob("toy-replay-*"))


def test_a_member_in_the_midst_of_its_life_is_replayed_as_far(toy: Result) -> None:
    """Everybody trains as long as the path is."""
    (fixed,) = toy.path.parent.glob("toy-fixed-*")
    found = pbt.replay(toy, member="1:1", seeds=1, stacks=1, baseline=pbt.load(fixed), progress=False)
    assert {20} == {found.result.lineage.last(member).age[1] for member in range(3)}
    assert {"unknown"} == {lead.verdict for lead in found.differences}
    assert "Nothing is shown" in found.sentences[0]
    assert "one seed gives no interval" in found.sentences[0]


def test_conditional_hyperparameters_and_odd_ends(tmp_path: Path) -> None:
    """Records name all hyperparameters, also inactive ones; a run cut short ends in the midst of a generation."""
    space = {"h0": Choice([0.25, 0.5]), "h1": Float(0.0, 1.0, when={"h0": 0.5}), "lr": Float(1e-3, 1e-1, log=True)}
    run = sweep(tmp_path, space=space, budget=Budget(members=4, generations=4, steps=10, tokens=120)).run(
        progress=False
    )
    assert 30 == run.best.schedule[-1].age_end
    found = pbt.replay(run, seeds=2, stacks=1, progress=False)
    assert {30} == {found.result.lineage.last(member).age[1] for member in range(6)}
    (fixed,) = (pbt.load(path) for path in tmp_path.glob("toy-fixed-*"))
    assert 120 == sum(row["tokens"] for row in fixed.rows["outcomes"])


@pytest.mark.full
def test_an_extended_asynchronous_run_is_replayed(tmp_path: Path) -> None:
    """Its population is the one on record, though the space is wider now than when the first were drawn."""
    run = sweep(tmp_path, PBT(quantile=0.25, synchronous=False)).run(progress=False)
    run = pbt.extend(run.path, members=5, generations=5, space=SPACE | {"h0": Float(0.0, 2.0)}, progress=False)
    found = pbt.replay(run, seeds=2, stacks=2, progress=False)
    (fixed,) = (pbt.load(path) for path in tmp_path.glob("toy-fixed-*"))
    own, other = ([result.lineage.of(member)[0].hparams for member in range(5)] for result in (run, fixed))
    assert own == other
    assert {50} == {fixed.lineage.last(member).age[1] for member in range(5)}
    assert {run.best.schedule[-1].age_end} == {found.result.lineage.last(member).age[1] for member in range(6)}


def test_a_fixed_run_is_its_own_baseline(tmp_path: Path) -> None:
    """Both arms are one and the same, and that is what is said."""
    found = pbt.replay(sweep(tmp_path, Fixed()).run(progress=False), seeds=2, stacks=1, progress=False)
    assert not list(tmp_path.glob("toy-fixed-*"))
    assert "equal" == found.differences[0].verdict
    assert "they score the same with every seed" in found.sentences[0]


# --- bad input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "seeds: 0 is not a whole number of at least 1. Write 5"),
        ({"seeds": 2, "stacks": 7}, "stacks: 7 is not a whole number of at least 1 and at most 6. Write 6"),
        ({"stacks": 0}, "stacks: 0 is not a whole number of at least 1 and at most 15. Write 15"),
        ({"seeds": True}, "seeds: True is not"),
        ({"member": 9}, "MEMBER: the sweep has no member 9. Its members are 0 to 3."),
        ({"member": "1:9"}, "MEMBER: member 1 has no segment 9. Its segments are 1:0 to 1:3."),
    ],
)
def test_bad_input_is_refused_before_anything_starts(toy: Result, given: dict[str, Any], message: str) -> None:
    """With what is wrong and the mend."""
    before = sorted(toy.path.parent.iterdir())
    with pytest.raises((SpecError, MemberNotFound)) as raised:
        pbt.replay(toy, progress=False, **given)
    assert str(raised.value).startswith(message)
    assert before == sorted(toy.path.parent.iterdir())


def test_a_baseline_of_another_population_is_refused(toy: Result, replayed: Comparison, tmp_path: Path) -> None:
    """Of others, under another strategy, or another length: the comparison would be of something else."""
    other = sweep(tmp_path, Fixed(), seed=1).run(progress=False)
    longer = sweep(tmp_path, Fixed(), budget=Budget(members=4, generations=5, steps=10)).run(progress=False)
    for baseline, why in (
        (other, "another initial population"),
        (longer, "another number of member-steps"),
        (toy, "not fixed"),
    ):
        with pytest.raises(SpecError, match=rf"^baseline: .*{why}.*Leave it out"):
            pbt.replay(toy, baseline=baseline, progress=False)
    with pytest.raises(SpecError, match=r"^seeds: is given, but toy-replay-.* is a replay already"):
        pbt.replay(replayed.result, seeds=5)
    with pytest.raises(SpecError, match=r"^RUN: toy-.* is no replay"):
        compare(toy)


def test_a_run_without_a_winner_is_refused(tmp_path: Path) -> None:
    """Unless a member is named."""
    run = sweep(tmp_path, space={"lr": Float(1e6, 1e7, log=True)}).run(progress=False)
    for refused in (lambda: pbt.replay(run), lambda: pbt.export(run, tmp_path / "out")):
        with pytest.raises(LedgerError, match="has no winner: no member survived"):
            refused()
    assert not (tmp_path / "out").exists()


def test_a_replay_that_nobody_survives_says_so(tmp_path: Path) -> None:
    """Nothing is shown, and the exit code is that of a sweep without a winner."""
    arms = ({"name": "one"}, {"name": "other"})
    budget = Budget(members=4, generations=2, steps=10)
    run = sweep(tmp_path, Replay(arms=arms, seeds=2), space={"lr": Float(1e6, 1e7, log=True)}, budget=budget)
    told = cli("replay", run.run(progress=False).path)
    assert 1 == told.exit_code
    words = " ".join(told.stdout.split())
    assert "Nothing is shown about one and other: 2 of 2 of one and 2 of 2 of other diverged or failed" in words
    assert "no member survived" in told.stderr


# --- the command line


def test_the_command_line_tells_what_is_shown(toy: Result, replayed: Comparison) -> None:
    """As text, and the same facts as JSON; exit codes as everywhere."""
    path = replayed.result.path
    told = cli("replay", path)
    assert 0 == told.exit_code, told.output
    assert "The schedule is better than the best fixed configuration by" in " ".join(told.stdout.split())
    assert "Nothing is compared on the test split" in told.stdout
    facts = json.loads(cli("replay", path, "--json").stdout)
    assert [list(arm.scores) for arm in replayed.arms] == [arm["scores"] for arm in facts["arms"]]
    assert list(replayed.seeds) == facts["seeds"]
    assert ["better", None] == [facts["differences"][0]["verdict"], facts["test"]]
    for arguments in (
        ("replay", toy.path, "--seeds", "0"),
        ("replay", "nothing"),
        ("replay", toy.path, "--member", "9"),
    ):
        refused = cli(*arguments)
        assert 2 == refused.exit_code
        assert 1 == len(refused.stderr.strip().splitlines()), refused.stderr


def test_schedules_of_ones_own_stand_in_a_sweep_file(tmp_path: Path) -> None:
    """They are trained like any sweep, and the first is compared with the others."""
    file = tmp_path / "sweep.yaml"
    file.write_text(
        """
        name: mine
        trainable: {name: quadratic}
        space: {lr: {type: float, low: 0.001, high: 0.1, log: true}}
        strategy:
          name: replay
          options:
            seeds: 2
            arms:
              - {name: warm, schedule: [[0, {lr: 0.05}], [10, {lr: 0.02}]]}
              - {name: flat, schedule: [[0, {lr: 0.01}]]}
              - {name: random}
        objective: {metric: Q}
        budget: {members: 6, generations: 3, steps: 10}
        hosts: {kind: local, stacks: 1}
        tracking: {enabled: false}
        """
    )
    assert 0 == cli("run", file, "--storage", tmp_path / "runs").exit_code
    facts = json.loads(cli("replay", "latest", "--storage", tmp_path / "runs", "--json").stdout)
    assert ["warm", "flat", "random"] == [arm["name"] for arm in facts["arms"]]
    assert facts["sentences"][0].startswith("Warm is better than flat by ")
    file.write_text(file.read_text().replace("lr: 0.02", "lr: 0.2"))
    refused = cli("run", file, "--storage", tmp_path / "runs")
    assert 2 == refused.exit_code
    assert "strategy.options.arms[0].schedule[1]: is not in the space. lr=0.2" in refused.stderr


def test_the_command_line_replays(toy: Result, replayed: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a run's folder to JSON, with the fixed sweep that is there."""
    (fixed,) = toy.path.parent.glob("toy-fixed-*")
    done = cli("replay", toy.path, "--seeds", 3, "--stacks", 1, "--baseline", fixed, "--local", "--json")
    assert 0 == done.exit_code, done.output
    facts = json.loads(done.stdout)
    assert [list(arm.scores) for arm in replayed.arms] == [arm["scores"] for arm in facts["arms"]]


# --- a winner handed over


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Four tiny language models."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 500)
    return Sweep(
        name="words",
        trainable=Language(
            width=16, depth=1, heads=2, context=16, batch=4, data=str(folder / "text.txt"), eval_bytes=1024
        ),
        space={"lr": Float(1e-3, 3e-2, log=True), "dropout": Float(0.0, 0.2)},
        objective="bits_per_byte",
        strategy=PBT(quantile=0.25),
        budget=Budget(members=4, generations=3, steps=10),
        hosts=Hosts(kind="local", stacks=1),
        storage=folder,
        tracking=False,
    ).run(progress=False)


def trained(folder: Path, *arguments: str | int) -> float:
    """The score that an exported script ends with."""
    root = Path(pbt.__file__).parents[1]
    outcome = subprocess.run(
        [sys.executable, str(folder / "train_winner.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "note: " not in outcome.stderr, outcome.stderr
    return float(outcome.stdout.split()[-1])


@pytest.mark.full
def test_the_script_gets_the_score_that_was_replayed(words: Result, tmp_path: Path) -> None:
    """With the replay's seed, trained alone in a process that knows nothing of pbt; and its weights are saved."""
    replayed = pbt.replay(words, seeds=2, stacks=1, progress=False)
    folder = pbt.export(words, tmp_path / "winner")
    for seed, score in zip(replayed.seeds, replayed.arms[0].scores, strict=True):
        # Alone, a member is rounded otherwise than in company.
        assert score == pytest.approx(trained(folder, "--seed", seed, "--save", "again.safetensors"), abs=1e-6)
    saved, exported = (
        safetensors.torch.load_file(folder / name) for name in ("again.safetensors", "weights.safetensors")
    )
    assert {name: it.shape for name, it in saved.items()} == {name: it.shape for name, it in exported.items()}


def test_what_is_exported_is_the_winner(words: Result, tmp_path: Path) -> None:
    """Its weights score as announced; beside them, how they came about."""
    folder, best = pbt.export(words, tmp_path / "winner"), words.best
    assert ["train_winner.py", "weights.safetensors", "winner.json"] == sorted(path.name for path in folder.iterdir())
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    assert not [name for name in weights if "adamw" in name or name.startswith("params.")]
    stack = Language(**words.run.info["spec"]["trainable"]["options"])
    built = stack.build(stack.bucket({}), 2, Place())
    built.admit(0, {}, 0)
    state = built.state(0)
    shards = [type(it).whole(it.name, weights.get(it.name.removeprefix("params."), it.tensor)) for it in state.shards]
    built.admit(0, {}, 0, State(tuple(shards), 30, 30, 0))
    for split in ("validation", "test"):
        score = built.evaluate(split, [0])["bits_per_byte"][0]
        assert best.metrics[f"{split}/bits_per_byte"] == pytest.approx(score, abs=1e-6)
    text = (folder / "train_winner.py").read_text()
    assert not re.search(r"import pbt|from pbt|pickle", text)
    assert {"__future__", "argparse", "sys", "torch", "trainables", "trainables.buckets", "safetensors.torch"} == set(
        re.findall(r"^ *(?:from|import) (\S+)", text, flags=re.MULTILINE)
    )
    facts = json.loads((folder / "winner.json").read_text())
    assert (best.score, best.member, True) == (facts["score"], facts["member"], facts["is_winner"])
    assert [step.hparams for step in best.schedule] == [step["hparams"] for step in facts["schedule"]]
    assert words.digest() == facts["digest"]
    assert words.run.info["data"]["sha256"] == facts["data"]["sha256"]
    assert "fresh" == facts["ancestry"][0]["start"]
    assert best.checkpoint is not None
    assert best.checkpoint.stem == facts["checkpoint"]


def test_the_toys_script_gets_the_winners_score_to_the_last_bit(toy: Result, tmp_path: Path) -> None:
    """It begins at the same place whatever the seed, and rounds alike alone and in company."""
    done = cli("export", toy.path, "-o", tmp_path / "winner", "--member", "best")
    assert 0 == done.exit_code, done.output
    assert toy.best.score == trained(tmp_path / "winner")


@pytest.mark.full
def test_weights_that_were_shrunk_are_shrunk_again(tmp_path: Path) -> None:
    """In a replay and in the script: the toy begins at the same place whatever the seed: the same bits."""
    strategy = IPBT(quantile=0.5, slow=2, growth=1, fresh_weights=0.0)
    run = sweep(tmp_path, strategy, seed=1, budget=Budget(members=4, generations=8, steps=10)).run(progress=False)
    member = next(it for it in run.lineage.members if any(step.shrink for step in run.lineage.schedule(it)))
    found = pbt.replay(run, member=member, seeds=2, stacks=1, progress=False)
    assert (run.lineage.last(member).score,) * 2 == found.arms[0].scores
    ages = [
        [step.age_start for step in it.schedule(who) if step.shrink]
        for it, who in ((run.lineage, member), (found.result.lineage, 0), (found.result.lineage, 1))
    ]
    assert ages[0] == ages[1] == ages[2] != []
    assert [] == violations(found.result.rows, lambda digest: True)
    folder = pbt.export(run, tmp_path / "found", member=member)
    assert run.lineage.last(member).score == trained(folder)
    told = [step.get("shrink") for step in json.loads((folder / "winner.json").read_text())["schedule"]]
    assert [step and asdict(step) for step in (it.shrink for it in run.lineage.schedule(member))] == told
    shown = cli("schedule", run.path, str(member)).output
    assert ", weights shrunk" in shown
    own = next(it for it in run.lineage.segments.values() if it.shrink and it.start == "own")
    words = " ".join(cli("why", run.path, str(own.key.member)).output.split())
    assert "went on from its own weights, shrunk and perturbed" in words
    assert "20 % of the weights of member" in words
    assert [] == violations(run.rows, lambda digest: True)


def test_an_export_holds_no_secret(words: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made to be taken elsewhere."""
    monkeypatch.setitem(words.run.info["spec"], "archive", "https://me:hunter2@host/data")
    folder = pbt.export(words, tmp_path / "winner")
    assert "hunter2" not in (folder / "winner.json").read_text() + (folder / "train_winner.py").read_text()


def test_exports_that_cannot_be(toy: Result, tmp_path: Path) -> None:
    """A folder that exists, one that has no place, a member that is none, weights that were not kept."""
    with pytest.raises(SpecError, match=r"^--output: .* exists. Name a folder that does not"):
        pbt.export(toy, tmp_path)
    with pytest.raises(StorageError, match="there is no folder"):
        pbt.export(toy, tmp_path / "nowhere" / "winner")
    with pytest.raises(MemberNotFound, match="no member 9"):
        pbt.export(toy, tmp_path / "winner", member=9)
    with pytest.raises(StorageError, match=r"weights of 0:0 are not saved. Name one of those that are: 0:3"):
        pbt.export(toy, tmp_path / "winner", member="0:0")
    assert not list(tmp_path.iterdir())
    assert 2 == cli("export", toy.path).exit_code
    assert 2 == cli("export", toy.path, "-o", tmp_path).exit_code

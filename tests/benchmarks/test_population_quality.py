"""How `benchmarks.population_quality` turns scores into verdicts, and its toys."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.population_quality import report, statistics
from benchmarks.population_quality.__main__ import main
from benchmarks.population_quality.outcome import Outcome, Stretch
from benchmarks.population_quality.record import outcomes, summary, without_nan
from benchmarks.population_quality.runs import Run, carry_out
from benchmarks.population_quality.tasks import TASKS, task
from benchmarks.population_quality.toys import SIGNAL, Deceptive, Moment, Noisy, Toy
from pbt.spec import Budget
from trainables import Place, Stack, Trainable, TrainableError, shrink_and_perturb

NAN = math.nan

# ------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.01, 0.02, 0.5], [0.08, 0.04, 0.06, 0.5]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.01, NAN, 0.03], [0.02, NAN, 0.03]),
    ],
)
def test_holm(p_values, corrected):
    """The k-th smallest of n times n - k + 1, none smaller than the one before, and none above 1."""
    assert statistics.holm(p_values) == pytest.approx(corrected, nan_ok=True)


def test_a_paired_interval_by_hand():
    """Leads of 1, 2 and 3: t = 2 / (1 / sqrt 3) = sqrt 12 on 2 degrees, whose p is 1 - t / sqrt(t^2 + 2)."""
    found = statistics.estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0 - 2.484138, 2.0 + 2.484138), abs=1e-6)
    assert statistics.p_value([1.0, 2.0, 3.0]) == pytest.approx(1.0 - math.sqrt(12.0 / 14.0))


@pytest.mark.parametrize(
    ("own", "other", "mode", "verdict", "wins"),
    [
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.8], "max", "better", 3),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.8], "min", "worse", 0),
        ([1.0, 3.0, 2.0], [2.0, 1.0, 2.5], "max", "not told apart", 1),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "max", "equal", 0),
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], "max", "better", 3),
        ([2.0, NAN, 2.0], [1.0, 1.0, 1.0], "max", "unknown", 2),
        ([2.0], [1.0], "max", "unknown", 1),
    ],
)
def test_verdicts(own, other, mode, verdict, wins):
    """A method is better where its lead over the same seeds cannot be chance."""
    (found,) = statistics.compare({"toy": {"a": own, "b": other}}, {"toy": mode}, [("a", "b")])
    assert (found.verdict, found.wins) == (verdict, wins)


def test_what_is_asked_of_many_tasks_is_corrected_for_them():
    """Leads of 1, 2 and 3 and seven like them: each p of 0.0742 becomes 8 times that."""
    scores = {str(it): {"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0, 0.0]} for it in range(8)} | {"other": {"a": [1.0]}}
    found = statistics.compare(scores, dict.fromkeys(scores, "max"), [("a", "b")])
    assert [it.p_holm for it in found] == pytest.approx([8 * it.p for it in found])
    assert len(found) == 8


# -------------------------------------------------------------------------------------------------------------- toys


@pytest.fixture(params=[Deceptive(horizon=50), Noisy()], ids=["deceptive", "noisy"])
def toy(request):
    return Toy(request.param)


def trained(toy, capacity, seeds, steps=10):
    """A stack of members, each with a hyperparameter of its own."""
    stack = toy.build(toy.bucket({}), capacity, Place())
    for slot, seed in enumerate(seeds):
        stack.admit(slot, {toy.rule.names[0]: 0.1 * (1 + seed)}, seed)
    stack.run([steps] * capacity)
    return stack


def weights(stack, slot):
    return stack.state(slot).shards[0].tensor.tolist()


def test_stacks_are_stacks(toy):
    """By the protocols."""
    assert isinstance(toy, Trainable)
    assert isinstance(trained(toy, 1, [0]), Stack)


def test_a_slot_and_its_neighbours_do_not_matter(toy):
    """Alone, or in any order: the same bits."""
    stack, turned = trained(toy, 3, [1, 2, 3]), trained(toy, 3, [3, 1, 2])
    assert [weights(stack, 0), weights(stack, 2)] == [weights(turned, 1), weights(turned, 0)]
    assert weights(trained(toy, 1, [2]), 0) == weights(stack, 1)
    assert weights(stack, 0) != weights(stack, 1)


def test_a_member_goes_on_elsewhere_as_it_would_have_here(toy):
    """Out of one stack and into another, in the middle."""
    whole, half = trained(toy, 1, [3], steps=20), trained(toy, 1, [3])
    other = toy.build(toy.bucket({}), 2, Place())
    other.admit(1, half.hparams(0), 3, half.evict(0))
    other.run([0, 20])
    assert weights(other, 1) == weights(whole, 0)
    assert other.progress(1) == (20, 20)


def test_who_copies_keeps_its_seed_and_hyperparameters(toy):
    """All reads come before all writes; weights and age are the donor's."""
    stack = trained(toy, 2, [1, 2])
    stack.run([10, 15])
    before = [weights(stack, 0), weights(stack, 1)]
    held = [stack.hparams(0), stack.hparams(1)]
    stack.copy([0, 1], [1, 0])
    assert [weights(stack, 1), weights(stack, 0)] == before
    assert [stack.progress(0), stack.progress(1)] == [(15, 10), (10, 15)]
    assert [stack.hparams(0), stack.hparams(1)] == held
    assert [stack.state(0).seed, stack.state(1).seed] == [1, 2]


@pytest.mark.parametrize("values", [{"h9": 0.5}, {"h": 1.2, "h0": -0.1}])
def test_values_outside_are_refused(toy, values):
    """With the name of the hyperparameter, before anything is changed."""
    stack = trained(toy, 1, [1])
    before = stack.hparams(0)
    with pytest.raises(TrainableError, match="h"):
        stack.set_hparams([0], **{name: [value] for name, value in values.items()})
    assert stack.hparams(0) == before


def test_a_step_of_the_deceptive_toy_by_hand():
    """At age 0 of 100 the line is at 1: h = 0 goes 2 - 0.2 into debt, h = 1 goes 1 and stays out of it."""
    rule = Deceptive(horizon=100)
    after = rule.step(rule.begin(), np.array([0.0, 1.0]), Moment(0, 0, 0))
    assert after.tolist() == pytest.approx([0.9 * (1 - 0.002 * 1.8), 0.9 * (1 - 0.002), 1.0, 0.0])
    later = rule.step(after, np.array([0.0, 0.5]), Moment(50, 0, 0))
    assert later[2:].tolist() == pytest.approx([1.5, 0.0])
    assert later[0] == pytest.approx(after[0] * (1 - 0.002 * 1.7))


def test_greed_does_not_pay():
    """h = 0 is ahead for a few steps, and far behind in the end; the line beats every constant."""
    horizon = 100

    def score(hparam, steps):
        weights, rule = Deceptive(horizon).begin(), Deceptive(horizon)
        for step in range(steps):
            weights = rule.step(weights, np.full(2, hparam(step)), Moment(step, step, 0))
        return rule.score(weights, "test")

    constants = [score(lambda _, h=h: h, horizon) for h in np.linspace(0.0, 1.0, 21)]
    line = score(lambda step: 1.0 - step / horizon, horizon)
    assert score(lambda _: 0.0, 8) > score(lambda step: 1.0 - step / horizon, 8)
    assert line == pytest.approx(0.31, abs=0.001)
    assert max(constants) < -0.2
    assert constants[0] < -0.35


def test_noise_stays_in_what_a_strategy_sees_and_out_of_what_was_achieved():
    """Of 400 steps at h = 0.7, gains are noise alone, of the stated size."""
    rule, weights = Noisy(noise=0.1), np.zeros(2)
    seen = []
    for step in range(400):
        after = rule.step(weights, np.array([0.7]), Moment(step, step, 3))
        seen.append(rule.score(after, "validation") - rule.score(weights, "validation"))
        weights = after
    assert rule.score(weights, "test") == 0.0
    assert np.std(seen) == pytest.approx(0.1 * SIGNAL, rel=0.1)
    assert rule.step(weights, np.array([0.2]), Moment(0, 0, 0))[1] == pytest.approx(-0.25)


def test_the_noisy_bandit_is_judged_by_the_last_quarter_of_all_that_was_trained():
    """Steps count, not stretches: 15 to 20 of 20."""
    budget = Budget(members=2, generations=20, steps=1)
    trained = [
        Stretch(0, 0, 15, {"h": 0.0}),
        Stretch(0, 15, 20, {"h": 0.6}),
        Stretch(1, 0, 19, {"h": 0.7}),
        Stretch(1, 19, 20, {"h": 1.0}),
    ]
    assert task("noisy").judge(5.0, trained) == pytest.approx((5 * 0.1 + 4 * 0.0 + 1 * 0.3) / 10)
    assert task("noisy").budget.generations == budget.generations
    assert math.isnan(task("noisy").judge(5.0, trained[:1]))


# --------------------------------------------------------------------------------------------------------- the whole


@pytest.mark.full
def test_toys_from_end_to_end(tmp_path):
    """Our strategies on the toys with two seeds, at equal member-steps: the record, the table, the pictures."""
    asked = {"figure_2": ["pbt", "fixed"], "noisy": ["pbt", "mf_pbt", "fixed"]}
    runs = [Run(name, method, seed, quick=True) for name in asked for method in asked[name] for seed in (0, 1)]
    record = summary({run: carry_out(run) for run in runs}, quick=True)
    assert {(row["task"], row["method"]) for row in record["rows"]} == {
        (name, method) for name in asked for method in asked[name]
    }
    for row in record["rows"]:
        assert row["errors"] == []
        assert row["seeds"] == [0, 1]
        assert row["member_steps"] == task(row["task"], quick=True).budget.member_steps
        assert all(map(math.isfinite, row["scores"]))
    assert json.loads(json.dumps(without_nan(record), allow_nan=False))["tasks"]
    console = Console(width=120, file=io.StringIO())
    report.show(record, console)
    assert "the paper's toy: Q of the winner, test (higher is better); 640 member-steps" in console.file.getvalue()
    assert [path.name for path in report.draw(record, tmp_path / "plots")] == ["figure_2.png", "noisy.png"]


def test_a_run_that_fails_is_told_and_spoils_no_other():
    """Its row has no mean, and nothing is said of it but that."""
    runs = {
        Run("figure_2", method, seed, True): Outcome(score=1.0 + seed)
        for method in ("pbt", "ray_pbt")
        for seed in (0, 1)
    }
    runs[Run("figure_2", "ray_pbt", 1, True)] = Outcome(error="RuntimeError: no")
    record = summary(runs, quick=True)
    assert [it["verdict"] for it in record["comparisons"]] == ["unknown"]
    assert report.sentences(without_nan(record))[-1] == "Without a winner: ray_pbt on figure_2, seed 1."
    report.show(without_nan(record), Console(quiet=True))


def test_the_default_is_held_against_rays_pbt():
    """Whatever its name; it is not asked whether it is below a method of the same name."""
    runs = {
        Run(name, method, seed, True): Outcome(score=10.0 * (method == "mf_pb2") + 0.01 * seed)
        for name in ("figure_2", "deceptive")
        for method in ("mf_pb2", "ray_pbt")
        for seed in range(3)
    }
    (told, aim) = report.sentences(without_nan(summary(runs, quick=True)))
    assert told == "mf_pb2 beside ray_pbt: 2 better, of 2 tasks; ahead in the mean on 2."
    assert aim == "The default strategy, mf_pb2, beats Ray's PBT on 2 of 2 tasks (aim: 4 of 6, missed)."


@pytest.mark.full
def test_a_record_is_completed_and_not_made_again(tmp_path):
    """What it has is kept, to the last digit; what failed, or is missing, is carried out."""
    file, asked = tmp_path / "record.json", ["--quick", "--tasks", "figure_2", "--methods", "pbt,fixed", "--json"]
    runs = {Run("figure_2", method, 0, True): Outcome(score=7.0, seconds=1.0) for method in ("pbt", "fixed")}
    runs[Run("figure_2", "fixed", 0, True)] = Outcome(error="RuntimeError: no")
    record = without_nan(summary(runs, quick=True))
    assert {run: it.score for run, it in outcomes(record).items()} == {Run("figure_2", "pbt", 0, True): 7.0}
    file.write_text(json.dumps(record))
    for _ in range(2):
        done = CliRunner().invoke(main, [*asked, str(file), "--resume", "--seeds", "2", "--jobs", "1"])
        assert done.exit_code == 0, done.output
        rows = {row["method"]: row for row in json.loads(file.read_text())["rows"]}
        assert rows["pbt"]["scores"][0] == 7.0
        assert [row["errors"] for row in rows.values()] == [[], []]
        assert rows["fixed"]["seeds"] == rows["pbt"]["seeds"] == [0, 1]
    assert "figure_2" not in done.output.split("the paper's toy")[0], "the second time there is nothing to do"


def test_a_toy_can_be_shrunk():
    """As `ipbt` does at a restart."""
    stack = Toy(Noisy()).build("toy", 1, Place())
    stack.admit(0, {"h": 0.5}, 0)
    stack.run([5])
    before = stack.state(0).shards[0].tensor
    shrink_and_perturb(stack, 0, {"h": 0.5}, keep=0.2, noise=0.1, seed=1)
    np.testing.assert_allclose(stack.state(0).shards[0].tensor, 0.2 * before)


def test_tables_for_a_page():
    """By hand: means with half of their intervals, bold where better than what never changes, or than Ray's."""
    scores = {"fixed": (0.0, 0.01), "pbt": (1.0, 1.02), "ray_pbt": (2.0, 2.03)}
    runs = {
        Run("figure_2", method, seed, True): Outcome(score=score)
        for method, both in scores.items()
        for seed, score in enumerate(both)
    }
    half = 12.706 * 0.005  # Student's t of one degree of freedom, and the standard error of 0 and 0.01
    assert report.markdown(without_nan(summary(runs, quick=True))).splitlines() == [
        "| | the paper's toy |",
        "|---|---|",
        "| | higher is better |",
        f"| `fixed` | 0.005 ± {half:.3f} |",
        f"| `pbt` | **1.010 ± {2 * half:.3f}** |",
        f"| `ray_pbt` | **2.015 ± {3 * half:.3f}** |",
        "",
        "| | the paper's toy |",
        "|---|---|",
        "| `pbt` beside `ray_pbt` | *-1.005 ± 0.064* |",
    ]


def test_the_page_tells_what_is_on_record():
    """Tables and sentences of `--read ... --markdown`, as they are."""
    record = json.loads(Path("benchmarks/records/population_quality.json").read_text())
    page = Path("docs/strategies.md").read_text()
    for table in report.markdown(record).strip().split("\n\n"):
        assert table in page
    for sentence in report.sentences(record):
        assert sentence in " ".join(page.split())


@pytest.mark.parametrize("name", TASKS)
def test_tasks_can_be_trained_by_all(name):
    """Sizes that every strategy takes; the quick budget is smaller; members begin inside the space."""
    full, quick = task(name), task(name, quick=True)
    assert quick.budget.member_steps <= full.budget.member_steps
    assert full.budget.members >= 8
    assert full.metric in full.trainable.describe().metrics
    population = full.population(seed=3)
    assert len(population) == full.budget.members
    for hparams in population:
        full.space.check(hparams)
    if isinstance(full.trainable, Toy) and isinstance(full.trainable.rule, Deceptive):
        for budget in (full.budget, quick.budget):
            assert budget.generations * budget.steps == full.trainable.rule.horizon

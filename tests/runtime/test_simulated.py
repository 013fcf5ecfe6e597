"""Simulated hosts: what they do, what it takes, and what goes wrong, by the clock that does not wait."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import HostError, StorageError
from pbt.member import lay_out
from pbt.population import PBT, Fixed
from pbt.record.ledger import Ledger, LedgerReader
from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.curves import SimulatedTrainable
from pbt.runtime.plan import Plan, Session
from pbt.runtime.simulated import MemoryStore, World, simulate
from pbt.spec import Budget, Checkpoints
from pbt.strategy import Task
from searchspaces import Float, Space
from tests.contracts.states import assert_same
from tests.examples import examples
from tests.runtime.miniature import Clear, make_state
from trainables import Quadratic

SPACES = {
    "loss": Space({"lr": Float(1e-3, 1.9, log=True)}),
    "Q": Space({"gain": Float(0.0, 10.0)}),
}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep on simulated hosts, in a folder."""

    run: object
    options: object = Fixed()
    trainable: object = SimulatedTrainable(tokens_per_step=7)
    members: int = 4
    stacks: int = 2
    generations: int = 3
    steps: int = 10
    checkpoints: Checkpoints | None = None
    limits: tuple = ()
    metric: str = "loss"

    def simulate(self, world=None, **changes):
        """The report of a life; the sweep goes on if it has begun."""
        self.run.mkdir(exist_ok=True)
        exists = (self.run / "ledger").exists()
        described = self.trainable.describe()
        budget = Budget(members=self.members, generations=self.generations, steps=self.steps, **dict(self.limits))
        mode = described.metrics[self.metric].mode
        task = Task(space=SPACES[self.metric], metric=self.metric, mode=mode, budget=budget, seed=0)

        def make_brain(states, clock, is_restarted):
            plan = Plan(
                slots=lay_out(self.members, self.stacks),
                bucket=self.trainable.bucket({}),
                defaults={name: spec.default for name, spec in described.hparams.items()},
                metric=self.metric,
                split="validation",
                tokens_per_step=described.tokens_per_step,
                budget=budget,
                synchronous=getattr(self.options, "synchronous", True),
                checkpoints=self.checkpoints or Checkpoints(),
                session=Session(reason="restart" if is_restarted else "resume" if exists else "start"),
            )
            ledger = Ledger(self.run, clock, existing=exists or is_restarted)
            return Brain(plan, self.options.begin(task), ledger, states, clock)

        return simulate(make_brain, run=self.run, world=world or World(), trainable=self.trainable, **changes)

    @property
    def rows(self):
        return LedgerReader(self.run).rows()


@pytest.fixture
def make(tmp_path):
    """Sweeps, each in a folder of its own."""
    return lambda name="run", **options: Sweep(tmp_path / name, **options)


# -------------------------------------------------------------------------------------------- how long things take


def test_time_is_steps_and_evaluations(make):
    """Two stacks on two hosts: three generations of ten steps of 2 s and an evaluation of 3 s, and the winner's."""
    report = make().simulate(World(hosts=2, step_s=2.0, evaluation_s=3.0))
    assert 3 * (10 * 2 + 3) + 3 == report.makespan_s
    assert 2 * 3 * 23 + 3 == report.busy_s
    assert report.busy_s / (2 * report.makespan_s) == report.utilisation
    assert 2 * 72 / 3600 == report.host_hours


def test_a_host_works_on_its_stacks_in_turn(make):
    """One host for two stacks takes twice as long."""
    assert 2 * 3 * 10 == make().simulate(World(hosts=1)).makespan_s


def test_hosts_beyond_the_stacks_stay_idle(make):
    """They cost, and do nothing."""
    report = make().simulate(World(hosts=8))
    assert (30.0, 0.25) == (report.makespan_s, report.utilisation)


def test_building_and_messages_take_time(make):
    """5 s to build; a quarter of a second each way for each of three orders, of the evaluation, and of saving."""
    report = make().simulate(World(hosts=2, build_s=5.0, latency_s=0.25))
    assert 5 + 30 + 2 * 0.25 * 5 == report.makespan_s


def test_states_travel(make):
    """Who copies from another stack waits for 4 s; a copy on the device takes none."""
    world = World(hosts=2, fetch_s=4.0)
    alone = make("alone", options=PBT(quantile=0.25), stacks=1).simulate(world)
    across = make("across", options=PBT(quantile=0.25), members=2).simulate(world)
    assert (30.0, 38.0) == (alone.makespan_s, across.makespan_s)


def test_slow_hosts_hold_up_a_generation(make):
    """Everybody waits for the slowest."""
    assert 90.0 == make().simulate(World(hosts=2, slow_hosts={1: 3.0})).makespan_s


def test_stragglers_do_so_by_chance(make):
    """Some orders take longer; which, the seed says."""
    worlds = [World(hosts=2, straggler_rate=0.5, straggler_factor=3.0, seed=seed) for seed in (0, 0, 1)]
    once, again, other = [make(str(number)).simulate(world).busy_s for number, world in enumerate(worlds)]
    assert once == again
    assert 60 < once < 180
    assert 60 < other < 180


def test_steps_may_take_what_a_function_says(make):
    """It is given the stack, the order and a generator."""
    report = make().simulate(World(hosts=2, step_s=lambda stack, order, rng: 1.0 + stack * len(order.train)))
    assert 3 * 10 * 3 == report.makespan_s


def test_durations_on_record_are_those_of_the_world(make):
    """Wall seconds, tokens and energy in the ledger are virtual, as is its clock."""
    sweep = make()
    report = sweep.simulate(World(hosts=2, step_s=2.0, evaluation_s=3.0, watts=100.0))
    rows = sweep.rows
    assert {23.0} == {row["wall_s"] for row in rows["outcomes"]}
    assert {1150.0} == {row["joules"] for row in rows["outcomes"]}
    assert (72.0, 141.0) == (rows["usage"][-1]["wall_s"], rows["usage"][-1]["device_s"])
    assert [0.0, 23.0, 46.0] == sorted({round(row["at"], 3) for row in rows["segments"]})
    assert report.joules == 100.0 * report.busy_s


def test_writing_takes_time_but_nobody_waits_for_it(make):
    """Four states are written one after another at the end; those written before are written beside the training."""
    sweep = make(checkpoints=Checkpoints(every_steps=10, every_minutes=None))
    report = sweep.simulate(World(hosts=2, save_s=2.0))
    assert 30 + 4 * 2 == report.makespan_s
    assert 12 == [row["status"] for row in sweep.rows["checkpoints"]].count("saved")


def test_every_minutes_are_virtual_minutes(make):
    """With a step of a minute, each of two further generations saves its four members, and the end those it left."""
    sweep = make(steps=1, checkpoints=Checkpoints(every_minutes=1.0))
    sweep.simulate(World(hosts=2, step_s=60.0))
    assert 12 == [row["status"] for row in sweep.rows["checkpoints"]].count("saved")


# ------------------------------------------------------------------------------------------------------- budgets


def test_a_limit_on_wall_time_is_virtual_time(make):
    """A sweep of five minutes with a limit of two ends in two, with its best."""
    sweep = make(limits=(("wall_minutes", 2.0),))
    report = sweep.simulate(World(hosts=2, step_s=10.0, evaluation_s=1.0))
    assert report.finished
    assert report.best is not None
    assert 100.0 < report.makespan_s <= 120.0
    assert any(0 < row["consumed_end"] % 10 for row in sweep.rows["outcomes"])


def test_a_limit_on_energy_is_kept(make):
    """At 100 W, what fits in 10 kJ."""
    sweep = make(limits=(("joules", 10_000.0),), generations=20)
    report = sweep.simulate(World(hosts=2, watts=100.0, evaluation_s=1.0))
    assert report.finished
    assert 8_000.0 < report.joules <= 10_000.0


# --------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("trainable", [Quadratic(), Clear()])
def test_any_trainable_can_be_trained(make, trainable):
    """Real stacks are carried out for real; only the clock is not."""
    space = {"Q": Space({"h0": Float(0.0, 1.0)})} if isinstance(trainable, Quadratic) else {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in space.items():
            patch.setitem(SPACES, name, value)
        report = make(trainable=trainable, metric="Q", options=PBT(quantile=0.25)).simulate(World(hosts=2))
    assert report.finished
    assert report.best is not None


def test_hosts_make_no_difference(make):
    """One digest, whatever the hosts are like."""
    worlds = [
        World(hosts=1),
        World(hosts=2, slow_hosts={0: 5.0}, evaluation_s=2.0),
        World(hosts=7, fetch_s=3.0, latency_s=1.0, save_s=9.0, straggler_rate=0.3, straggler_factor=10.0),
    ]
    digests = set()
    for number, world in enumerate(worlds):
        sweep = make(str(number), options=PBT(quantile=0.25), members=8, stacks=4)
        sweep.simulate(world)
        digests.add(LedgerReader(sweep.run).digest())
    assert 1 == len(digests)


def test_who_does_not_wait_is_faster_where_durations_differ(make):
    """Without a common generation, a straggler holds up nobody else."""
    world = World(hosts=4, straggler_rate=0.3, straggler_factor=5.0)
    common = {"members": 4, "stacks": 4, "generations": 10}
    waiting = make("waiting", options=PBT(), **common).simulate(world)
    flowing = make("flowing", options=PBT(synchronous=False), **common).simulate(world)
    assert flowing.makespan_s < 0.9 * waiting.makespan_s
    assert flowing.utilisation > 1.1 * waiting.utilisation


@examples(25)
@given(
    seed=st.integers(0, 99),
    hosts=st.integers(1, 5),
    losses=st.lists(st.tuples(st.floats(0, 60), st.integers(0, 4)), max_size=4),
    brain_losses=st.lists(st.floats(0, 60), max_size=2),
    delay=st.sampled_from([0.0, 0.5, 7.0]),
)
def test_accidents_cost_time_and_nothing_else(tmp_path_factory, seed, hosts, losses, brain_losses, delay):
    """The digest is that of a sweep in which nothing happened, which takes no longer."""
    world = World(hosts=hosts, fetch_s=delay, latency_s=delay, save_s=delay, evaluation_s=1.0, seed=seed)
    folder = tmp_path_factory.mktemp("accidents")
    calm, stormy = (Sweep(folder / name, options=PBT(quantile=0.25)) for name in ("calm", "stormy"))
    losses = [(when, host % hosts) for when, host in losses]
    before = calm.simulate(world)
    after = stormy.simulate(dataclasses.replace(world, losses=losses, brain_losses=brain_losses))
    assert LedgerReader(calm.run).digest() == LedgerReader(stormy.run).digest()
    assert before.makespan_s <= after.makespan_s
    assert before.busy_s <= after.busy_s


# ------------------------------------------------------------------------------------------------------- accidents


def test_what_a_host_was_doing_is_done_again(make):
    """Lost after 4 s of the first generation, noticed after 3, back after 5: the order begins again at 9 s."""
    report = make().simulate(World(hosts=2, losses=[(4.0, 1)], detection_s=3.0, repair_s=5.0))
    assert 9 + 10 + 20 == report.makespan_s
    assert (1, 4.0) == (report.host_losses, report.lost_s)
    assert 60.0 == report.busy_s


def test_what_a_host_held_is_trained_again(make):
    """Lost in the second generation without a checkpoint: the first is repeated, and the rest follows."""
    sweep = make()
    report = sweep.simulate(World(hosts=2, losses=[(14.0, 1)], detection_s=1.0, repair_s=1.0))
    assert 15 + 10 + 10 + 10 == report.makespan_s
    assert (10.0, 4.0) == (report.repeated_s, report.lost_s)
    assert 2 == report.recoveries
    assert (70 - 10) / (2 * 45) == report.utilisation
    assert ["host_lost", "recovering", "recovered"] == [row["kind"] for row in sweep.rows["incidents"]]


def test_with_a_checkpoint_nothing_is_trained_again(make):
    """The state is fetched instead."""
    sweep = make(checkpoints=Checkpoints(every_steps=10, every_minutes=None))
    report = sweep.simulate(World(hosts=2, losses=[(14.0, 1)], detection_s=1.0, repair_s=1.0, fetch_s=0.5))
    assert 15 + 2 * 0.5 + 10 + 10 == report.makespan_s
    assert 1.0 == report.repeated_s


def test_another_host_takes_over(make):
    """One that is idle takes the stack; nobody is repaired."""
    world = World(hosts=3, losses=[(4.0, 1)], detection_s=3.0, repair_s=None)
    assert 7 + 10 + 20 == make().simulate(world).makespan_s


def test_a_brain_that_is_lost_takes_everything_with_it(make):
    """Lost after 14 s, back after 6: the first generation is trained again, then the second begins anew."""
    sweep = make()
    report = sweep.simulate(World(hosts=2, brain_losses=[14.0], restart_s=6.0))
    assert 14 + 6 + 10 + 10 + 10 == report.makespan_s
    assert 1 == report.brain_losses
    assert ["start", "restart"] == [row["reason"] for row in sweep.rows["sessions"]]


def test_hosts_are_lost_at_a_rate(make):
    """A hundred a day each, over some days: about as many, at times the seed says."""
    sweep = make(generations=40, steps=600)
    world = World(hosts=2, step_s=10.0, losses_per_day=5.0, detection_s=1.0, repair_s=60.0, seed=3)
    report = make("again", generations=40, steps=600).simulate(world)
    assert sweep.simulate(world) == report
    expected = 2 * 5.0 * report.makespan_s / 86_400
    assert expected / 2 < report.host_losses < 2 * expected


def test_members_fail_as_told(make):
    """Named ones for their reasons, others by chance."""
    sweep = make(members=8)
    sweep.simulate(World(failures={(2, 1): "out of memory"}, failure_rate=0.1, seed=1))
    failed = {row["member"]: row["reason"] for row in sweep.rows["outcomes"] if row["status"] == "failed"}
    assert "out of memory" == failed.pop(2)
    assert {"it was its fate"} == set(failed.values())


def test_a_stop_lets_segments_end_and_saves_members(make):
    """Asked for in the second generation: that ends, four members are written, and the sweep can be taken up."""
    sweep, store = make(), MemoryStore()
    report = sweep.simulate(World(hosts=2, save_s=2.0, stop_at=14.0), store=store)
    assert (20 + 4 * 2, False, None) == (report.makespan_s, report.finished, report.best)
    assert 4 == len(store)
    again = sweep.simulate(World(hosts=2, save_s=2.0), store=store, begins_s=28.0)
    assert (10 + 4 * 2, True, 0.0) == (again.makespan_s, again.finished, again.repeated_s)
    assert 46.0 == pytest.approx(sweep.rows["checkpoints"][-1]["at"], abs=0.01)


def test_without_hosts_it_stands_still(make):
    """That is an error, which says what to do; the ledger is let go."""
    sweep = make()
    world = World(hosts=2, losses=[(4.0, 0), (5.0, 1)], repair_s=None)
    with pytest.raises(HostError, match=r"stands still after 15 s.*0 of 2 hosts are left.*repair_s"):
        sweep.simulate(world)
    assert sweep.simulate().finished


# ----------------------------------------------------------------------------------------------------- checkpoints


def test_memory_keeps_states_by_their_content(tmp_path):
    """As the store on disk does: equal states are one checkpoint, and what is gone is an error."""
    store = MemoryStore()
    one, same, other = make_state(1.0, 3), make_state(1.0, 3), make_state(1.0, 4)
    digests = [store.save(state, {}).digest for state in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    assert_same(other, store.load(digests[2]))
    store.remove(digests[2])
    store.remove(digests[2])
    with pytest.raises(StorageError, match=digests[2]):
        store.load(digests[2])


def test_checkpoints_can_be_kept_on_disk(make):
    """Then they are as any other host's."""
    sweep = make()
    store = CheckpointStore(sweep.run / "checkpoints")
    sweep.simulate(World(hosts=2), store=store)
    saved = {row["digest"] for row in sweep.rows["checkpoints"] if row["status"] == "saved"}
    assert saved == store.digests()

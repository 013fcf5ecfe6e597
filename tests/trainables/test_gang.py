"""Any module of torch's, by itself and shared by two ranks."""

from __future__ import annotations

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from tests.trainables.ranked import BATCH, Points, loss, make, merged, module, together
from trainables import Place, TrainableError
from trainables.core.rng import Draws
from trainables.core.shards import whole
from trainables.gang import Gang

HPARAMS = {"lr": 0.02, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "clip_norm": 0.5}
SEED, STEPS = 7, 20
GUIDE = Path(__file__).parents[2] / "docs/guide.md"
CALLS = [("admit", 0, HPARAMS, SEED), ("run", [STEPS]), ("evaluate", "validation", [0]), ("state", 0)]


def by_hand():
    """The same member, with nothing but torch."""
    torch.manual_seed(SEED)
    network, points = make().double(), Points(torch.device("cpu"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=0.1, betas=(0.8, 0.9))
    losses = []
    for step in range(STEPS):
        batch = [part[0] for part in points.batch(Draws(torch.tensor([SEED]), torch.tensor([step])))]
        optimizer.zero_grad()
        value = loss(network, batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        losses.append(value.item())
    with torch.no_grad():
        found = sum(loss(network, batch).item() * weight for batch, weight in points.evaluation("validation")) / 100
    return {f"params.{name}": p.detach() for name, p in network.named_parameters()}, sum(losses) / STEPS, found


def values_of(state):
    """Tensors by name, each in one piece."""
    return {shard.name: shard.tensor for shard in whole(state).shards}


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [
        (1, "ddp"),
        pytest.param(2, "ddp", marks=pytest.mark.full),
        pytest.param(2, "fsdp", marks=pytest.mark.full),
        pytest.param(3, "fsdp", marks=pytest.mark.full),
    ],
)
def test_a_member_learns_the_same_however_many_share_it(tmp_path, ranks, parallel):
    """As it would by hand: parameters, losses in training and in evaluation; every rank says the same."""
    weights, in_training, in_evaluation = by_hand()
    lives = together(CALLS, tmp_path, ranks, parallel)
    found = values_of(merged([life[3] for life in lives]))
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)
    for life in lives:
        assert life[1]["loss"][0] == pytest.approx(in_training, rel=1e-9)
        assert life[2]["loss"][0] == pytest.approx(in_evaluation, rel=1e-9)
    assert found["adamw.step"] == STEPS


@pytest.mark.full
@pytest.mark.parametrize(
    ("before", "after"),
    [((2, "fsdp"), (1, "ddp")), ((1, "ddp"), (2, "fsdp")), ((3, "fsdp"), (2, "fsdp"))],
)
def test_a_member_goes_on_with_another_number_of_ranks(tmp_path, before, after):
    """From a state given in parts that do not fit its own."""
    first = [("admit", 0, HPARAMS, SEED), ("run", [STEPS // 2]), ("state", 0)]
    half = merged([life[2] for life in together(first, tmp_path, *before)])
    then = [("admit", 0, HPARAMS, SEED, half), ("run", [STEPS]), ("state", 0), ("progress", 0)]
    lives = together(then, tmp_path, *after)
    found = values_of(merged([life[2] for life in lives]))
    for name, tensor in by_hand()[0].items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)
    assert {(STEPS, STEPS)} == {life[3] for life in lives}


@pytest.mark.full
def test_each_rank_gives_a_part_and_nothing_is_given_twice(tmp_path):
    """Of parameters and moments; what all have as a whole, one of them gives."""
    lives = together([("admit", 0, {}, SEED), ("state", 0)], tmp_path, 2, "fsdp")
    states = [life[1] for life in lives]
    given = sum(shard.tensor.numel() for state in states for shard in state.shards)
    assert given == 3 * sum(p.numel() for p in make().parameters()) + 1
    sizes = [sum(shard.tensor.numel() for shard in state.shards) for state in states]
    assert max(sizes) < 0.75 * given


def test_what_ranks_cannot_share_is_refused():
    """Named, with the mend."""
    with pytest.raises(TrainableError, match="one member at a time, not 2"):
        module().build("module", 2, Place())
    with pytest.raises(TrainableError, match="2 ranks need a process group"):
        module().build("module", 1, Place(world_size=2))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere:make", r"gang make is 'nowhere:make', which cannot be imported \(.*No module named 'nowhere'\)"),
        ("tests.trainables.ranked:mkae", r"cannot be imported \(.*no attribute 'mkae'\); did you mean 'make'\?"),
        ("no name", "cannot be imported"),
        ("tests.trainables.ranked", "gang make is 'tests.trainables.ranked', a module; give package.module:function"),
    ],
)
def test_a_name_that_names_no_function_is_refused(name, problem):
    """At once, with what was found instead."""
    with pytest.raises(TrainableError, match=problem):
        dataclasses.replace(module(), make=name)


def test_a_file_that_cannot_be_run_is_refused(tmp_path, monkeypatch):
    """What it raised is told in a line."""
    (tmp_path / "broken_gang.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TrainableError, match=r"'broken_gang:make', which cannot be imported .*SyntaxError"):
        dataclasses.replace(module(), make="broken_gang:make")


def test_a_batch_that_ranks_cannot_share_evenly_is_refused(monkeypatch):
    """Before anything is trained: their gradients would not be the mean over it."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(TrainableError, match=f"whose batch of {BATCH} cannot be shared by 5 ranks; .* hosts.ranks"):
        module().build("module", 1, Place(world_size=5))


class Loader:
    """Batches as torch's own loader has them: `iter` is all it knows."""

    def __init__(self, device):
        pass


class Flat(Points):
    """A feed that forgot the member."""

    def batch(self, draws, hparams=None, buffers=None):
        return torch.zeros(12, 3), torch.zeros(12)


class Bare(Points):
    """A feed of what is no tensor."""

    def batch(self, draws, hparams=None, buffers=None):
        return [[1.0]], [2.0]


def fails(device):
    """A feed whose file is not there."""
    raise FileNotFoundError("points.npy")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Loader", r"which builds a Loader without batch\(\) and evaluation\(\); give a class with batch\(draws\)"),
        ("Flat", r"whose batch has \[12, 3\]; give tensors \[1, examples, ...\], 1 for the member"),
        ("Bare", r"whose batch has list; give tensors \[1, examples, ...\]"),
        ("fails", r"which raised FileNotFoundError: points.npy; mend it"),
    ],
)
def test_what_is_no_feed_is_refused(name, problem):
    """Before anything is started."""
    with pytest.raises(TrainableError, match=f"gang feed is '{__name__}:{name}', {problem}"):
        dataclasses.replace(module(), feed=f"{__name__}:{name}").describe()


def test_the_example_of_the_guide_trains(tmp_path, monkeypatch):
    """As it stands there, on data of the kind it names."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"test_gang.py runs it -->\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(block)
    inputs = np.random.default_rng(0).standard_normal((200, 20), dtype=np.float32)
    np.save("inputs.npy", inputs)
    np.save("targets.npy", inputs.sum(1, keepdims=True))
    mine = Gang("mine:make", "mine:loss", "mine:Rows")
    assert mine.describe().tokens_per_step == 64
    stack = mine.build("module", 1, Place())
    stack.admit(0, {"lr": 0.01}, SEED)
    before = stack.evaluate("validation", [0])["loss"][0]
    stack.run([50])
    assert stack.evaluate("validation", [0])["loss"][0] < before / 2


def drops(network, batch):
    """A loss that draws."""
    points, values = batch
    return functional.mse_loss(network(functional.dropout(points, 0.5, network.training)), values)


def test_members_of_one_process_draw_what_each_would_alone():
    """Though they train at the same time, and others are made meanwhile: torch's random numbers are everybody's."""
    dropping = dataclasses.replace(module(), loss=f"{__name__}:drops")

    def life(seed):
        stack = dropping.build("module", 1, Place(dtype="float64"))
        stack.admit(0, HPARAMS, seed)
        stack.run([60])
        return values_of(stack.state(0))["params.head.weight"]

    alone = [life(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(life, range(4)))
    for expected, found in zip(alone, together, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def by_parts(network, batch):
    """A loss that ranks would not hear of."""
    points, values = batch
    return functional.mse_loss(network.head(network.blocks[1](network.blocks[0](points))), values)


def for_each(network, batch):
    """A loss that forgot the mean."""
    points, values = batch
    return functional.mse_loss(network(points), values, reduction="none")[:, 0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("by_parts", r"which did not call the module; call it as a whole, module\(...\), not its parts"),
        ("for_each", rf"which gave \[{BATCH}\] values; give the mean over the batch"),
    ],
)
def test_a_loss_that_ranks_cannot_share_is_refused(name, problem):
    """Also where nobody shares it: it would break with the second rank only."""
    stack = dataclasses.replace(module(), loss=f"{__name__}:{name}").build("module", 1, Place(dtype="float64"))
    stack.admit(0, {}, SEED)
    with pytest.raises(TrainableError, match=f"gang loss is '{__name__}:{name}', {problem}"):
        stack.run([1])


def test_live_values_take_effect_at_once():
    """A changed learning rate is that of the next step, as if the member had been admitted with it."""
    changed, fresh = (module().build("module", 1, Place(dtype="float64")) for _ in range(2))
    changed.admit(0, {"lr": 0.5}, SEED)
    changed.set_hparams([0], lr=[0.01])
    fresh.admit(0, {"lr": 0.01}, SEED)
    for stack in (changed, fresh):
        stack.run([3])
    assert changed.hparams(0) == fresh.hparams(0)
    for one, other in zip(changed.state(0).shards, fresh.state(0).shards, strict=True):
        assert torch.equal(one.tensor, other.tensor)

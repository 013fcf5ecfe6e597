"""A population whose members mix their training data from domains: decided, recorded, resumed, mirrored, shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pbt
from pbt import PBT, Checkpoints, Hosts, Result, Sweep
from pbt.cli import main
from pbt.errors import HostError, SpecError
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.mirrored import Story
from pbt.report.plots import schedule_figure
from searchspaces import Choice, Float, Simplex
from trainables import Language
from trainables.core.stack import CoreStack

DOMAINS = ("numbers", "words", "xs")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of text."""
    root = tmp_path_factory.mktemp("data")
    texts = ("".join(f"{i * i} " for i in range(900)), "a few words are here. " * 200, "x" * 3000)
    for name, text in zip(DOMAINS, texts, strict=True):
        (root / name).mkdir()
        (root / name / "a.txt").write_text(text)
    return root


def sweep(storage: Path, data: Path, *, generations: int = 3, **changes: Any) -> Sweep:
    """Four small language models on two stacks."""
    fields: dict[str, Any] = {
        "space": {"mixture": Simplex(DOMAINS), "lr": Float(1e-3, 3e-2, log=True)},
        "checkpoints": Checkpoints(every_steps=4),
    }
    return Sweep(
        name="mixed",
        trainable=Language(width=8, depth=1, heads=2, context=8, batch=4, eval_bytes=128, data=str(data), mixture=True),
        objective="bits_per_byte",
        strategy=PBT(quantile=0.25),
        budget={"members": 4, "generations": generations, "steps": 4},
        hosts=Hosts(kind="local", stacks=2, plan="off"),
        storage=storage,
        tracking=False,
        **fields | changes,
    )


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The sweep, left alone."""
    return sweep(tmp_path_factory.mktemp("runs"), data).run(progress=False)


def scores(result: Result) -> list[Any]:
    """Every segment's score, in the order of members and segments."""
    rows = sorted(result.segments.to_pylist(), key=lambda row: (row["member"], row["segment"]))
    return [row["score"] for row in rows]


def test_every_member_has_a_mixture_of_its_own_which_is_in_effect(result: Result) -> None:
    """The device held what was ordered, to the bit; exploring changes mixtures."""
    segments = list(result.lineage.segments.values())
    assert len(segments) == 4 * 3
    assert all(segment.hparams == segment.hparams_in_effect for segment in segments)
    for segment in segments:
        assert set(segment.hparams["mixture"]) == set(DOMAINS)
        assert sum(segment.hparams["mixture"].values()) == pytest.approx(1.0, abs=1e-9)
    assert len({str(segment.hparams["mixture"]) for segment in segments}) > 4


def test_interrupted_and_resumed_it_ends_as_if_nothing_had_happened(
    result: Result, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the third generation, it goes on from what was saved, cursors and all: nobody has failed."""
    run = CoreStack.run

    def failing(self: CoreStack, until: Any) -> Any:
        if max(until) == 3 * 4:
            raise OSError("the power is gone")
        return run(self, until)

    monkeypatch.setattr(CoreStack, "run", failing)
    with pytest.raises(HostError, match="the power is gone"):
        sweep(tmp_path, data).run(progress=False)
    monkeypatch.undo()
    (folder,) = tmp_path.glob("mixed-*")
    assert len(pbt.load(folder).rows["outcomes"]) == 8
    resumed = pbt.resume(folder, progress=False)
    assert (resumed.status, resumed.digest()) == ("finished", result.digest())
    assert scores(resumed) == scores(result)
    kinds = [row["kind"] for row in resumed.rows["incidents"]]
    assert kinds[-1] == "recovered"
    assert "differs" not in kinds, "what was trained again came out otherwise"


def test_extended_it_is_what_it_would_have_been(result: Result, data: Path, tmp_path: Path) -> None:
    """Two generations and one more are three."""
    short = sweep(tmp_path, data, generations=2).run(progress=False)
    extended = pbt.extend(short.path, generations=3, progress=False)
    assert extended.digest() == result.digest()
    assert scores(extended) == scores(result)


def test_the_mirror_has_a_metric_for_each_domain(result: Result) -> None:
    """What MLflow is told: over the member's own steps, the weights that it trained with."""
    rows = Tail(LedgerReader(result.path)).poll()
    story = Story("min", result.run.info["hparams"])
    story.add(rows)
    told = story.metrics(rows)
    for member in range(4):
        for domain in DOMAINS:
            points = {(p.step, p.value) for p in told[member] if p.key == f"hparams/mixture/{domain}"}
            held = {(s.consumed[0], s.hparams["mixture"][domain]) for s in result.lineage.of(member)}
            assert held <= points


def test_a_mixture_can_be_read(result: Result, capsys: pytest.CaptureFixture[str]) -> None:
    """In percent, by `show`, `why`, `schedule`, `lineage` and `diff`; a panel for each domain in the pictures."""
    run = str(result.path)
    for command in (["show", run], ["why", run, "0"], ["schedule", run, "1"], ["diff", run, "0", "1"]):
        assert _exit_code(command) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert all(f"{domain} " in printed for domain in DOMAINS), command
        assert "%" in printed
    panels = [axes.get_title(loc="left") for axes in schedule_figure(result).axes]
    assert [panel for panel in panels if panel] == [*(f"mixture/{name}" for name in DOMAINS), "lr"]
    assert result.segments.column("hparams/mixture")[0].as_py().keys() == set(DOMAINS)


def _exit_code(command: list[str]) -> int:
    try:
        main(command, standalone_mode=False)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    "domain",
    [Simplex(["numbers", "words"]), Simplex([*DOMAINS, "code"]), Float(0.0, 1.0), Choice(["numbers", "words"])],
)
def test_another_domain_of_the_mixture_is_refused(data: Path, tmp_path: Path, domain: Any) -> None:
    """Before anything starts, with the parts that the text has."""
    with pytest.raises(SpecError) as caught:
        sweep(tmp_path, data, space={"mixture": domain})
    assert str(caught.value) == (
        f"space.mixture: is {domain}, but the trainable needs weights of numbers, words, xs. "
        "Write {type: simplex, parts: [numbers, words, xs]}"
    )


def test_a_mixture_for_a_trainable_without_one_is_refused(data: Path, tmp_path: Path) -> None:
    """A number is no mixture."""
    with pytest.raises(SpecError, match=r"space\.lr: has values of another kind"):
        sweep(tmp_path, data, space={"lr": Simplex(DOMAINS)})

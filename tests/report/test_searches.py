"""A search as people see it: in the terminal, as events, as a picture; numbers counted again from the ledger."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

import pbt
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.sizes import Sizes
from pbt.report.console import Progress
from pbt.report.follow import Events
from pbt.report.plots import figures
from pbt.report.plots.expected import expected, expected_figure
from pbt.report.plots.search import Effort, effort, search_figure
from pbt.report.report_page import write_report
from pbt.report.sentences import sentence
from pbt.report.show import as_json, population_of, show
from searchspaces import Choice, Float, Space
from tests.integration.sized import search as sized_search
from tests.report.drawn import drawn, illegible, words


def search(storage, **changes):
    """Twelve generations in each of three slots; a run to the end takes four."""
    fields = {
        "space": Space({"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)}),
        "budget": {"members": 3, "generations": 12, "steps": 5},
        "strategy": pbt.ASHA(target_generations=4, reduction_factor=2),
    }
    return pbt.Sweep(
        trainable="quadratic",
        objective="Q",
        hosts={"kind": "local"},
        storage=storage,
        tracking=False,
        **{**fields, **changes},
    ).run(progress=False)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return search(tmp_path_factory.mktemp("searched"))


def test_effort_is_what_was_trained(searched):
    found = effort(searched)
    rows = sorted(searched.rows["outcomes"], key=lambda row: row["at"])
    assert [row["member"] for row in rows] == found.member.tolist()
    assert [row["consumed_end"] for row in rows] == found.reached.tolist()
    assert found.spent[-1] == pytest.approx(sum(found.steps) / 20)
    complete = [row["score"] for row in rows if row["consumed_end"] == 20]
    assert found.best[-1] == max(complete)
    first = next(index for index, row in enumerate(rows) if row["consumed_end"] == 20)
    assert np.isnan(found.best[:first]).all()
    assert found.best[first] == complete[0]


def test_shares_are_of_all_steps():
    """One that came to 30 in steps of 10, one that came to 10."""
    found = Effort(
        member=np.array([0, 1, 0, 0]),
        spent=np.arange(4.0),
        reached=np.array([10.0, 10.0, 20.0, 30.0]),
        steps=np.full(4, 10.0),
        score=np.zeros(4),
        best=np.zeros(4),
        target=30,
        num_begun=2,
        unit="steps",
    )
    np.testing.assert_allclose(found.share_between(np.array([0.0, 10.0, 30.0])), [0.5, 0.5])
    np.testing.assert_allclose(found.share_between(np.array([0.0, 5.0, 15.0, 30.0])), [0.25, 0.375, 0.375])


def test_it_is_drawn_and_can_be_read(searched):
    figure = search_figure(searched)
    assert illegible(figure) == []
    begun = len(searched.lineage.members)
    assert any(f"{begun} configurations" in word for word in words(figure))
    assert len(drawn(figure, "segments").get_offsets()) == len(searched.rows["outcomes"])


def test_what_the_model_expects_is_drawn_and_can_be_read(searched):
    """A line for each of the next best that was stopped, and a slice for each hyperparameter."""
    found, figure = expected(searched), expected_figure(searched)
    assert illegible(figure) == []
    going = sum(steps[-1] < 20 for steps, _ in found.curves)
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    assert sum(line.get_gid() == "ahead" for line in lines) == min(6, going)
    slices = [line for line in lines if line.get_gid() == "slice"]
    assert len(slices) == 2
    assert {len(line.get_xdata()) for line in slices} == {41}
    assert searched.best.score == max(scores[-1] for steps, scores in found.curves if steps[-1] == 20)


def test_what_is_expected_of_what_was_seen_is_what_was_seen(searched):
    """In the units of the objective."""
    found = expected(searched)
    at_target = found.at_target()
    for run, (steps, scores) in enumerate(found.curves):
        if steps[-1] == found.target:
            assert at_target[run] == pytest.approx(scores[-1], abs=0.25 * found.deviation)
        ahead, mean, deviation = found.ahead(run)
        assert (ahead[0], ahead[-1]) == (pytest.approx(steps[-1]), pytest.approx(20))
        assert mean[-1] == pytest.approx(at_target[run])
        assert deviation[0] <= deviation[-1] + 1e-9


def test_slices_of_a_space_with_conditions_are_drawn(tmp_path):
    """Other values of a parent have other children, or none."""
    space = Space({"h0": Choice([0.25, 0.5]), "h1": Float(0.0, 1.0, when={"h0": 0.5})})
    assert illegible(expected_figure(search(tmp_path, space=space))) == []


def test_too_few_scores_expect_nothing(tmp_path):
    few = search(
        tmp_path,
        budget={"members": 2, "generations": 2, "steps": 5},
        strategy=pbt.RandomSearch(target_generations=1),
    )
    assert "fewer than 8 scores" in words(expected_figure(few))


def test_a_report_of_a_search_has_both(searched, tmp_path):
    page = write_report(searched, tmp_path / "report.html").read_text()
    assert page.count("How far each configuration was trained") == 1
    assert page.count("How a model expects curves that were stopped") == 1


def test_it_is_the_first_picture_of_a_search(searched):
    assert next(iter(figures(searched))) == "search"
    assert (searched.run.path / "plots" / "search.png").is_file()


# ---------------------------------------------------------------------------------------------------------- words


def printed_by(show):
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    show(console)
    return console.file.getvalue()


def test_plain_progress_counts_configurations(searched):
    """A line for each tenth, as far as rows come in pieces; generations mean nothing here."""

    def follow(console):
        rows = list(Tail(LedgerReader(searched.run.path)).poll())
        with Progress(searched.run.info, console) as progress:
            for number in range(0, len(rows), 20):
                progress.update(rows[number : number + 20])

    said = printed_by(follow)
    assert "3 members x 12 generations of 5 steps, a run to the end takes 20 steps" in said
    assert " generation " not in said
    tenths = [line for line in said.splitlines() if "% trained" in line]
    assert 5 <= len(tenths) <= 9
    assert "configurations, 0 trained to the end" in tenths[0]
    begun, complete = len(searched.lineage.members), len([it for it in effort(searched).reached if it == 20])
    assert f"; {begun} configurations, {complete} trained to the end, 0 failures" in said


def test_the_first_line_tells_how_much_is_known_beforehand(searched):
    info = json.loads(json.dumps(searched.run.info))
    info["spec"]["strategy"]["options"]["earlier"] = [{"hparams": {}, "curve": [[1, 2.0]]}] * 3

    def follow(console):
        with Progress(info, console):
            pass

    assert "a run to the end takes 20 steps, 3 earlier runs known; " in printed_by(follow)


def test_events_tell_who_was_trained_to_the_end(searched):
    def follow(console):
        events = Events(searched.run, console)
        events.update(Tail(LedgerReader(searched.run.path)).poll())
        events.end(searched)

    told = [json.loads(line) for line in printed_by(follow).splitlines()]
    assert told[0]["target_steps"] == 20
    complete = [event for event in told if event["event"] == "complete"]
    assert {event["member"] for event in complete} == {
        row["member"] for row in searched.rows["outcomes"] if row["consumed_end"] == 20
    }
    assert searched.best.member in {event["member"] for event in complete}
    assert "generation" not in {event["event"] for event in told}
    assert told[-1]["share"] == 1.0


def test_show_tells_how_many_were_tried(searched):
    facts = json.loads(as_json(searched))["summary"]["search"]
    assert (20, len(searched.lineage.members)) == (facts["steps"], facts["begun"])
    assert "tried" in printed_by(lambda console: show(searched, console))
    assert "beyond it may be better" not in printed_by(lambda console: show(searched, console))


def test_show_tells_what_smaller_models_count(tmp_path):
    """Within a budget of the wanted one's steps; as long as it goes on, models of one size are compared."""
    sized = sized_search(tmp_path, "local").run(progress=False)
    sizes, population = Sizes(sized.run.info), population_of(sized)
    wanted = [sizes.is_wanted(row.hparams) for row in population.ranked()]
    assert wanted == sorted(wanted, reverse=True)
    consumed = {row["member"]: row for row in sized.rows["outcomes"]}
    counted = sum(row["consumed_end"] * sizes.rate(population.row(it).hparams) for it, row in consumed.items())
    assert counted <= 4 * 16 * 10
    said = printed_by(lambda console: show(sized, console))
    assert f" member-steps that count as {counted:,.0f} of the wanted model, " in said
    again = next(row for row in sized.rows["decisions"] if row["kind"] == "start" and "again" in row["reason"])
    before = int(again["reason"].split()[1])
    told = {name: it for name, it in json.loads(again["hparams"]).items() if name != "width"}
    assert told == {name: it for name, it in population.row(before).hparams.items() if name != "width"}


def test_show_tells_that_the_winner_lies_at_the_edge_of_the_space(tmp_path):
    """On a log scale only: elsewhere bounds may be natural."""
    space = Space({"h0": Float(0.01, 0.1, log=True), "h1": Float(0.0, 1.0)})
    initial = [{"h0": 0.1, "h1": 0.0}] * 3
    edge = search(tmp_path, space=space, strategy=pbt.RandomSearch(initial=initial, target_generations=12))
    assert json.loads(as_json(edge))["summary"]["at_edge"] == ["h0"]
    assert "for h0: beyond it may be better" in printed_by(lambda console: show(edge, console))


def test_why_tells_when_a_slot_was_left_and_taken(searched):
    """Of the member itself, and not of all others."""
    thawed = next(row["member"] for row in searched.rows["decisions"] if row["kind"] == "thaw")
    own = [row["kind"] for row in searched.rows["decisions"] if row["member"] == thawed]
    entries = searched.story(thawed)
    kinds = [entry.kind for entry in entries]
    assert (kinds.count("freeze"), kinds.count("thaw")) == (own.count("freeze"), own.count("thaw"))
    words_ = [sentence(entry, ["h0", "h1"]) for entry in entries if entry.kind == "thaw"]
    assert words_[0].startswith("took a slot again, with its own weights: rank ")

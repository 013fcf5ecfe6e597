"""The driver's eye: whatever befalls it, the sweep is not lost."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from pbt.errors import SpecError
from pbt.record.mlflow_address import connect, quiet
from pbt.record.result import Result
from pbt.record.runs import open_run, remember_end
from pbt.report import watch
from pbt.report.lineage_page import unpack
from pbt.report.plots import FIRST
from pbt.report.watch import Watch, catch_up, check_tracking
from pbt.spec import Tracking
from tests import ledgers
from tests.mirrors import Store


def watched(tmp_path: Path, tracking: Tracking, generations: int = 1) -> str:
    """Follow a finished run from beginning to end, half a minute for each generation; returns what was printed."""
    run = open_run(ledgers.simulate(tmp_path / "run", members=4, generations=generations))
    console = Console(file=io.StringIO(), width=200)
    with Watch(run, tracking, show=True, console=console) as eye:
        eye.finish()
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_sweep_is_told_and_drawn(tmp_path: Path) -> None:
    """Every generation as a line, and the plots in its folder."""
    printed = watched(tmp_path, Tracking(enabled=False))
    assert "generation 1/1" in printed
    assert "finished" in printed
    drawn = {file.name for file in (tmp_path / "run" / "plots").iterdir()}
    assert {"lineage.png", "curves.png", "schedules.png"} == drawn


@pytest.mark.parametrize(("generations", "names"), [(1, FIRST), (2, None)], ids=["half a minute", "a minute"])
def test_a_short_sweep_does_not_wait_for_all_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generations: int, names: object
) -> None:
    """Only one that took a minute ends with all there are."""
    asked: list[object] = []
    monkeypatch.setattr("pbt.report.plots.write_plots", lambda *arguments: asked.append(arguments[-1]))
    watched(tmp_path, Tracking(enabled=False), generations)
    assert [names] == asked


@pytest.mark.parametrize("broken", ["open_mirror", "end_mirror", "remember_page"])
def test_a_finished_sweep_is_not_lost_to_its_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A mirror that breaks in any way is one warning that says what to do."""

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, "open_mirror", lambda run, tracking: None)
    monkeypatch.setattr(watch, broken, fail)
    if broken != "open_mirror":
        monkeypatch.setattr(watch, "open_mirror", lambda run, tracking: Silent())
    printed = watched(tmp_path, Tracking())
    assert "No space left on device" in printed
    assert "pbt sync" in printed


class Silent:
    """A mirror that takes everything."""

    last_error = None

    def sync(self) -> int:
        return 0

    def finish(self, *arguments: object) -> bool:
        return True


def test_a_finished_sweep_is_not_lost_to_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong is said, and the rest is done."""

    def fail(*arguments: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("pbt.report.plots.write_plots", fail)
    assert "No plots: ValueError: no font" in watched(tmp_path, Tracking(enabled=False))


def test_what_a_sweep_leaves_to_look_at_goes_to_its_mirror(tmp_path: Path) -> None:
    """Plots, the lineage page and the description; what is not there is passed over by the mirror."""
    sent: list[Path] = []

    class Taking(Silent):
        def finish(self, status: str, best: object, artifacts: list[Path]) -> bool:
            sent.extend(artifacts)
            return True

    result = Result(open_run(ledgers.simulate(tmp_path / "run", members=4, generations=2)))
    watch.end_mirror(Taking(), result, "finished")  # type: ignore[arg-type]
    assert [result.path / name for name in ("plots", "lineage.html")] == sent


def _facts(page: Path) -> dict[str, object]:
    """What a lineage page says of its run."""
    (data,) = re.findall(r'id="data">(.*?)</script>', page.read_text(), re.S)
    return dict(unpack(data)[0]["run"])


@pytest.mark.parametrize("error", [None, "no answer"])
def test_the_page_a_sweep_leaves_links_to_its_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str | None
) -> None:
    """Also that among the artifacts; a mirror that does not answer is not linked to."""
    address = "http://127.0.0.1:5000/#/experiments/1/runs/ab"
    kept: list[dict[str, object]] = []

    class Taking(Silent):
        last_error = error

        def finish(self, status: str, best: object, artifacts: list[Path]) -> bool:
            kept.extend(_facts(path) for path in artifacts if path.suffix == ".html")
            return True

        def ui(self) -> tuple[None, str]:
            return None, address

    monkeypatch.setattr(watch, "open_mirror", lambda run, tracking: Taking())
    watched(tmp_path, Tracking())
    assert [None if error else address] == [facts["mlflow"] for facts in kept]


def test_the_environments_server_is_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow 3 has no file store; better said now than at the end."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///tmp/mlruns")
    with pytest.raises(SpecError, match=r"^MLFLOW_TRACKING_URI: MLflow cannot track to 'file:///tmp/mlruns'"):
        check_tracking(Tracking())
    check_tracking(Tracking(uri="sqlite:///mine.db"))


@pytest.mark.parametrize(
    ("costs", "waits"),
    [([0.001] * 4, [2.0] * 4), ([0.05] * 4, [2.0, 2.0, 5.0, 5.0]), ([9.0, 9.0, 0.001], [2.0, 2.0, 60.0])],
)
def test_what_is_costly_is_done_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costs: list[float], waits: list[float]
) -> None:
    """It takes a hundredth of a core, but waits a minute at most; the first turn, which imports, does not count."""
    eye = Watch(open_run(ledgers.tell(tmp_path / "run")), Tracking(enabled=False), show=False)
    waited: list[float] = []
    spent = [0.0]
    left = iter(costs)

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) > len(costs)

    def task() -> None:
        spent[0] += next(left)

    monkeypatch.setattr(eye._stop, "wait", wait)
    monkeypatch.setattr(watch.time, "thread_time", lambda: spent[0])
    eye._repeat(task, 2.0, 0.01)
    assert pytest.approx(waits) == waited[: len(costs)]


# --------------------------------------------------------------------------------------------------- pbt sync


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A database."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('sync') / 'mlflow.db'}"
    with quiet():
        return Store(uri, connect(uri))


def _tracked(run: Path, **tracking: object) -> Path:
    """A run that goes by other options, in an experiment of its own."""
    info = json.loads((run / "run.json").read_text())
    info["spec"]["tracking"] |= {"experiment": run.name, **tracking}
    (run / "run.json").write_text(json.dumps(info))
    return run


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (None, "KILLED"),
        pytest.param("stopped", "KILLED", marks=pytest.mark.full),
        pytest.param("failed", "FAILED", marks=pytest.mark.full),
    ],
    ids=["killed", "stopped", "failed"],
)
def test_of_a_run_that_nobody_trains_mlflow_is_told_the_end(
    store: Store, tmp_path: Path, end: str | None, status: str
) -> None:
    """Also if its driver did not live to do that, or to leave the page: nothing is running any more."""
    name = f"nobody trains {end}"
    run = open_run(_tracked(ledgers.tell(tmp_path / name, commits=4), uri=store.uri))
    if end:
        remember_end(run, end, "why")
    assert catch_up(run).error is None
    runs = store.runs(name)
    parent = runs[name]
    assert (parent.info.status, parent.data.tags["pbt.status"]) == (status, end or "stopped")
    assert "RUNNING" not in {each.info.status for each in runs.values()}
    kept = {file.path for file in store.client.list_artifacts(parent.info.run_id)}
    assert {"lineage.html", "sweep.yaml"} <= kept
    assert json.loads((run.path / "mlflow.json").read_text())["url"] == _facts(run.path / "lineage.html")["mlflow"]


def test_of_a_run_under_way_mlflow_is_not_told_an_end(store: Store, tmp_path: Path) -> None:
    """That is for its own driver."""
    story = ledgers.story(tmp_path / "under way")
    for _ in range(4):
        next(story)
    assert catch_up(open_run(_tracked(tmp_path / "under way", uri=store.uri))).error is None
    runs = store.runs("under way")
    assert [runs[name].info.status for name in ("under way", "member 0")] == ["RUNNING", "RUNNING"]
    story.close()


def test_a_run_that_was_not_to_be_tracked_is_copied_to_where_one_says(store: Store, tmp_path: Path) -> None:
    """And nowhere else: no database is made behind one's back."""
    run = open_run(_tracked(ledgers.tell(tmp_path / "off"), enabled=False))
    with pytest.raises(SpecError, match=r"^tracking\.enabled: off is not to be in MLflow\. Say where .* --uri sqlite"):
        catch_up(run)
    assert not (tmp_path / "mlflow.db").exists()
    assert catch_up(run, store.uri).behind == 0
    assert store.runs("off")["off"].info.status == "FINISHED"

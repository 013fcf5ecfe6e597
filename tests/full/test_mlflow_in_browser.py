"""A real sweep into a real MLflow server, which is killed in the middle; then its UI, as a person meets it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pbt
from pbt import Checkpoints, Hosts, Result, Sweep, Tracking
from pbt.record.mlflow_address import connect, quiet
from pbt.report.watch import end_mirror
from tests.full.browser import chromium
from tests.full.servers import Server
from tests.mirrors import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.full

EXPERIMENT = "browse"
MEMBERS, GENERATIONS = 4, 20
#: Of a page of the UI, to be there, on a slow machine.
PATIENCE_MS = 60_000


@dataclass(frozen=True)
class Mirrored:
    """A sweep, and the server that has it."""

    server: Server
    result: Result
    store: Store

    def page(self, place: str) -> str:
        """The address of a page of the experiment."""
        experiment = self.store.experiment_id(EXPERIMENT)
        return f"{self.server.uri}/#/experiments/{experiment}/{place}?workflowType=machine_learning"


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """A sweep in whose third generation the server is killed; some generations later it is back."""
    folder = tmp_path_factory.mktemp("mlflow")
    server = Server(folder)
    server.start()
    sweep = Sweep(
        name="toy",
        trainable="quadratic",
        space={"h0": {"type": "float", "low": 0.0, "high": 1.0}, "h1": {"type": "float", "low": 0.0, "high": 1.0}},
        objective="Q",
        strategy="pbt",
        budget={"members": MEMBERS, "generations": GENERATIONS, "steps": 6_000},
        hosts=Hosts(kind="local", stacks=1),
        checkpoints=Checkpoints(every_steps=6_000),
        storage=folder / "runs",
        tracking=Tracking(uri=server.uri, experiment=EXPERIMENT),
    )

    def befall() -> None:
        _await(lambda: _generation(folder / "runs") >= 3)
        server.kill()
        away = _generation(folder / "runs")
        _await(lambda: _generation(folder / "runs") >= away + 2)
        server.start()

    accident = threading.Thread(target=befall, daemon=True)
    accident.start()
    result = sweep.run(progress=False)
    accident.join(timeout=300)
    assert not accident.is_alive()
    with quiet():
        store = Store(server.uri, connect(server.uri))
    yield Mirrored(server, result, store)
    server.kill()


def _await(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _generation(storage: Path) -> int:
    """The newest generation of the one run there is."""
    manifests = list(storage.glob("*/ledger/manifest.json"))
    rows = pbt.load(manifests[0].parents[1]).rows["segments"] if manifests else []
    return max((row["generation"] for row in rows), default=-1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all."""
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab."""
    found = browser.new_page(viewport={"width": 1600, "height": 1600})
    found.set_default_timeout(PATIENCE_MS)
    yield found
    found.close()


# -------------------------------------------------------------------------------------------------- what is there


def test_every_run_tag_and_metric_is_there_exactly_once(mirrored: Mirrored, tmp_path: Path) -> None:
    """As in a database into which the same ledger is mirrored undisturbed; a name that is there twice fails."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with quiet():
        calm = Store(uri, connect(uri))
    mirror = calm.mirror(mirrored.result.path, EXPERIMENT, segment_runs=200)
    assert end_mirror(mirror, mirrored.result, "finished")
    wanted, found = calm.everything(EXPERIMENT), mirrored.store.everything(EXPERIMENT)
    assert set(wanted) == set(found)
    for name, there in wanted.items():
        assert there == found[name]
    assert {"RUNNING"}.isdisjoint(run["times"][2] for run in found.values() if "times" in run)
    members = {f"member {member}" for member in range(MEMBERS)}
    segments = {f"member {member} segment {index:02d}" for member in range(MEMBERS) for index in range(GENERATIONS)}
    assert {mirrored.result.run.id} | members | segments <= set(found)


# -------------------------------------------------------------------------------------------------------- browsing


def test_the_experiment_shows_the_sweep_with_its_members_below_it(mirrored: Mirrored, page: Page) -> None:
    """Nested: the sweep first, its members when it is opened, their segments when those are."""
    page.goto(mirrored.page("runs"))
    sweep = page.get_by_role("link", name=mirrored.result.run.id)
    sweep.wait_for()
    runs = 1 + MEMBERS + MEMBERS * GENERATIONS
    page.get_by_text(f"{runs} matching runs").wait_for()
    assert page.get_by_role("link", name="member 0", exact=True).count() == 0
    _expand(page, mirrored.result.run.id)
    for member in range(MEMBERS):
        page.get_by_role("link", name=f"member {member}", exact=True).wait_for()
    _expand(page, "member 0")
    page.get_by_role("link", name="member 0 segment 00", exact=True).wait_for()


def _expand(page: Page, name: str) -> None:
    """Open the row of a run."""
    row = page.locator("[role=row], .ag-row", has=page.get_by_role("link", name=name, exact=True)).first
    row.locator("[data-testid=expander-button], [aria-label*=xpand], button, svg").first.click()


def test_the_page_of_an_exploit_shows_whose_weights_it_took_over(mirrored: Mirrored, page: Page) -> None:
    """As an input, beside what it made of them as an output; a click leads to the donor's model and its maker."""
    exploit, donor = _kept_exploit(mirrored)
    runs = mirrored.store.runs(EXPERIMENT)
    page.goto(mirrored.page(f"runs/{runs[exploit].info.run_id}"))
    page.get_by_text("Logged models", exact=False).first.wait_for()
    models = _text_after(page, "Logged models")
    assert re.search(rf"Input\b.*{donor}\b", models)
    assert re.search(r"Output\b.*member-", models)
    page.get_by_role("link", name=donor, exact=True).first.click()
    page.get_by_text("About this logged model").wait_for()
    maker = donor.replace("-", " ")
    page.get_by_role("link", name=re.compile(maker.replace("segment ", "segment 0?"))).first.wait_for()


def _kept_exploit(mirrored: Mirrored) -> tuple[str, str]:
    """The run of a segment that is a copy, and the model it took over, where both models are there."""
    runs, models = mirrored.store.runs(EXPERIMENT), mirrored.store.models(EXPERIMENT)
    names = {model.model_id: name for name, model in models.items()}
    for name, run in sorted(runs.items(), reverse=True):
        made = [output.model_id for output in run.outputs.model_outputs if output.model_id in names]
        if run.data.tags.get("pbt.start") == "copied" and run.inputs.model_inputs and made:
            return name, names[run.inputs.model_inputs[0].model_id]
    raise AssertionError("nobody's copy is kept")


def _text_after(page: Page, heading: str) -> str:
    """What the page says from a heading on, once its table is filled."""
    _await(lambda: re.search(rf"{heading} \((\d+)\)(.|\n)*Output", page.inner_text("body")) is not None)
    return " ".join(page.inner_text("body").split(heading, 1)[1].split())


def test_the_lineage_page_works_among_the_artifacts(mirrored: Mirrored, page: Page) -> None:
    """In MLflow's own frame, by the address that is printed at the end of a sweep."""
    runs = mirrored.store.runs(EXPERIMENT)
    sweep = runs[mirrored.result.run.id].info.run_id
    page.goto(mirrored.page(f"runs/{sweep}/artifacts/lineage.html"))
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready=true]").wait_for()
    assert frame.locator("h1").inner_text() == mirrored.result.run.id
    assert "the winner" in frame.locator("#about h2").inner_text()
    frame.locator("#find").fill("copied")
    exploits = len(mirrored.result.lineage.exploits())
    frame.locator("#found", has_text=re.compile(rf"^{exploits} segments? of")).wait_for()


def test_the_address_that_is_printed_leads_to_the_sweep(mirrored: Mirrored, page: Page) -> None:
    """With MLflow's own word for this kind of experiment, without which it shows something else."""
    import json

    told: dict[str, Any] = json.loads((mirrored.result.path / "mlflow.json").read_bytes())
    assert told["command"] is None  # a server is there already
    assert told["url"].endswith("?workflowType=machine_learning")
    page.goto(told["url"])
    page.get_by_role("heading", name=mirrored.result.run.id).wait_for()

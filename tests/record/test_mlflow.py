"""The MLflow mirror: what it shows, that it never doubles anything, and that it never stands in training's way."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import socket
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from pbt.config import read_sweep
from pbt.errors import SpecError
from pbt.record import mlflow_address
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.mlflow import RETRY_S, Mirror
from pbt.record.mlflow_address import SERVER_MANNERS, connect, make_database, quiet, ui_command
from pbt.spec import to_dict
from tests import ledgers, mirrors
from tests.mirrors import WINNER, Flaky, Stopwatch, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with quiet():
        return Store(uri, connect(uri))


@pytest.fixture(scope="module")
def told(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The scripted sweep, mirrored whole: MLflow's runs by name."""
    run = ledgers.tell(tmp_path_factory.mktemp("told") / "made-up-1")
    mirror = store.mirror(run, "told")
    assert mirror.finish("finished", WINNER, [run / "run.json", run / "ledger", run / "missing.png"]), mirror.last_error
    return store.runs("told")


# ------------------------------------------------------------------------------------------------- what it shows


def test_a_sweep_is_one_run_with_a_run_for_each_member_below(told: dict[str, Any]) -> None:
    parent = told["made-up-1"].info.run_id
    members = {name: run for name, run in told.items() if name != "made-up-1"}
    assert sorted(members) == [f"member {member}" for member in range(6)]
    assert {run.data.tags["mlflow.parentRunId"] for run in members.values()} == {parent}
    assert [members[f"member {member}"].data.tags["pbt.member"] for member in range(6)] == list("012345")
    assert {run.data.tags["pbt.run_id"] for run in told.values()} == {"made-up-1"}


def test_the_sweep_s_params_are_its_spec_and_space(told: dict[str, Any]) -> None:
    params = told["made-up-1"].data.params
    assert params["trainable.name"] == "language"
    assert params["budget.members"] == "6"
    assert params["objective.mode"] == "min"
    assert json.loads(params["space.lr"]) == ledgers.SPACE["lr"]
    assert params["fixed.momentum"] == "0.9"
    assert not [name for name in params if name.startswith("tracking")], "an address may hold a password"


def test_the_sweep_s_tags_name_its_data_digest_and_winner(told: dict[str, Any], store: Store) -> None:
    parent = told["made-up-1"]
    tags = parent.data.tags
    assert tags["pbt.kind"] == "sweep"
    assert tags["pbt.data.sha256"] == "ab" * 32
    assert tags["pbt.version.torch"] == "2.13.0"
    assert len(tags["pbt.digest"]) == 64
    assert tags["pbt.status"] == "finished"
    assert tags["pbt.best_member"] == "1"
    assert tags["pbt.best_run_id"] == told["member 1"].info.run_id
    assert parent.data.metrics["best/score"] == 1.3
    assert parent.data.metrics["best/test/bits_per_byte"] == 1.35
    assert store.history(parent, "best_score") == [(100, 2.0), (200, 1.8), (200, 1.6), (300, 1.5), (400, 1.3)]


def test_the_corpus_is_the_sweep_s_data_set(told: dict[str, Any]) -> None:
    (data,) = told["made-up-1"].inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("corpus/", ("ab" * 32)[:36])


def test_artifacts_lie_where_they_were_told_to(told: dict[str, Any], store: Store) -> None:
    parent = told["made-up-1"].info
    assert "/artifacts/told/" in parent.artifact_uri
    assert sorted(file.path for file in store.client.list_artifacts(parent.run_id)) == [
        "environment.json",
        "ledger",
        "run.json",
        "sweep.yaml",
    ]


def test_runs_end_when_and_as_their_members_did(told: dict[str, Any]) -> None:
    statuses = {name: run.info.status for name, run in told.items()}
    assert statuses.pop("member 3") == "FAILED"
    assert set(statuses.values()) == {"FINISHED"}
    assert told["member 3"].data.tags["pbt.reason"] == ledgers.FAILURE
    assert told["made-up-1"].info.start_time == 1_700_000_000_000
    assert told["member 3"].info.end_time < told["member 2"].info.end_time < told["made-up-1"].info.end_time


@pytest.mark.parametrize(
    ("member", "ancestry", "exploit"),
    [
        (0, ["0.0", "0.1", "0.2", "0.3"], None),
        (1, ["0.0", "5.1", "5.2", "1.3"], "gen 4 <- member 5"),
        (3, ["3.0", "3.1"], None),
        (4, ["1.0", "4.1", "4.2", "4.3"], "gen 2 <- member 1"),
        (5, ["0.0", "5.1", "5.2", "5.3"], "gen 2 <- member 0"),
    ],
)
def test_ancestry_is_in_tags(told: dict[str, Any], member: int, ancestry: list[str], exploit: str | None) -> None:
    tags = told[f"member {member}"].data.tags
    assert json.loads(tags["pbt.ancestry"]) == ancestry
    assert tags["pbt.root_member"] == ancestry[0].split(".")[0]
    assert tags.get("pbt.last_exploit") == exploit
    assert tags["pbt.num_exploits"] == ("0" if exploit is None else "1")
    assert tags.get("pbt.parent_member") == (exploit.split()[-1] if exploit else None)


def test_a_changing_hyperparameter_is_a_staircase_over_consumed(told: dict[str, Any], store: Store) -> None:
    """Its value at the start and end of every stretch; the newest counts, though both lie at one step."""
    member = told["member 1"]
    before = [(0, 0.002), (100, 0.002), (200, 0.002), (300, 0.002)]
    assert store.history(member, "hparams/lr") == [*before, (300, 0.012), (400, 0.012)]
    assert member.data.metrics["hparams/lr"] == 0.012
    assert "lr" not in member.data.params
    assert not member.data.params
    assert json.loads(member.data.tags["pbt.hparams"])["lr"] == 0.012


@pytest.mark.parametrize(
    ("member", "key", "value"),
    [
        (5, "hparams/optimizer", 1.0),  # adamw, the second option
        (1, "hparams/optimizer", 0.0),
        (0, "hparams/nesterov", 1.0),
        (1, "hparams/nesterov", 0.0),
        (2, "hparams/mix/books", 0.25),
        (2, "hparams/mix/web", 0.75),
    ],
)
def test_every_kind_of_hyperparameter_is_a_number(told: dict[str, Any], member: int, key: str, value: float) -> None:
    assert told[f"member {member}"].data.metrics[key] == value


def test_options_are_spelt_out_in_tags_and_fixed_ones_left_out(told: dict[str, Any]) -> None:
    run = told["member 5"]
    assert run.data.tags["pbt.hparams.optimizer"] == "adamw"
    assert "hparams/momentum" not in run.data.metrics


def test_metrics_lie_over_consumed_at_the_ledger_s_own_times(
    told: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    rows = LedgerReader(ledgers.tell(tmp_path / "made-up-1")).rows()["metrics"]
    own = [row for row in rows if row["member"] == 5 and row["split"] == "validation"]
    points = store.client.get_metric_history(told["member 5"].info.run_id, "validation/bits_per_byte")
    assert [(p.step, p.value) for p in points] == [(100, 2.5), (200, 1.6), (300, 1.5), (400, 1.4)]
    assert [p.timestamp for p in points] == [round(row["at"] * 1e6) // 1000 for row in own]
    assert store.history(told["member 5"], "score") == store.history(told["member 5"], "validation/bits_per_byte")


def test_speed_memory_and_energy_are_system_metrics_of_the_member(store: Store, tmp_path: Path) -> None:
    """As measured, at the end of the segment; what is not known is not there."""
    measured = [("tokens_per_s", 700.0), ("memory_bytes", 2e6)]
    end = {"status": "ended", "age_end": 100, "consumed_end": 100, "score": 1.5, "flops": 6e9, "joules": None}
    run = _one_member(tmp_path / "measured", [("system", name, 100, value) for name, value in measured], **end)
    store.mirror(run, "measured").sync()
    found = store.runs("measured")["member 0"].data.metrics
    system = {name: value for name, value in found.items() if name.startswith("system/")}
    assert system == {"system/tokens_per_s": 700.0, "system/memory_bytes": 2e6, "system/flops": 6e9}


def test_what_the_sweep_has_cost_lies_over_the_seconds_it_ran(store: Store, tmp_path: Path) -> None:
    """All sessions together, each of which counts from 0; what one of them could not measure is left out."""
    run = mirrors.tell_eventful(tmp_path / "costs")
    store.mirror(run, "costs").sync()
    parent = store.runs("costs")["costs"]
    assert store.history(parent, "system/wall_s") == [(30, 30.0), (60, 60.0), (90, 90.0)]
    assert store.history(parent, "system/device_s") == [(30, 60.0), (60, 120.0), (90, 180.0)]
    assert store.history(parent, "system/tokens") == [(30, 150_000), (60, 300_000), (90, 450_000)]
    assert "system/joules" not in parent.data.metrics


def test_what_a_node_does_has_the_name_that_mlflow_s_own_monitor_gives_it(store: Store, tmp_path: Path) -> None:
    """On the sweep, over the whole seconds that it ran: MLflow's UI shows it under "System metrics"."""
    run = mirrors.tell_eventful(tmp_path / "nodes")
    store.mirror(run, "nodes").sync()
    told = store.history(store.runs("nodes")["nodes"], "system/node_0/cpu_utilization_percentage")
    assert told == [(29, 90.0), (59, 91.0), (89, 92.0)]


def test_the_sweep_s_tags_tell_its_sessions_and_incidents(store: Store, tmp_path: Path) -> None:
    """With what it was taken up last, and how often."""
    store.mirror(mirrors.tell_eventful(tmp_path / "sessions"), "sessions").sync()
    tags = store.runs("sessions")["sessions"].data.tags
    assert (tags["pbt.sessions"], tags["pbt.resumed"]) == ("2", "1")
    assert (tags["pbt.version.python"], tags["pbt.version.torch"]) == ("3.11.9", "2.13.1")
    assert tags["pbt.hardware.cores"] == "8"
    assert json.loads(tags["pbt.hardware.gpus"]) == mirrors.HARDWARE["gpus"]
    assert (tags["pbt.git_commit"], tags["mlflow.source.git.commit"]) == (f"{mirrors.COMMIT}+changes", mirrors.COMMIT)
    assert json.loads(tags["pbt.incidents"]) == {"checkpoint_damaged": 1}


def test_a_member_s_tag_names_the_newest_checkpoint_that_is_there(store: Store, tmp_path: Path) -> None:
    """Member 2's second is damaged; member 1 has none between the removal of its first and its last."""
    said = []
    mirror = None
    for _ in mirrors.eventful(tmp_path / "newest"):
        mirror = mirror or store.mirror(tmp_path / "newest", "newest")
        mirror.sync()
        runs = store.runs("newest")
        said.append([runs[f"member {member}"].data.tags.get("pbt.checkpoint") for member in (1, 2)])
    assert said[0] == [None, None]
    assert said[3] == ["none", mirrors.digest(2, 0)]
    assert said[5] == ["none", mirrors.digest(2, 1)]
    assert said[-1] == ["cd" * 32, mirrors.digest(2, 0)]


def test_the_spec_is_kept_as_a_sweep_file(told: dict[str, Any], store: Store, tmp_path: Path) -> None:
    """It can be run again."""
    file = store.client.download_artifacts(told["made-up-1"].info.run_id, "sweep.yaml", str(tmp_path))
    info = json.loads((ledgers.tell(tmp_path / "again", commits=1) / "run.json").read_text())
    assert to_dict(read_sweep(Path(file))) == info["spec"]


def test_what_is_kept_of_the_spec_holds_no_secret(store: Store, tmp_path: Path) -> None:
    """Nor do the params. A sweep refuses most of them; a run made by hand may have any."""
    run = ledgers.tell(tmp_path / "secret")
    info = json.loads((run / "run.json").read_text())
    address = "https://me:hunter2@host/data"
    info["spec"]["tracking"]["uri"] = info["spec"]["archive"] = address
    info["spec"]["trainable"]["options"] |= {"corpus": address, "more": [address, {"there": address}, "corpus/"]}
    (run / "run.json").write_text(json.dumps(info))
    mirror = store.mirror(run, "secret")
    assert mirror.finish("finished", WINNER)
    parent = store.runs("secret")["secret"]
    file, run_json = (
        Path(store.client.download_artifacts(parent.info.run_id, name, str(tmp_path)))
        for name in ("sweep.yaml", "run.json")
    )
    assert "hunter2" not in file.read_text() + run_json.read_text()
    assert "hunter2" not in str(parent.data.params) + str(parent.data.tags)
    left = {"width": 64, "more": [{}, "corpus/"]}
    assert read_sweep(file).trainable.options == left
    assert json.loads(run_json.read_text())["spec"]["trainable"]["options"] == left


def test_the_environment_of_every_session_is_kept(store: Store, tmp_path: Path) -> None:
    """The last one's first."""
    mirror = store.mirror(mirrors.tell_eventful(tmp_path / "environment"), "environment")
    assert mirror.finish("finished", WINNER)
    file = store.client.download_artifacts(mirror.parent_id, "environment.json", str(tmp_path))
    found = json.loads(Path(file).read_text())
    assert found["software"] == mirrors.SOFTWARE | {"torch": "2.13.1"}
    assert found["hardware"] == mirrors.HARDWARE
    assert found["git_commit"] == f"{mirrors.COMMIT}+changes"
    assert [(entry["reason"], entry["software"]["torch"]) for entry in found["sessions"]] == [
        ("start", "2.13.0"),
        ("resume", "2.13.1"),
    ]


def test_only_the_winner_has_a_test_score(told: dict[str, Any]) -> None:
    scores = {name: run.data.metrics.get("test/bits_per_byte") for name, run in told.items()}
    assert {name: score for name, score in scores.items() if score is not None} == {"member 1": 1.35}


def test_a_score_that_is_no_number_stays_none(told: dict[str, Any], store: Store) -> None:
    first, *others = store.history(told["member 4"], "validation/bits_per_byte")
    assert math.isnan(first[1])
    assert others == [(200, 2.05), (300, 1.9), (400, 1.75)]


def test_an_infinite_score_is_told_as_no_number(store: Store, tmp_path: Path) -> None:
    """MLflow would keep 1.8e308 and draw its axes for it."""
    run = _one_member(tmp_path / "infinite", [("validation", "bits_per_byte", 100, math.inf)])
    mirror = store.mirror(run, "infinite")
    mirror.sync()
    assert mirror.last_error is None
    assert math.isnan(store.runs("infinite")["member 0"].data.metrics["validation/bits_per_byte"])


# ------------------------------------------------------------------------------------------------ nothing doubled


def test_sync_tells_how_many_rows_were_new(store: Store, tmp_path: Path) -> None:
    story = ledgers.story(tmp_path / "counted")
    next(story)
    mirror = store.mirror(tmp_path / "counted", "counted")
    assert mirror.sync() == 12  # six starts, six segments
    assert mirror.sync() == 0
    next(story)
    assert mirror.sync() == 18  # six reports: two metrics and an outcome each
    assert mirror.behind == 0


def test_a_second_mirror_adds_nothing(store: Store, tmp_path: Path) -> None:
    run = ledgers.tell(tmp_path / "twice")
    store.mirror(run, "twice").finish("finished", WINNER)
    before = store.everything("twice")
    again = store.mirror(run, "twice")
    assert again.sync() == 0
    assert again.finish("finished", WINNER)
    assert store.everything("twice") == before


def test_following_a_sweep_gives_what_reading_it_at_the_end_gives(store: Store, tmp_path: Path) -> None:
    """Sealed parts keep microseconds, the write-ahead file more; both must come to the same milliseconds."""
    run = tmp_path / "live" / "made-up-1"
    story = ledgers.story(run)
    next(story)
    mirror = store.mirror(run, "followed")
    mirror.sync()
    for _ in story:
        mirror.sync()
    mirror.finish("finished", WINNER)
    late = store.mirror(ledgers.tell(tmp_path / "late" / "made-up-1"), "read at the end")
    late.finish("finished", WINNER)
    assert store.everything("followed") == store.everything("read at the end")


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed mirror of the scripted sweep leaves in MLflow."""
    store.mirror(ledgers.tell(tmp_path_factory.mktemp("whole") / "made-up-1"), "whole").finish("finished", WINNER)
    return store.everything("whole")


def test_a_run_whose_making_was_not_answered_is_found_not_made_again(
    store: Store, tmp_path: Path, whole: dict[str, Any]
) -> None:
    watch, client = Stopwatch(), Flaky(store.client, {3, 14}, late=True)
    run = ledgers.tell(tmp_path / "made-up-1")
    mirror = store.mirror(run, "unanswered", connect=lambda uri: client, clock=watch)
    mirror.finish("finished", WINNER)
    for _ in range(2):
        watch.now += RETRY_S
        mirror.sync()
    assert store.everything("unanswered") == whole


def test_a_run_made_twice_by_a_slow_server_is_left_once(store: Store, tmp_path: Path, whole: dict[str, Any]) -> None:
    """The call timed out, was made again, and then the server did both. The one with the metrics stays."""
    run = ledgers.tell(tmp_path / "made-up-1")
    mirror = store.mirror(run, "slow")
    mirror.sync()
    tags = store.runs("slow")["member 2"].data.tags
    store.client.create_run(mirror.experiment_id, start_time=1, tags=tags, run_name="member 2")
    store.mirror(run, "slow").finish("finished", WINNER)
    assert store.everything("slow") == whole


def test_runs_of_one_name_and_second_on_two_machines_stay_apart(store: Store, tmp_path: Path) -> None:
    """They share a server, and by chance a name; `created` tells them apart."""
    one, other = (ledgers.tell(tmp_path / folder / "made-up-1", commits=1) for folder in ("one", "other"))
    info = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(info | {"created": ledgers.CREATED + 0.000_001}))
    mirrors = [store.mirror(run, "two machines") for run in (one, other)]
    assert [mirror.sync() for mirror in mirrors] == [12, 12]
    assert mirrors[0].parent_id != mirrors[1].parent_id


def test_of_a_change_in_one_moment_the_new_value_counts(store: Store, tmp_path: Path) -> None:
    """MLflow takes the largest of several values of one step and millisecond for the latest."""
    run = ledgers.run_json(tmp_path / "instant", members=1, generations=2, steps=100)
    pen = ledgers.Pen(Ledger(run, lambda: ledgers.CREATED), ledgers.Clock())
    pen.begin(0, 0, {"lr": 0.02})
    pen.settle()
    pen.report(0, 0, score=1.0, train=1.0)
    pen.begin(0, 1, {"lr": 0.01})
    pen.ledger.close(finished=False)
    store.mirror(run, "instant").sync()
    member = store.runs("instant")["member 0"]
    assert store.history(member, "hparams/lr") == [(0, 0.02), (100, 0.02), (100, 0.01)]
    assert member.data.metrics["hparams/lr"] == 0.01


def test_a_sweep_that_goes_on_is_running_again(store: Store, tmp_path: Path) -> None:
    story = ledgers.story(tmp_path / "resumed")
    for _ in range(4):
        next(story)
    store.mirror(tmp_path / "resumed", "resumed").finish("stopped", {})
    assert {run.info.status for run in store.runs("resumed").values()} == {"KILLED", "FAILED"}
    next(story)
    again = store.mirror(tmp_path / "resumed", "resumed")
    again.sync()
    statuses = {name: run.info.status for name, run in store.runs("resumed").items()}
    assert statuses.pop("member 3") == "FAILED"
    assert set(statuses.values()) == {"RUNNING"}
    tags = {name: run.data.tags["pbt.status"] for name, run in store.runs("resumed").items() if name != "member 3"}
    assert set(tags.values()) == {"running"}
    list(story)
    again.finish("finished", WINNER)
    assert "RUNNING" not in {run.info.status for run in store.runs("resumed").values()}


# --------------------------------------------------------------------------------------- a server that is not there


@pytest.mark.full
def test_making_a_database_and_failing_to_write_it_print_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLflow logs every step of the one, and a traceback of the other, which is one line of ours."""
    database = tmp_path / "mlflow.db"
    story = ledgers.story(tmp_path / "silent")
    next(story)
    mirror = Mirror(tmp_path / "silent", uri=f"sqlite:///{database}", experiment="silent")
    mirror.sync()
    assert mirror.last_error is None
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("ALTER TABLE metrics RENAME TO elsewhere")
    next(story)
    mirror.sync()
    assert "no such table: metrics" in str(mirror.last_error)
    assert "\n" not in str(mirror.last_error)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_is_down_costs_nothing_but_freshness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SERVER_MANNERS:
        monkeypatch.delenv(name, raising=False)  # and put back as it was, after the test
    run = ledgers.tell(tmp_path / "offline", commits=2)
    mirror = Mirror(run, uri="http://127.0.0.1:9", experiment="offline")
    assert mirror.sync() == 0
    assert mirror.behind == 30
    assert mirror.last_error == "127.0.0.1:9: connection refused"
    assert not mirror.finish("stopped", {})
    assert not mirror.ended


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://me:hunter2@127.0.0.1:9", "127.0.0.1:9: connection refused"),
        ("http://tracker.invalid", r"tracker\.invalid: .*(name|resolution).*"),
    ],
)
def test_what_the_network_says_is_told_in_a_few_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, says: str
) -> None:
    """Not in those of MLflow and the libraries below it, and without a password."""
    for name in SERVER_MANNERS:
        monkeypatch.delenv(name, raising=False)
    mirror = Mirror(ledgers.tell(tmp_path / "offline", commits=2), uri=uri, experiment="offline")
    mirror.sync()
    assert re.fullmatch(says, str(mirror.last_error))


def test_a_server_that_does_not_answer_in_time_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the call, and says nothing."""
    for name in SERVER_MANNERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        mirror = Mirror(ledgers.tell(tmp_path / "slow", commits=2), uri=f"http://{place}", experiment="slow")
        mirror.sync()
    assert mirror.last_error == f"{place}: timed out"


def test_a_failing_server_is_left_alone_for_a_while(store: Store, tmp_path: Path) -> None:
    watch, client = Stopwatch(), Flaky(store.client, set(range(1000)))
    run = ledgers.tell(tmp_path / "patient", commits=2)
    mirror = store.mirror(run, "patient", connect=lambda uri: client, clock=watch)
    mirror.sync()
    tried = len(client.calls)
    watch.now = RETRY_S - 0.1
    assert mirror.sync() == 0
    assert len(client.calls) == tried
    client.lose, watch.now = set(), RETRY_S
    assert mirror.sync() == 30
    assert (mirror.behind, mirror.last_error) == (0, None)


def test_a_mirror_that_lost_its_server_still_knows_its_page(store: Store, tmp_path: Path) -> None:
    client = Flaky(store.client)
    mirror = store.mirror(ledgers.tell(tmp_path / "lost"), "lost", connect=lambda uri: client)
    mirror.sync()
    page = mirror.ui()
    client.lose = set(range(1000))
    assert not mirror.finish("finished", WINNER)
    assert mirror.ui() == page


def test_an_end_announced_while_the_server_was_down_is_told_later(store: Store, tmp_path: Path) -> None:
    watch, client = Stopwatch(), Flaky(store.client, set(range(1000)))
    mirror = store.mirror(ledgers.tell(tmp_path / "ended"), "ended", connect=lambda uri: client, clock=watch)
    assert not mirror.finish("finished", WINNER)
    client.lose, watch.now = set(), RETRY_S
    mirror.sync()
    assert mirror.ended
    assert store.runs("ended")["ended"].info.status == "FINISHED"


# --------------------------------------------------------------------------------------------------------- limits


def test_batches_stay_within_mlflow_s_limits(store: Store, tmp_path: Path) -> None:
    client = Flaky(store.client)
    points = [("train", "loss", step, 1.0 / (step + 1)) for step in range(2_300)]
    mirror = store.mirror(_one_member(tmp_path / "long", points), "long", connect=lambda uri: client)
    mirror.sync()
    sizes: dict[str, list[int]] = defaultdict(list)
    for name, options in client.calls:
        if name == "log_batch":
            for kind in ("metrics", "params", "tags"):
                sizes[kind].append(len(options.get(kind, ())))
    assert max(sizes["metrics"]) == 1_000
    assert max(sizes["params"]) <= 100
    assert max(sizes["tags"]) <= 100
    assert len(store.history(store.runs("long")["member 0"], "train/loss")) == 2_300


def test_long_values_and_odd_names_are_cut_to_what_mlflow_takes(store: Store, tmp_path: Path) -> None:
    run = ledgers.tell(tmp_path / "odd", commits=1)
    info = json.loads((run / "run.json").read_text())
    info["spec"]["trainable"]["options"] = {"note": "x" * 7_000, "what (unit)?": 1}
    info["data"]["licence"] = "y" * 9_000
    (run / "run.json").write_text(json.dumps(info))
    mirror = store.mirror(run, "odd")
    mirror.sync()
    assert mirror.last_error is None
    parent = store.runs("odd")["odd"]
    assert parent.data.params["trainable.options.note"] == "x" * 5_997 + "..."
    assert parent.data.params["trainable.options.what _unit__"] == "1"
    assert parent.data.tags["pbt.data.licence"] == "y" * 7_997 + "..."


# --------------------------------------------------------------------------------------------------------- the UI


@pytest.mark.parametrize(
    ("uri", "command", "url"),
    [
        (
            "sqlite:////data/my runs/mlflow.db",
            "ui --backend-store-uri 'sqlite:////data/my runs/mlflow.db' --host 127.0.0.1 --port 5000",
            "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning",
        ),
        (
            "postgresql://me:secret@db/mlflow",
            "ui --backend-store-uri 'postgresql://***@db/mlflow' --host 127.0.0.1 --port 5000",
            "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning",
        ),
        ("http://tracker:8080/", None, "http://tracker:8080/#/experiments/3/runs/abc?workflowType=machine_learning"),
        (
            "http://me:secret@tracker:8080",
            None,
            "http://***@tracker:8080/#/experiments/3/runs/abc?workflowType=machine_learning",
        ),
    ],
)
def test_the_command_that_opens_the_ui(uri: str, command: str | None, url: str) -> None:
    said, page = ui_command(uri, experiment_id="3", run_id="abc")
    assert page == url
    assert (said is None) if command is None else (said is not None and said.split("mlflow ", 1)[1] == command)


def test_the_command_that_opens_the_ui_is_the_documented_one(tmp_path: Path) -> None:
    """It starts no helpers, and can be typed in any shell."""
    docs = " ".join((Path(__file__).parents[2] / "docs/mlflow.md").read_text().replace("\\\n", " ").split())
    words = shlex.split(str(ui_command("sqlite:////data/pbt-runs/mlflow.db")[0]))
    assert words[:2] == ["env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"]
    assert Path(words[2]).name == "mlflow"
    assert " ".join([*words[:2], "mlflow", *words[3:]]) in docs


def test_a_relative_database_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person may type the command in another folder."""
    monkeypatch.chdir(tmp_path)
    command, _ = ui_command("sqlite:///mlflow.db")
    assert f"sqlite:///{tmp_path}/mlflow.db" in str(command)


def test_a_mirror_knows_its_own_page(store: Store, tmp_path: Path) -> None:
    mirror = store.mirror(ledgers.tell(tmp_path / "page", commits=1), "page")
    mirror.sync()
    assert mirror.ui(port=5050)[1] == (
        f"http://127.0.0.1:5050/#/experiments/{mirror.experiment_id}/runs/{mirror.parent_id}"
        "?workflowType=machine_learning"
    )
    assert sorted(mirror.member_ids) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_a_store_mlflow_has_given_up_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SpecError, match=r"tracking\.uri: MLflow cannot track to"):
        Mirror(ledgers.tell(tmp_path / "run", commits=1), uri=uri, experiment="e")


def _one_member(run: Path, points: list[tuple[str, str, int, float]], **outcome: Any) -> Path:
    """A sweep of one member with these metrics: split, name, consumed, value; and its first segment's outcome."""
    ledgers.run_json(run, members=1, generations=1, steps=100)
    clock = ledgers.Clock()
    pen = ledgers.Pen(Ledger(run, clock), clock)
    pen.begin(0, 0, ledgers.hparams(0))
    for split, name, consumed, value in points:
        where = {"member": 0, "segment": 0, "age": consumed, "consumed": consumed}
        pen.ledger.append("metrics", split=split, name=name, value=value, **where)
    if outcome:
        pen.ledger.append("outcomes", member=0, segment=0, **outcome)
    pen.ledger.close(finished=False)
    return run


@pytest.mark.full
def test_a_database_whose_making_was_interrupted_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a schema could never be migrated again; the next mirror begins anew."""
    file = tmp_path / "mlflow.db"

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_address.os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            make_database(file)
    assert list(tmp_path.iterdir()) == []
    make_database(file)
    assert list(tmp_path.iterdir()) == [file]

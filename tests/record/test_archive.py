"""Sealed parts and the manifest on any filesystem: whole files, errors of ours, no passwords, nothing lost."""

from __future__ import annotations

import io
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from pbt.errors import LedgerError, RunNotFound, StorageError
from pbt.record import ledger as module
from pbt.record.archive import LocalArchive, RemoteArchive, open_archive
from pbt.record.ledger import Ledger, LedgerReader, Tail
from tests import ledgers
from tests.record.test_ledger import note, numbers, opened


class Store(fs.FileSystemHandler):
    """A store of whole objects in memory, which can be made to fail."""

    def __init__(self):
        self.objects = {}
        self.fails = lambda operation, path: False
        self.keeps = lambda data: data

    def _meet(self, operation, path):
        if self.fails(operation, path):
            raise RuntimeError(f"503 {operation} {path}")

    def open_input_file(self, path):
        self._meet("read", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return pa.PythonFile(pa.BufferReader(self.objects[path]), mode="r")

    def open_output_stream(self, path, metadata):
        self._meet("open", path)

        class Upload(io.BytesIO):
            def close(upload):
                if not upload.closed:
                    self._meet("close", path)
                    self.objects[path] = self.keeps(upload.getvalue())
                super().close()

        return pa.PythonFile(Upload(), mode="w")

    def get_file_info(self, paths):
        found = []
        for path in paths:
            self._meet("look", path)
            kind = fs.FileType.File if path in self.objects else fs.FileType.NotFound
            found.append(fs.FileInfo(path, type=kind, size=len(self.objects.get(path, b""))))
        return found

    def get_file_info_selector(self, selector):
        self._meet("list", selector.base_dir)
        return self.get_file_info([path for path in self.objects if path.startswith(selector.base_dir + "/")])

    def delete_file(self, path):
        self._meet("delete", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        del self.objects[path]

    def get_type_name(self):
        return "store"

    def normalize_path(self, path):
        return path

    def _never(self, *_):
        raise AssertionError("an object store knows none of this")

    open_input_stream = open_append_stream = copy_file = move = create_dir = _never
    delete_dir = delete_dir_contents = delete_root_dir_contents = _never

    def __eq__(self, other):
        return self is other

    __hash__ = None


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def remote(store):
    """An archive in the store."""
    return RemoteArchive(fs.PyFileSystem(store), "bucket/run", "store://bucket/run")


def _fsspec_memory():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    memory.store, memory.pseudo_dirs = {}, [""]
    return RemoteArchive(fs.PyFileSystem(fs.FSSpecHandler(memory)), "/bucket/run", "memory://bucket/run")


KINDS = ["folder", "uri", "path", "store", "fsspec", "pyarrow-folder"]


@pytest.fixture(params=KINDS)
def place(request, tmp_path, store, remote):
    """Somewhere to keep an archive, as it is given to a ledger and to a reader."""
    folder = tmp_path / "else where" / "archive"
    match request.param:
        case "folder":
            return folder
        case "uri":
            return folder.as_uri()
        case "path":
            return str(folder)
        case "store":
            return remote
        case "fsspec":
            return _fsspec_memory()
        case "pyarrow-folder":  # a filesystem with folders, through pyarrow
            return RemoteArchive(fs.LocalFileSystem(), str(folder), "slow://folder")


# --- a ledger that is kept elsewhere


def test_a_ledger_kept_elsewhere_is_the_same_ledger(tmp_path, monkeypatch, place):
    """The same rows and digest, whatever it went through. In the run's folder are only the pointer and new rows."""
    expected = LedgerReader(ledgers.tell(tmp_path / "plain"))
    entries = expected.history()
    run = tmp_path / "run"
    monkeypatch.setattr(module, "SEAL_ROWS", 10)
    reader = None
    for begin in range(0, len(entries), 25):
        times = iter([row["at"] for _, row in entries[begin:]])
        clock = lambda times=times: next(times)  # noqa: E731
        ledger = Ledger(run, clock, archive=place, existing=begin > 0)
        reader = reader or LedgerReader(run, archive=place)
        for table, row in entries[begin : begin + 25]:
            ledger.append(table, **{name: value for name, value in row.items() if name != "at"})
            ledger.commit()
        ledger.abandon() if begin % 50 else ledger.close(finished=False)
    files = {path.name for path in (run / "ledger").iterdir()}
    assert files - {"archive.json", "lock"} == {name for name in files if name.startswith("wal-")}
    assert contents(expected) == contents(reader)
    Ledger(run, archive=place, existing=True).close(finished=True)
    assert (reader.finished, expected.digest()) == (True, reader.digest())
    assert contents(expected) == contents(reader)
    assert all(len(reader.files(table)) <= 1 for table in expected.tables())
    assert {path.name for path in (run / "ledger").iterdir()} == {"archive.json", "lock"}


@pytest.mark.parametrize("given", [str, Path.as_uri, Path])
def test_the_run_knows_where_its_parts_are(tmp_path, given):
    """So that readers and writers need only its folder."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with opened(run, archive=given(elsewhere)) as ledger:
        note(ledger, 1)
    with opened(run, existing=True) as ledger:
        note(ledger, 2)
    reader = LedgerReader(run)
    assert numbers(reader.rows()) == [1, 2]
    assert [Path(path).parent for path in reader.files("metrics")] == [elsewhere / "metrics"] * 2
    assert pq.read_table(elsewhere / "metrics")["member"].to_pylist() == [1, 2]


def test_a_relative_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    """The pointer has the whole path."""
    monkeypatch.chdir(tmp_path)
    with opened(tmp_path / "run", archive="archive") as ledger:
        note(ledger, 1)
    monkeypatch.chdir("/")
    assert numbers(LedgerReader(tmp_path / "run").rows()) == [1]
    assert (tmp_path / "archive" / "manifest.json").exists()


def test_following_a_ledger_that_is_kept_elsewhere(tmp_path, monkeypatch, place):
    """Every row once, through sealing and the end."""
    monkeypatch.setattr(module, "SEAL_ROWS", 3)
    ledger = Ledger(tmp_path / "run", archive=place)
    tail, got = Tail(LedgerReader(tmp_path / "run", archive=place)), []
    for number in range(10):
        note(ledger, number)
        ledger.commit()
        got += [row["member"] for _, row in tail.poll()]
    ledger.close(finished=True)
    assert [row["member"] for _, row in tail.poll()] == []
    assert got == list(range(10))


def contents(reader):
    """All tables as text, in which NaN is equal to itself."""
    return {name: repr(table.to_pylist()) for name, table in reader.tables().items()}


# --- one archive, one ledger


def test_an_archive_has_one_ledger(tmp_path, place):
    """Two runs cannot share one, whether the first is open or not."""
    with opened(tmp_path / "one", archive=place) as ledger:
        note(ledger, 1)
        with pytest.raises(LedgerError, match=r"already has a ledger. Give each run an archive of its own\.$"):
            Ledger(tmp_path / "two", archive=place)
    with pytest.raises(LedgerError, match="already has a ledger"):
        Ledger(tmp_path / "two", archive=place)
    assert numbers(LedgerReader(tmp_path / "one", archive=place).rows()) == [1]


def test_a_run_has_one_ledger_wherever_it_is_kept(tmp_path):
    """A run that points elsewhere has one."""
    with opened(tmp_path / "run", archive=tmp_path / "a"):
        pass
    for archive in (None, tmp_path / "a", tmp_path / "b"):
        with pytest.raises(LedgerError) as raised:
            Ledger(tmp_path / "run", archive=archive)
        assert str(raised.value) == f"{tmp_path / 'run'} already has a ledger. Choose another name or storage folder."


@pytest.mark.parametrize("kept", [None, "a"])
def test_a_run_is_taken_up_where_it_is_kept(tmp_path, kept):
    """Another archive is refused, by name."""
    run = tmp_path / "run"
    with opened(run, archive=kept and tmp_path / kept):
        pass
    with opened(tmp_path / "other", archive=tmp_path / "b"):
        pass
    with pytest.raises(LedgerError) as raised:
        Ledger(run, existing=True, archive=tmp_path / "b")
    there = tmp_path / kept if kept else run / "ledger"
    b = (tmp_path / "b").as_uri()
    assert str(raised.value) == f"{run} keeps its parts in {there.as_uri()}, not in {b}. Leave the archive out."


def test_an_archive_without_its_ledger_is_no_run(tmp_path):
    """Where the pointer leads nowhere."""
    with opened(tmp_path / "run", archive=tmp_path / "a"):
        pass
    shutil.rmtree(tmp_path / "a")
    for open_it in (LedgerReader, lambda run: Ledger(run, existing=True)):
        with pytest.raises(RunNotFound, match="no run at"):
            open_it(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uri": "file:///tmp"}', '{"uri": "file:///x", "sha256": "00"}'])
def test_a_damaged_pointer_is_named(tmp_path, text):
    """And the ledger can still be read by whoever knows where it is."""
    with opened(tmp_path / "run", archive=tmp_path / "a") as ledger:
        note(ledger, 1)
    pointer = tmp_path / "run" / "ledger" / "archive.json"
    pointer.write_text(text)
    with pytest.raises(LedgerError) as raised:
        LedgerReader(tmp_path / "run")
    assert str(raised.value).startswith(f"{pointer} is damaged: ")
    assert str(raised.value).endswith("Restore it from a backup, or name the archive when reading the ledger.")
    assert numbers(LedgerReader(tmp_path / "run", archive=tmp_path / "a").rows()) == [1]


# --- addresses


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/path",
        "s3://bucket/path?secret_key=hunter2",
        "gs://user:hunter2@bucket/path",
        "abfs://bucket@account/path?account_key=hunter2",
        "file://user:hunter2@/tmp/path",
    ],
)
def test_passwords_are_refused(tmp_path, uri):
    """They would be recorded with the run; the message does not show them, and nothing is made."""
    with pytest.raises(StorageError) as raised:
        Ledger(tmp_path / "run", archive=uri)
    assert "hunter2" not in str(raised.value)
    assert str(raised.value).startswith("archive: the address holds a password")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["ftp://host/path", "nonsense://x", "s3://", "file://relative/path"])
def test_addresses_that_lead_nowhere_are_refused(tmp_path, uri):
    """With what can be written instead."""
    with pytest.raises(StorageError) as raised:
        Ledger(tmp_path / "run", archive=uri)
    assert str(raised.value).startswith(f"archive: cannot use {uri!r} (")
    assert str(raised.value).endswith("Write s3://BUCKET/PATH, gs://BUCKET/PATH, file:///PATH or a folder.")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_addresses_are_of_the_place(tmp_path):
    """Equal for the same, whichever way it is written; without the options of the connection where a file is meant."""
    folder = tmp_path / "a b"
    assert {open_archive(given).uri for given in (folder, str(folder), folder.as_uri())} == {folder.as_uri()}
    remote = RemoteArchive(fs.LocalFileSystem(), "bucket/path", "s3://bucket/path/?region=eu")
    assert remote.where("metrics/000001.parquet") == "s3://bucket/path/metrics/000001.parquet"
    assert open_archive(remote) is remote


# --- files


def test_an_archive_keeps_files(place):
    """Whole, replaced whole, listed and removed; what is not there is missing by name."""
    archive = open_archive(place)
    assert archive.names() == []
    for data in (b"old contents", b"new"):
        archive.write("metrics/000001.parquet", data)
        assert bytes(archive.read("metrics/000001.parquet")) == data
    archive.write("manifest.json", b"")
    assert archive.names() == ["manifest.json", "metrics/000001.parquet"]
    for _ in range(2):
        archive.delete("metrics/000001.parquet")
    assert archive.names() == ["manifest.json"]
    with pytest.raises(FileNotFoundError) as raised:
        archive.read("metrics/000001.parquet")
    assert raised.value.filename == archive.where("metrics/000001.parquet")


def test_a_local_file_is_synced_before_it_is_seen(tmp_path, monkeypatch):
    """Written beside its place, synced, renamed; then the folder is synced."""
    calls, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    LocalArchive(tmp_path / "new").write("metrics/000001.parquet", b"data")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("operation", ["open", "close", "look"])
def test_a_store_that_fails_to_write_is_one_line(store, remote, operation):
    """Whatever it raises."""
    remote.write("file", b"old")
    store.fails = lambda done, path: done == operation
    with pytest.raises(StorageError) as raised:
        remote.write("file", b"new")
    assert str(raised.value).startswith(f"cannot write store://bucket/run/file: RuntimeError: 503 {operation} ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("read", lambda archive: archive.read("file")),
        ("list", lambda archive: archive.names()),
        ("delete", lambda archive: archive.delete("file")),
    ],
)
def test_a_store_that_fails_is_one_line(store, remote, operation, call):
    """Reading, listing and removing."""
    remote.write("file", b"x")
    store.fails = lambda done, path: done == operation
    with pytest.raises(StorageError, match=f"^cannot (read|write) store://bucket/run.* 503 {operation}"):
        call(remote)


def test_a_store_that_keeps_half_is_noticed(store, remote):
    """At once, while the rows are still in the write-ahead file."""
    store.keeps = lambda data: data[: len(data) // 2]
    with pytest.raises(StorageError, match=r"it kept 2 of 4 bytes"):
        remote.write("file", b"data")


# --- failing stores


@pytest.mark.parametrize("operation", ["open", "close", "look"])
@pytest.mark.parametrize("nth", range(1, 11))
@pytest.mark.parametrize("again", [True, False], ids=["recovers", "dies"])
def test_a_store_that_fails_costs_nothing(tmp_path, monkeypatch, store, remote, operation, nth, again):
    """Whichever write fails while sealing, merging and closing: closing again, or taking it up, has every row once."""
    run = tmp_path / "run"
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    ledger = Ledger(run, archive=remote)
    met = []

    def fails(done, path):
        met.append(path) if done == operation else None
        return done == operation and len(met) == nth

    store.fails = fails
    for number in range(4):
        with monkeypatch.context() as patched:
            patched.setattr(module, "SEAL_ROWS", 4)
            note(ledger, number)
            note(ledger, number, "outcomes")
            ledger.commit()
    with suppress(StorageError):
        ledger.close(finished=True)
    if again:
        ledger.close(finished=True)
    else:
        ledger.abandon()
        Ledger(run, existing=True, archive=remote).close(finished=True)
    rows = LedgerReader(run, archive=remote).rows()
    assert numbers(rows) == numbers(rows, "outcomes") == [0, 1, 2, 3]
    assert LedgerReader(run, archive=remote).finished
    reader = LedgerReader(run, archive=remote)
    named = {path for table in ("metrics", "outcomes") for path in reader.files(table)}
    assert named == {f"store://{path}" for path in store.objects if path.endswith(".parquet")}


def test_a_new_ledger_on_a_store_that_fails_is_one_line(tmp_path, store, remote):
    """And leaves no run behind, so that it can be tried again."""
    store.fails = lambda operation, path: operation == "close"
    with pytest.raises(StorageError, match="503 close"):
        Ledger(tmp_path / "run", archive=remote)
    store.fails = lambda operation, path: False
    with opened(tmp_path / "run", archive=remote) as ledger:
        note(ledger, 1)
    assert numbers(LedgerReader(tmp_path / "run", archive=remote).rows()) == [1]


def test_commits_go_on_while_the_store_is_away(tmp_path, monkeypatch, store, remote):
    """The network may go; the rows wait in the write-ahead file."""
    monkeypatch.setattr(module, "SEAL_ROWS", 2)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    with opened(tmp_path, archive=remote) as ledger:
        store.fails = lambda operation, path: operation == "open"
        for number in range(6):
            note(ledger, number)
            ledger.commit()
        assert LedgerReader(tmp_path, archive=remote).files("metrics") == []
        store.fails = lambda operation, path: False
        assert numbers(LedgerReader(tmp_path, archive=remote).rows()) == list(range(6))
        ledger.commit()
        assert len(LedgerReader(tmp_path, archive=remote).files("metrics")) == 1


def test_half_a_manifest_is_noticed(tmp_path, store, remote):
    """On a store that shows what is not complete, the checksum tells, and the copy mends."""
    run = tmp_path / "run"
    with opened(run, archive=remote) as ledger:
        note(ledger, 1)
    manifest = store.objects["bucket/run/manifest.json"]
    store.objects["bucket/run/manifest.json"] = manifest[:-9]
    with pytest.raises(LedgerError) as raised:
        LedgerReader(run, archive=remote)
    assert str(raised.value).startswith("store://bucket/run/manifest.json is damaged")
    assert str(raised.value).endswith("Copy store://bucket/run/manifest-copy.json over it.")


def test_a_missing_part_is_named(tmp_path, store, remote):
    """With its address."""
    with opened(tmp_path, archive=remote) as ledger:
        note(ledger, 1)
    del store.objects["bucket/run/metrics/000001.parquet"]
    with pytest.raises(LedgerError, match=r"^store://bucket/run/metrics/000001.parquet is missing"):
        LedgerReader(tmp_path, archive=remote).rows()


def test_a_store_that_cannot_be_read_is_one_line(tmp_path, store, remote):
    """It is not a missing run, and not damage."""
    with opened(tmp_path, archive=remote):
        pass
    store.fails = lambda operation, path: operation == "read"
    with pytest.raises(StorageError, match=r"^cannot read store://bucket/run/manifest.json: .*503 read"):
        LedgerReader(tmp_path, archive=remote)

"""Corpora: the standard library's text, and a user's own."""

import hashlib
import os
import sys
import sysconfig

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from trainables import DataError, Language, Place, corpus
from trainables.corpus import documents, shards, stdlib, user

SPLITS = ("train", "validation", "test")


# --- the standard library


@pytest.fixture(scope="module")
def library():
    return stdlib.documents()


def test_the_default_needs_nothing():
    """Every Python has at least the modules; there are megabytes of them, and each split has some."""
    loaded = corpus.load(None, None, 65)
    assert "modules" in loaded.domains
    assert len(loaded.splits["train"]) > 2_000_000
    assert all(len(loaded.splits[s]) > 50_000 for s in SPLITS)
    assert loaded.source.startswith("standard library of Python 3.")


def test_documents_are_in_one_split_only(library):
    """No name and no content is in two splits: nothing of the held-out text was trained on."""
    assert len({d.name for d in library}) == len(library)
    assert len({hashlib.sha256(d.content.data).digest() for d in library}) == len(library)


def test_every_domain_is_in_every_split(library):
    """A domain can be trained and evaluated on its own."""
    domains = {d.domain for d in library}
    assert len(domains) > 1
    for split in SPLITS:
        assert {d.domain for d in library if d.split == split} == domains


def test_about_a_tenth_is_held_out(library):
    """One document in 20 for validation, one for test."""
    for split in ("validation", "test"):
        share = sum(d.split == split for d in library) / len(library)
        assert 0.04 < share < 0.08


def test_text_is_the_librarys_own(library):
    """Nothing of site-packages, no bytecode, and what is said to be a file is that file."""
    names = [d.name for d in library if not d.name.startswith("topic:")]
    assert not [n for n in names if "site-packages" in n or "__pycache__" in n]
    known = next(d for d in library if d.name == "argparse.py")
    with open(os.path.join(sysconfig.get_path("stdlib"), "argparse.py"), "rb") as file:
        assert known.content.tobytes() == file.read()
    assert known.domain == "modules"


def test_the_hash_is_of_the_bytes():
    """The recorded hash is that of the splits in order, and repeats."""
    loaded = corpus.load(None, ("modules",), 65)
    digest = hashlib.sha256(b"".join(loaded.splits[s].tobytes() for s in SPLITS)).hexdigest()
    assert loaded.sha256 == digest
    again = documents.assemble(stdlib.SOURCE, stdlib.documents(), ("modules",))
    assert again.sha256 == digest


def test_domains_can_be_chosen(library):
    """A corpus of some domains has their bytes only, and its spans say where each is."""
    chosen = ("modules", "other")
    loaded = corpus.load(None, chosen, 65)
    assert loaded.domains == chosen
    for split in SPLITS:
        spans = loaded.spans[split]
        assert spans["modules"] == (0, spans["other"][0])
        assert spans["other"][1] == len(loaded.splits[split])
        expected = b"".join(d.content.tobytes() for d in library if d.domain == "other" and d.split == split)
        assert loaded.splits[split][slice(*spans["other"])].tobytes() == expected


def test_an_unknown_domain_is_refused():
    """The message names it and the known ones."""
    with pytest.raises(DataError, match=r"no domain 'poems'; known: .*modules"):
        corpus.load(None, ("poems",), 65)


def test_a_library_without_its_optional_parts(tmp_path, monkeypatch):
    """A distribution without `test` and `pydoc_data` still gives a corpus; small packages join `other`."""
    (tmp_path / "email").mkdir()
    for i in range(5):
        (tmp_path / f"module{i}.py").write_text(f"# {i}\n" * 20_000)
        (tmp_path / "email" / f"part{i}.py").write_text(f"# part {i}\n")
    (tmp_path / "broken.py").write_bytes(b"\xff\xfe not UTF-8")
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    found = stdlib.documents()
    assert {d.domain for d in found} == {"modules", "other"}
    assert len(found) == 10


def test_no_library_at_all_is_explained(tmp_path, monkeypatch):
    """An interpreter without source says to give a path."""
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(stdlib, "_topics", lambda: ())
    with pytest.raises(DataError, match="give your own text with data=PATH"):
        stdlib.documents()


# --- a user's text


def _load(path, needed=9):
    return corpus.load(str(path), None, needed)


def _lines(first, count):
    return "".join(f"line {i} of the text\n" for i in range(first, first + count))


def _pieces(tokens):
    """A split's lines, to see whether splits share text."""
    return set(tokens.tobytes().split(b"\n"))


def test_a_file_is_cut_into_blocks(tmp_path):
    """Its blocks cover it once; held-out blocks are about a twentieth each and are not in training."""
    path = tmp_path / "a.txt"
    path.write_text(_lines(0, 2000))
    loaded = _load(path)
    sizes = {s: len(loaded.splits[s]) for s in SPLITS}
    assert sum(sizes.values()) == path.stat().st_size
    for split in ("validation", "test"):
        assert sizes[split] == pytest.approx(path.stat().st_size / 20, rel=0.01)
        # The first and last line of a block may be torn.
        assert len(_pieces(loaded.splits["train"]) & _pieces(loaded.splits[split])) <= 2
    assert loaded.domains == ("text",)


def test_a_large_file_is_cut_finely(tmp_path):
    """No block is much larger than 64 KiB, so that the held-out text comes from all over the file."""
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(32, 127)) * 40_000)
    found = user.documents(path, 9)
    assert max(len(d.content) for d in found) < 70_000
    assert sum(d.split == "validation" for d in found) >= 2


def test_a_folder_is_split_by_file(tmp_path):
    """Each text is in one split whole, at any depth; copies, binaries and hidden files are left out."""
    for i in range(40):
        folder = tmp_path / f"part{i % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.txt").write_text(_lines(i * 100, 20))
    (tmp_path / "copy.txt").write_text(_lines(0, 20))
    (tmp_path / "binary.bin").write_bytes(b"\0\1\2" * 1000)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("hidden")
    loaded = _load(tmp_path)
    assert loaded.num_documents == 40
    texts = [loaded.splits[s].tobytes() for s in SPLITS]
    for i in range(40):
        assert [_lines(i * 100, 20).encode() in text for text in texts].count(True) == 1


def test_a_folder_with_two_files_is_cut_like_one(tmp_path):
    """Too few files for three splits: blocks instead."""
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text(_lines(i * 1000, 500))
    loaded = _load(tmp_path)
    assert all(len(loaded.splits[s]) > 500 for s in SPLITS)


@pytest.mark.parametrize("layout", ["folders", "files"])
def test_named_splits_are_kept(tmp_path, layout):
    """Folders or files named train, validation and test are what they say."""
    for i, split in enumerate(SPLITS):
        if layout == "folders":
            (tmp_path / split).mkdir()
        path = tmp_path / split / "a.txt" if layout == "folders" else tmp_path / f"{split}.txt"
        path.write_text(_lines(i * 100, 50))
    loaded = _load(tmp_path)
    for i, split in enumerate(SPLITS):
        assert loaded.splits[split].tobytes() == _lines(i * 100, 50).encode()


def test_named_splits_do_not_leak(tmp_path):
    """A text that is in `test` and in `train` stays in `test` only."""
    for i, split in enumerate(SPLITS):
        (tmp_path / split).mkdir()
        (tmp_path / split / "own.txt").write_text(_lines(i * 100, 50))
    (tmp_path / "train" / "again.txt").write_text(_lines(200, 50))
    loaded = _load(tmp_path)
    assert loaded.splits["train"].tobytes() == _lines(0, 50).encode()
    assert loaded.splits["test"].tobytes() == _lines(200, 50).encode()


def test_a_folder_called_test_alone_is_just_a_folder(tmp_path):
    """A source tree with tests is an ordinary folder of text."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.txt").write_text(_lines(0, 500))
    (tmp_path / "b.txt").write_text(_lines(500, 500))
    assert len(_load(tmp_path).splits["train"]) > 10_000


def test_folders_may_be_domains(tmp_path):
    """Each with its subfolders, and the files beside them; otherwise all of it is one."""
    for name in ("a/1.txt", "a/deep/2.txt", "b/3.txt", "4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(_lines(1000 * int(name[-5]), 200))
    mixed = corpus.load(str(tmp_path), None, 9, by_folder=True)
    assert mixed.domains == ("a", "b", "text")
    assert _load(tmp_path).domains == ("text",)
    chosen = corpus.load(str(tmp_path), ("b",), 9, by_folder=True)
    assert sum(map(len, chosen.splits.values())) == len(_lines(3000, 200))


def test_every_domain_of_ones_own_is_in_every_split(tmp_path):
    """Each is split by itself: by file where it has enough of them, else cut into blocks."""
    for name in ("one/0.txt", *(f"many/{i}.txt" for i in range(1, 41))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(_lines(1000 * int(name.split("/")[1][:-4]), 100))
    loaded = corpus.load(str(tmp_path), None, 9, by_folder=True)
    for split in SPLITS:
        for first, last in loaded.spans[split].values():
            assert last - first > 50
    first, last = loaded.spans["test"]["many"]
    assert (loaded.splits["test"][first:last].tobytes().count(b"text")) == 2 * 100


def test_named_splits_have_domains_too(tmp_path):
    """In the folders of the splits; a domain need not be in all of them."""
    for i, name in enumerate(("train/a", "train/b", "validation/a", "test/b")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.txt").write_text(_lines(100 * i, 10))
    loaded = corpus.load(str(tmp_path), None, 9, by_folder=True)
    assert loaded.domains == ("a", "b")
    first, last = loaded.spans["train"]["b"]
    assert loaded.splits["train"][first:last].tobytes() == _lines(100, 10).encode()
    assert loaded.spans["validation"]["b"][0] == loaded.spans["validation"]["b"][1]


def test_a_changed_file_is_read_again(tmp_path):
    """The cache knows a file by its size and time."""
    path = tmp_path / "a.txt"
    path.write_text(_lines(0, 500))
    first = _load(path)
    assert _load(path) is first
    path.write_text(_lines(500, 600))
    assert _load(path).sha256 != first.sha256


# --- token shards


def _write(path, table):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".feather":
        feather.write_feather(table, path, compression="uncompressed")
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


TOKENS = np.arange(5000) % 251
COLUMNS = {
    "tokens": pa.table({"other": TOKENS * 0, "tokens": pa.array(TOKENS, pa.int32())}),
    "ids": pa.table({"ids": pa.array(TOKENS, pa.uint8()), "text": ["x"] * 5000}),
    "first": pa.table({"text": ["x"] * 5000, "mine": pa.array(TOKENS, pa.int64())}),
    "lists": pa.table({"tokens": pa.array(TOKENS.reshape(50, 100).tolist(), pa.list_(pa.int16()))}),
}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("columns", COLUMNS)
def test_shards_are_read(tmp_path, suffix, columns):
    """Parquet and Arrow, integers of any width or lists of them, by name or as the first that fits."""
    path = tmp_path / f"a{suffix}"
    _write(path, COLUMNS[columns])
    assert shards.read_shard(path).tolist() == TOKENS.tolist()
    loaded = _load(path)
    assert sum(len(t) for t in loaded.splits.values()) == 5000


def test_arrow_is_memory_mapped(tmp_path, monkeypatch):
    """Arrow shards are not read into memory first."""
    mapped, original = [], pa.memory_map
    monkeypatch.setattr(pa, "memory_map", lambda p: mapped.append(p) or original(p))
    _write(tmp_path / "a.arrow", COLUMNS["ids"])
    shards.read_shard(tmp_path / "a.arrow")
    assert mapped == [str(tmp_path / "a.arrow")]


def test_a_folder_of_shards(tmp_path):
    """Shards are documents: named splits hold for them too."""
    for i, split in enumerate(SPLITS):
        (tmp_path / split).mkdir()
        _write(tmp_path / split / "0.parquet", pa.table({"tokens": (TOKENS + i) % 251}))
    assert _load(tmp_path).splits["test"].tolist() == ((TOKENS + 2) % 251).tolist()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"tokens": [1, 2, 300]}), "reach from 1 to 300; this model reads bytes"),
        (pa.table({"tokens": [-1, 2, 3]}), "reach from -1 to 3"),
        (pa.table({"tokens": [1, None, 3]}), "1 nulls"),
        (pa.table({"text": ["a"]}), r"no integer column among \[text: string\]"),
        (pa.table({"tokens": pa.array([], pa.int32())}), "no text found"),
    ],
)
def test_bad_shards_are_refused(tmp_path, table, message):
    """The message names the file, what is wrong and the mend."""
    path = tmp_path / "bad.parquet"
    _write(path, table)
    _refused(path, message)


# --- what cannot be used


def _refused(path, message, needed=9):
    with pytest.raises(DataError, match=message) as caught:
        _load(path, needed)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_path_is_refused(tmp_path):
    """Nothing there."""
    _refused(tmp_path / "no.txt", "no such file or folder")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_torn_shard_is_refused(tmp_path, suffix):
    """A file that is not what its name says."""
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(b"not a table")
    _refused(path, "cannot be read")


def test_an_empty_file_is_refused(tmp_path):
    """No bytes."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    _refused(path, "no text found")


def test_an_empty_folder_is_refused(tmp_path):
    """No files."""
    _refused(tmp_path, "no text found")


def test_a_binary_file_is_refused(tmp_path):
    """Zero bytes are not text."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"ab\0cd" * 100)
    _refused(path, "is binary")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(tmp_path):
    """No permission."""
    path = tmp_path / "a.txt"
    path.write_text(_lines(0, 500))
    path.chmod(0)
    _refused(path, "cannot be read")


def test_a_missing_named_split_is_refused(tmp_path):
    """`train` and `test` without `validation`."""
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text(_lines(0, 50))
    _refused(tmp_path, "has test, train but no validation")


def test_too_small_a_split_is_refused(tmp_path):
    """The message says which split, what it has and what it needs."""
    path = tmp_path / "a.txt"
    path.write_text("x" * 1000)
    _refused(path, "validation split has 50 bytes; .* at least 65 bytes", needed=65)


def test_the_trainable_refuses_before_it_builds(tmp_path):
    """`describe` meets bad data in the driver, where a person sees it."""
    trainable = Language(data=tmp_path / "no.txt")
    for ask in (trainable.describe, lambda: trainable.build(trainable.bucket({}), 1, Place())):
        with pytest.raises(DataError, match="no such file"):
            ask()

"""Labelled images: scikit-learn's digits, and a user's own."""

import hashlib
import io
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables import DataError, Place, Vision, images
from trainables.images.examples import Part, assemble

SPLITS = ("train", "validation", "test")


def _some(classes=3, each=20, shape=(4, 5), seed=0):
    """Random grey images, no two alike, and their labels."""
    draw = np.random.default_rng(seed)
    found = draw.integers(0, 256, (classes * each, *shape), dtype=np.uint8)
    return found, np.repeat(np.arange(classes), each)


def _rows(array):
    return {row.tobytes() for row in array}


def _all(loaded):
    return [pixels.tobytes() for split in SPLITS for pixels in loaded.images[split]]


def _refused(path, message):
    with pytest.raises(DataError, match=message) as caught:
        images.load(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# --- the digits


def test_the_default_needs_nothing():
    """1,797 digits of 8 x 8 pixels, as scikit-learn gives them."""
    from sklearn.datasets import load_digits

    loaded, known = images.load(None), load_digits()
    assert loaded.shape == (8, 8, 1)
    assert loaded.classes == tuple("0123456789")
    pairs = {(p.tobytes(), label) for s in SPLITS for p, label in zip(loaded.images[s], loaded.labels[s], strict=True)}
    assert pairs == {(p.astype(np.uint8).tobytes(), label) for p, label in zip(known.images, known.target, strict=True)}
    assert {s: len(loaded.labels[s]) for s in SPLITS} == {"train": 1433, "validation": 183, "test": 181}


def test_splits_are_stratified():
    """Of every class a tenth is for validation and a tenth for test, to one image."""
    loaded = images.load(None)
    counts = {s: np.bincount(loaded.labels[s], minlength=10) for s in SPLITS}
    total = sum(counts.values())
    for split in ("validation", "test"):
        assert (abs(counts[split] - total / 10) <= 1).all()


def test_the_hash_is_of_the_data_and_on_record():
    """It is that of classes, pixels and labels by split, and the same in every run."""
    loaded = images.load(None)
    digest = hashlib.sha256(repr((loaded.classes, (8, 8, 1))).encode())
    for split in SPLITS:
        digest.update(loaded.images[split].tobytes())
        digest.update(loaded.labels[split].tobytes())
    provenance = loaded.provenance()
    assert provenance["sha256"] == digest.hexdigest()
    assert provenance["sha256"].startswith("2d5012126b459c7b")
    assert provenance["examples_train"] == 1433
    assert provenance["num_repeats"] == 0


def test_moments_are_those_of_the_training_images():
    """By channel, exactly; a channel that is everywhere the same has a deviation of 1."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (60, 4, 5, 3), dtype=np.uint8)
    pixels[..., 1] = 9
    loaded = assemble("here", [Part(source="here", images=pixels, labels=np.arange(60) % 3)])
    own = loaded.images["train"].astype(np.float64)
    np.testing.assert_allclose(loaded.mean, own.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(loaded.std[[0, 2]], own.std((0, 1, 2))[[0, 2]], rtol=1e-12)
    assert loaded.std[1] == 1.0


def test_without_scikit_learn_it_says_what_to_do(monkeypatch):
    """Install it, or give a path."""
    images._digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn, or give data=PATH"):
        images.load(None)


# --- how splits are made


def test_splits_depend_on_the_images_alone():
    """In another order, and in several parts, the data set is the same."""
    pixels, labels = _some()
    order = np.random.default_rng(1).permutation(len(labels))
    pixels = pixels[..., None]
    straight = assemble("a", [Part(source="a", images=pixels, labels=labels)])
    halves = [Part(source=str(i), images=pixels[own], labels=labels[own]) for i, own in enumerate(np.split(order, 2))]
    assert straight.sha256 == assemble("a", halves).sha256
    assert len(set(_all(straight))) == len(labels)


def test_images_with_the_same_pixels_are_in_the_same_split():
    """Nothing is left out, and nothing trained on is held out, under whatever label."""
    pixels, labels = _some()
    pixels, labels = np.repeat(pixels, 2, 0)[..., None], np.repeat(labels, 2)
    labels[1] = 2
    loaded = assemble("a", [Part(source="a", images=pixels, labels=labels)])
    assert sum(len(loaded.labels[s]) for s in SPLITS) == 120
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not _rows(loaded.images[one]) & _rows(loaded.images[other])


def _npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_named_splits_are_kept_and_leaks_left_out(tmp_path):
    """A training image that is also in the test split stays in the test split only; the record says how many."""
    pixels, labels = _some()
    test, test_labels = _some(each=4, seed=1)
    path = _npz(
        tmp_path / "a.npz",
        x_train=np.concatenate([pixels, test[:2]]),
        y_train=np.concatenate([labels, test_labels[:2]]),
        x_test=test,
        y_test=test_labels,
    )
    loaded = images.load(str(path))
    assert _rows(loaded.images["test"]) == _rows(test)
    assert loaded.num_repeats == loaded.provenance()["num_repeats"] == 2
    assert _rows(loaded.images["train"]) | _rows(loaded.images["validation"]) == _rows(pixels)
    assert np.bincount(loaded.labels["validation"]).tolist() == [2, 2, 2]


def test_a_missing_held_out_split_is_taken_from_training(tmp_path):
    """`train` and `val`: a tenth of the training images is for test."""
    pixels, labels = _some()
    val, val_labels = _some(each=5, seed=1)
    arrays = {"train_images": pixels, "train_labels": labels[:, None], "val_images": val, "val_labels": val_labels}
    loaded = images.load(str(_npz(tmp_path / "medical.npz", **arrays)))
    assert _rows(loaded.images["validation"]) == _rows(val)
    assert np.bincount(loaded.labels["test"]).tolist() == [2, 2, 2]
    assert _rows(loaded.images["test"]) < _rows(pixels)


# --- arrays


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((60, 4, 5), (4, 5, 1)),
        ((60, 4, 5, 3), (4, 5, 3)),
        ((60, 3, 4, 5), (4, 5, 3)),
        ((60, 1, 5, 6), (5, 6, 1)),
        ((60, 4, 5, 1), (4, 5, 1)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_arrays_of_any_layout(tmp_path, shape, found, dtype):
    """Grey or colour, channels last or first, whole numbers of any type."""
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    loaded = images.load(str(_npz(tmp_path / "a.npz", images=pixels, labels=np.arange(60) % 4)))
    assert loaded.shape == found
    first = len(shape) == 4 and shape[1] in (1, 3)
    last = pixels.transpose(0, 2, 3, 1) if first else pixels.reshape(60, *found)
    assert set(_all(loaded)) == {np.ascontiguousarray(p).astype(np.uint8).tobytes() for p in last}


def test_labels_may_be_names_or_any_numbers(tmp_path):
    """Classes are in their order; a label is a place in it."""
    pixels, labels = _some()
    for given, classes in ((labels * 5 - 5, ("-5", "0", "5")), (np.array(["b", "a", "c"])[labels], tuple("abc"))):
        loaded = images.load(str(_npz(tmp_path / f"{given.dtype}.npz", images=pixels, labels=given)))
        assert loaded.classes == classes
        known = {p.tobytes(): classes.index(str(label)) for p, label in zip(pixels, given, strict=True)}
        for split in SPLITS:
            own = loaded.images[split]
            assert [known[p.tobytes()] for p in own] == loaded.labels[split].tolist()


PIXELS, LABELS = _some()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS}, "has arrays x; name them images and labels, or x_train"),
        ({"images": PIXELS}, "has arrays images; name them"),
        ({"images": PIXELS[:, 0], "labels": LABELS}, r"shape \[60, 5\]; give \[N, H, W\]"),
        ({"images": PIXELS[..., None, None], "labels": LABELS}, r"shape \[60, 4, 5, 1, 1\]"),
        ({"images": np.zeros((60, 7, 7, 2)), "labels": LABELS}, "with 1, 3 or 4 channels"),
        ({"images": PIXELS / 255, "labels": LABELS}, "not all whole numbers from 0 to 255; scale, round"),
        ({"images": PIXELS.astype(int) + 1, "labels": LABELS}, "not all whole numbers from 0 to 255"),
        ({"images": np.where(PIXELS > 9, np.nan, PIXELS), "labels": LABELS}, "not all whole numbers"),
        ({"images": PIXELS.astype(str), "labels": LABELS}, "images are of type <U3"),
        ({"images": PIXELS, "labels": LABELS[:9]}, r"60 images have labels of shape \[9\]; give one label an image"),
        ({"images": PIXELS, "labels": np.eye(3)[LABELS]}, r"labels of shape \[60, 3\]"),
        ({"images": PIXELS, "labels": LABELS + 0.5}, "labels are of type float64"),
        ({"images": PIXELS, "labels": LABELS * 0}, "all images are of class 0; give at least 2"),
        ({"images": PIXELS[::10], "labels": LABELS[::10]}, "class 0 has 2 different images; give at least 3"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "no images found"),
        ({"x_test": PIXELS, "y_test": LABELS}, "has test but no train"),
        (
            {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:3], "y_test": LABELS[:3] + 9},
            "class 9 has no training images",
        ),
        (
            {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:, :3], "y_test": LABELS},
            "images are 3 x 5 with 1 channel, but 4 x 5 with 1 channel",
        ),
        ({"images": np.array([{}, 1]), "labels": LABELS}, "cannot be read as .npz without pickled objects"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, arrays, message):
    """The message names the file, what is wrong and the mend."""
    _refused(_npz(tmp_path / "bad.npz", **arrays), message)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 torn"])
def test_a_torn_archive_is_refused(tmp_path, content):
    """A file that is not what its name says."""
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    _refused(path, "cannot be read as .npz")


def test_a_lone_array_is_refused(tmp_path):
    """An `.npy` file by another name holds no labels."""
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, PIXELS)
    _refused(path, "cannot be read as .npz")


# --- pictures


def _picture(array, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format)
    return file.getvalue()


def _folders(root, pixels, labels, names=("cat", "dog", "eel"), format="PNG"):
    for number, (array, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.{format.lower()}").write_bytes(_picture(array, format))
    return root


def test_a_folder_for_each_class(tmp_path):
    """Class names are the folders'; hidden files and other files are left out."""
    pixels, labels = _some()
    root = _folders(tmp_path / "pictures", pixels, labels)
    (root / "cat" / ".hidden.png").write_bytes(b"no picture")
    (root / "cat" / "readme.txt").write_text("cats")
    (root / ".git").mkdir()
    loaded = images.load(str(root))
    assert loaded.classes == ("cat", "dog", "eel")
    assert loaded.shape == (4, 5, 1)
    assert set(_all(loaded)) == _rows(pixels)
    by_arrays = _npz(tmp_path / "a.npz", images=pixels, labels=np.array(loaded.classes)[labels])
    assert loaded.sha256 == images.load(str(by_arrays)).sha256


def test_folders_by_split(tmp_path):
    """`train` and `test` on top hold folders of classes; validation is taken from training."""
    pixels, labels = _some()
    test, test_labels = _some(each=2, seed=1)
    _folders(tmp_path / "train", pixels, labels)
    _folders(tmp_path / "test", test, test_labels)
    loaded = images.load(str(tmp_path))
    assert _rows(loaded.images["test"]) == _rows(test)
    assert len(loaded.labels["validation"]) == 6


def test_a_class_may_be_called_train(tmp_path):
    """A folder `train` of pictures is a class."""
    pixels, labels = _some()
    loaded = images.load(str(_folders(tmp_path, pixels, labels, names=("bus", "plane", "train"))))
    assert loaded.classes == ("bus", "plane", "train")


def test_colour_and_grey_together_are_colour(tmp_path):
    """Transparency is dropped, grey has three equal channels; JPEG is read as well as PNG."""
    draw = np.random.default_rng(0)
    colour = draw.integers(0, 256, (20, 4, 5, 4), dtype=np.uint8)
    grey = draw.integers(0, 256, (20, 4, 5), dtype=np.uint8)
    _folders(tmp_path, colour, np.zeros(20, int))
    _folders(tmp_path, grey, np.ones(20, int))
    _folders(tmp_path, colour[..., :3], np.full(20, 2), format="JPEG")
    loaded = images.load(str(tmp_path))
    assert loaded.shape == (4, 5, 3)
    everything = set(_all(loaded))
    assert _rows(np.ascontiguousarray(colour[..., :3])) < everything
    assert _rows(np.repeat(grey[..., None], 3, -1)) < everything
    assert len(everything) == 60


def test_a_changed_file_is_read_again(tmp_path):
    """The cache knows files by size and time."""
    pixels, labels = _some()
    root = _folders(tmp_path, pixels, labels)
    first = images.load(str(root))
    assert images.load(str(root)) is first
    (root / "cat" / "0.png").write_bytes(_picture(255 - pixels[0]) + b"\0")
    assert images.load(str(root)).sha256 != first.sha256


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cat/a.png", b"", "is no readable picture"),
        ("cat/a.png", b"\x89PNG torn", "is no readable picture"),
        ("cat/a.jpg", _picture(np.zeros((40, 50), np.uint8), "JPEG")[:200], "is no readable picture"),
        ("cat/a.png", _picture(np.zeros((4, 6), np.uint8)), "is 4 x 6 pixels, but those before are 4 x 5"),
        ("cat/a.png", _picture(np.zeros((4, 5), np.uint16)), "more than 8 bits a channel"),
    ],
)
def test_bad_pictures_are_refused(tmp_path, name, content, message):
    """The message names the file."""
    root = _folders(tmp_path, *_some())
    (root / name).write_bytes(content)
    _refused(root, f"{name}: .*{message}")


def test_bad_folders_are_refused(tmp_path):
    """An empty class, something that is no split beside splits, and no pictures at all."""
    root = _folders(tmp_path / "a", *_some())
    (root / "empty").mkdir()
    _refused(root, "empty: class has no .png or .jpg")
    root = _folders(tmp_path / "b" / "train", *_some()).parent
    (root / "more").mkdir()
    _refused(root, "more: is no split, but there are others")
    (tmp_path / "c").mkdir()
    _refused(tmp_path / "c", "no images found")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_picture_is_refused(tmp_path):
    """No permission."""
    root = _folders(tmp_path, *_some())
    (root / "cat" / "0.png").chmod(0)
    _refused(root, "0.png: cannot be read")


def test_without_pillow_it_says_what_to_install(tmp_path, monkeypatch):
    """Pictures need the extra `images`; arrays do not."""
    root = _folders(tmp_path / "a", *_some())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'pbt\[images\]'"):
        images.load(str(root))
    images.load(str(_npz(tmp_path / "b.npz", images=PIXELS, labels=LABELS)))


# --- Parquet


def _columns(pixels):
    """Every kind of image column, of grey square images."""
    flat = pixels.reshape(len(pixels), -1)
    encoded = [_picture(array) for array in pixels]
    return {
        "bytes": pa.array(encoded),
        "struct": pa.array([{"bytes": content, "path": "a.png"} for content in encoded]),
        "flat": pa.array(flat.tolist(), pa.list_(pa.uint8())),
        "flat-fixed": pa.array(flat.tolist(), pa.list_(pa.uint8(), flat.shape[1])),
        "nested": pa.array(pixels.tolist(), pa.list_(pa.list_(pa.int32()))),
        "nested-fixed": pa.array(pixels[..., None].tolist(), pa.list_(pa.list_(pa.list_(pa.float32(), 1), 4), 4)),
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
    }


SQUARE, SQUARE_LABELS = _some(shape=(4, 4))
COLUMNS = _columns(SQUARE)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("labels", ["number", "name", "dictionary"])
def test_tables_are_read(tmp_path, kind, labels):
    """Encoded pictures or pixels, labels as numbers or names: the same data as in arrays."""
    names = np.array(["0", "1", "2"])[SQUARE_LABELS]
    label = {"number": pa.array(SQUARE_LABELS), "name": pa.array(names)}
    label["dictionary"] = label["name"].dictionary_encode()
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": COLUMNS[kind], "label": label[labels]}), path, row_group_size=25)
    known = images.load(str(_npz(tmp_path / "a.npz", images=SQUARE, labels=SQUARE_LABELS)))
    assert images.load(str(path)).sha256 == known.sha256


def test_a_folder_of_tables(tmp_path):
    """Files or folders named like splits are those splits, in several files."""
    test, test_labels = _some(each=4, shape=(4, 4), seed=1)
    (tmp_path / "test").mkdir()
    for name, pixels, labels in (
        ("train-00000-of-00002", SQUARE[::2], SQUARE_LABELS[::2]),
        ("train-00001-of-00002", SQUARE[1::2], SQUARE_LABELS[1::2]),
        ("test/0", test, test_labels),
    ):
        table = pa.table({"img": _columns(pixels)["flat"], "target": labels})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    loaded = images.load(str(tmp_path))
    assert _rows(loaded.images["test"]) == _rows(test)
    assert len(loaded.labels["train"]) + len(loaded.labels["validation"]) == 60


def test_tables_with_and_without_a_split_are_refused(tmp_path):
    """Nobody knows where the others belong."""
    for name in ("train", "extra"):
        pq.write_table(pa.table({"image": COLUMNS["flat"], "label": SQUARE_LABELS}), tmp_path / f"{name}.parquet")
    _refused(tmp_path, "extra.parquet: says no split, but .*train.parquet does")


NUMBERS = pa.array(SQUARE_LABELS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": NUMBERS}, "has columns label; name one 'image'"),
        ({"image": COLUMNS["flat"]}, "has columns image; name one 'label'"),
        ({"image": NUMBERS, "label": NUMBERS}, "images are of type int64"),
        ({"image": pa.array(["x"] * 60), "label": NUMBERS}, "images are of type string"),
        ({"image": pa.array([[1, 2, 3]] * 60), "label": NUMBERS}, r"flat lists of 3 pixels; nest them"),
        ({"image": pa.array([[1], [1, 2]] * 30), "label": NUMBERS}, "lists of 1 and 2 pixels; bring all to one size"),
        ({"image": pa.array([[1], None] * 30), "label": NUMBERS}, "column image has 30 nulls"),
        ({"image": pa.array([[None]] * 60, pa.list_(pa.int8())), "label": NUMBERS}, "60 nulls among their pixels"),
        ({"image": pa.array([[300]] * 60), "label": NUMBERS}, "not all whole numbers from 0 to 255"),
        ({"image": pa.array([{"bytes": None}] * 60, pa.struct({"bytes": pa.binary()})), "label": NUMBERS}, "no bytes"),
        ({"image": pa.array([b"x"] * 60), "label": NUMBERS}, "row 0: is no readable picture"),
        ({"image": COLUMNS["flat"], "label": pa.array([0.5] * 60)}, "labels are of type double"),
        ({"image": COLUMNS["flat"][:0], "label": NUMBERS[:0]}, "no images found"),
    ],
)
def test_bad_tables_are_refused(tmp_path, columns, message):
    """The message names the file, what is wrong and the mend."""
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), path)
    _refused(path, message)


# --- what cannot be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("torn.parquet", b"not a table", "cannot be read"),
        ("a.txt", b"text", "is of no known kind; give a folder"),
        (None, None, "no such file or folder"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    """A torn table, a kind that is not known, nothing at all."""
    path = tmp_path / (name or "no.npz")
    if name:
        path.write_bytes(content)
    _refused(path, message)


def test_the_trainable_refuses_before_it_builds(tmp_path):
    """`describe` meets bad data in the driver, where a person sees it."""
    trainable = Vision(data=tmp_path / "no.npz")
    for ask in (trainable.describe, lambda: trainable.build(trainable.bucket({}), 1, Place())):
        with pytest.raises(DataError, match="no such file"):
            ask()

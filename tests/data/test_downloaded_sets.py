"""MNIST, CIFAR, SVHN, CelebA and LSUN: the real files where they are here, imitations of the format where not."""

from __future__ import annotations

import gzip
import lzma
import os
import pickle
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import png_bytes, random_pixels

from genlab.config import DataConfig
from genlab.data import build, iterate
from genlab.data.cifar import CIFAR10, CIFAR100, read_batch, read_pickle
from genlab.data.idx import idx_files, read_idx
from genlab.errors import DataError


def set_of(name: str, root: Path | None, split: str = "train", **values: object):
    return build(DataConfig(**{"name": name, "root": root, "image_size": 32, **values}), split)


def idx_bytes(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_idx(folder: Path, count: int = 20, packed: bool = True) -> np.ndarray:
    """Imitates the four files; returns the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = random_pixels(count, 28, 28, 1)
    labels = (np.arange(count) % 10).astype(np.uint8)
    for part in ("train", "test"):
        for name, array in zip(idx_files(part), (images, labels), strict=True):
            data = idx_bytes(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return images


def write_cifar(root: Path, layout=CIFAR10, count: int = 4, packed: bool = False) -> Path:
    """Imitates the python version: protocol 2, numpy's old module names are left to numpy."""
    folder = root / layout.folder
    folder.mkdir(parents=True)
    for number, name in enumerate(layout.files("all")):
        data = random_pixels(count, 3072, 1, number)[:, :, 0]
        content = {"data": data, layout.label_key: [(number + row) % layout.num_classes for row in range(count)]}
        _write_pickle(folder / name, content, packed)
    _write_pickle(folder / layout.meta, {layout.names_key: [f"c{n}" for n in range(layout.num_classes)]}, packed=False)
    return folder


def _write_pickle(path: Path, content: object, packed: bool = False) -> None:
    data = pickle.dumps(content, protocol=2)
    if packed:
        path.with_name(path.name + ".xz").write_bytes(lzma.compress(data, preset=0))
    else:
        path.write_bytes(data)


def test_real_mnist_is_read_in_place(shared_data):
    train, test = set_of("mnist", shared_data), set_of("mnist", shared_data, "test")
    assert (len(train), len(test), train.num_classes) == (60_000, 10_000, 10)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    image = set_of("mnist", shared_data / "MNIST", image_size=28, limit=1)[0]["image"]
    assert image.shape == (1, 28, 28)
    assert round(float((image + 1).sum() * 127.5)) == 27_525  # sum of the first training picture's pixels


def test_real_cifar10_is_read_in_place(shared_data):
    dataset = set_of("cifar10", shared_data, "test")
    assert (len(dataset), dataset.image_shape) == (10_000, (3, 32, 32))
    assert dataset.class_names[:4] == ["airplane", "automobile", "bird", "cat"]
    assert dataset.labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]
    assert torch.bincount(dataset.labels).tolist() == [1000] * 10
    planes, frogs = (dataset.fetch(np.flatnonzero(dataset.labels == label))["image"] for label in (0, 6))
    # Planes have skies: channel order and orientation are right if their upper rows are bluer than those of frogs.
    blueness = [(images[:, 2, :8] - images[:, 0, :8]).mean() for images in (planes, frogs)]
    assert blueness[0] > blueness[1] + 0.1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("name", "class_name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_sets_are_read_packed_and_plain(tmp_path, name, class_name, packed):
    images = write_idx(tmp_path / class_name / "raw", packed=packed)
    dataset = set_of(name, tmp_path, image_size=28)
    expected = torch.from_numpy(images.astype(np.float32)) / 127.5 - 1
    torch.testing.assert_close(dataset.fetch(np.arange(20))["image"][:, 0], expected)
    assert len(set_of(name, tmp_path, "all")) == 40


def test_idx_set_is_read_from_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder)
    before = sorted(os.listdir(folder))
    folder.chmod(0o555)
    try:
        assert len(set_of("mnist", tmp_path)) == 20
        assert sorted(os.listdir(folder)) == before
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: gzip.compress(data)[:-200], "expected a whole idx file, got a damaged one"),
        (lambda data: gzip.compress(data[:-5]), r"expected 784 bytes of data for shape \(1, 28, 28\), got 779"),
        (lambda data: gzip.compress(data + b"x"), "expected 784 bytes of data .*, got more"),
        (
            lambda data: gzip.compress(b"\0\0\x0d\x03" + data[4:]),
            "expected an idx file of unsigned bytes .*got header 00000d03",
        ),
        (lambda data: gzip.compress(b""), "expected an idx file .*got header nothing"),
        (lambda data: b"no gzip", "expected a whole idx file, got a damaged one"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, damage, message):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(idx_bytes(random_pixels(1, 28, 28, 1))))
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte\.gz: {message}"):
        read_idx(path, 3)


def test_idx_labels_must_fit_the_images(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder)
    labels = folder / f"{idx_files('train')[1]}.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(19, dtype=np.uint8))))
    with pytest.raises(DataError, match=r"expected as many train labels as images \(20\), got 19"):
        set_of("mnist", tmp_path)
    labels.write_bytes(gzip.compress(idx_bytes(np.full(20, 10, dtype=np.uint8))))
    with pytest.raises(DataError, match="expected labels from 0 to 9 in train-labels-idx1-ubyte, got 10"):
        set_of("mnist", tmp_path)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("name", "layout"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_sets_are_read_packed_and_plain(tmp_path, name, layout, packed):
    folder = write_cifar(tmp_path, layout, packed=packed)
    dataset = set_of(name, tmp_path)
    assert (len(dataset), dataset.num_classes) == (4 * len(layout.train), layout.num_classes)
    raw = random_pixels(4, 3072, 1, 0)[0, :, 0].reshape(3, 32, 32)
    torch.testing.assert_close(dataset[0]["image"], torch.from_numpy(raw.astype(np.float32)) / 127.5 - 1)
    assert len(set_of(name, folder, "test")) == 4


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch ran_code",))


@pytest.mark.parametrize("content", [Malicious(), {"data": eval, "labels": []}, {"data": np.ndarray.tofile}])
def test_pickle_that_asks_for_code_is_refused_and_does_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_1: expected a file of CIFAR's .*it names \S+, which a picture"):
        read_pickle(path)
    assert not (tmp_path / "ran_code").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "expected a dictionary, got list"),
        ({"labels": [1]}, r"expected key 'data' with uint8 \(N, 3072\), got NoneType"),
        ({"data": np.zeros((2, 3), np.uint8), "labels": [1, 2]}, r"got \(2, 3\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "expected key 'labels' with 2 labels below 10"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "with 1 labels below 10"),
    ],
)
def test_cifar_batch_of_another_shape_is_refused(tmp_path, content, message):
    path = tmp_path / "data_batch_1"
    _write_pickle(path, content)
    with pytest.raises(DataError, match=f"data_batch_1: .*{message}"):
        read_batch(path, CIFAR10)


def test_truncated_cifar_batch_is_named(tmp_path):
    folder = write_cifar(tmp_path, packed=True)
    batch = folder / "data_batch_3.xz"
    batch.write_bytes(batch.read_bytes()[:500])
    with pytest.raises(DataError, match=r"data_batch_3\.xz: expected a file of CIFAR's python version"):
        set_of("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist", "MNIST/raw with train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("cifar10", "cifar-10-batches-py with data_batch_1"),
        ("cifar100", "cifar-100-python with train"),
        ("svhn", r"train_32x32\.mat"),
        ("celeba", r"celeba/ with list_eval_partition\.txt"),
    ],
)
def test_missing_files_are_one_error_with_root_contents_and_remedy(tmp_path, name, expected):
    with pytest.raises(
        DataError, match=rf"data\.root={tmp_path}: expected {expected}.*files missing; set data\.download=true"
    ):
        set_of(name, tmp_path)
    with pytest.raises(DataError, match=r"got nothing at that path; set data\.download=true"):
        set_of(name, tmp_path / "absent")
    with pytest.raises(DataError, match=r"data\.root: expected the folder that holds .*; set data\.root=PATH"):
        set_of(name, None)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_downloaded_unless_asked_and_torchvision_is_the_one_asked(tmp_path, monkeypatch):
    import torchvision

    asked = []

    def fetch(root: str, download: bool) -> None:
        asked.append((root, download))
        write_idx(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    with pytest.raises(DataError):
        set_of("mnist", tmp_path)
    assert asked == []
    assert len(set_of("mnist", tmp_path / "new", download=True)) == 20
    assert asked == [(str(tmp_path / "new"), True)]
    set_of("mnist", tmp_path / "new", download=True)  # complete by now, so that nothing is asked for again
    assert len(asked) == 1


def test_failed_download_is_one_line_with_a_remedy(tmp_path, monkeypatch):
    import torchvision

    def fetch(root: str, download: bool, split: str) -> None:
        raise OSError("<urlopen error\n no route>")

    monkeypatch.setattr(torchvision.datasets, "SVHN", fetch)
    with pytest.raises(
        DataError, match=r"could not fetch SVHN into .* \(<urlopen error no route>\); copy the files"
    ) as caught:
        set_of("svhn", tmp_path, download=True)
    assert "\n" not in str(caught.value)


def write_svhn(root: Path, part: str = "train", **variables: object) -> None:
    from scipy.io import savemat

    pixels = random_pixels(32, 32, 3 * 6, 1).reshape(32, 32, 3, 6)
    savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": np.array([[1], [10], [2], [3], [9], [10]]), **variables})


def test_svhn_is_read_with_its_label_ten_as_zero(tmp_path):
    write_svhn(tmp_path)
    dataset = set_of("svhn", tmp_path)
    assert dataset.labels.tolist() == [1, 0, 2, 3, 9, 0]
    raw = random_pixels(32, 32, 3 * 6, 1).reshape(32, 32, 3, 6)[:, :, :, 2].transpose(2, 0, 1)
    torch.testing.assert_close(dataset[2]["image"], torch.from_numpy(raw.astype(np.float32)) / 127.5 - 1)


def test_damaged_svhn_is_named(tmp_path):
    write_svhn(tmp_path, y=np.array([[1]]))
    with pytest.raises(
        DataError, match=r"train_32x32\.mat: expected X of uint8 \(32, 32, 3, 1\), got uint8 \(32, 32, 3, 6\)"
    ):
        set_of("svhn", tmp_path)
    write_svhn(tmp_path, y=np.array([[1], [11], [2], [3], [9], [0]]))
    with pytest.raises(DataError, match="expected labels from 1 to 10, got 0 to 11"):
        set_of("svhn", tmp_path)
    (tmp_path / "train_32x32.mat").write_bytes(b"no mat")
    with pytest.raises(DataError, match=r"train_32x32\.mat: expected SVHN's variables X and y"):
        set_of("svhn", tmp_path)


def write_celeba(root: Path, zipped: bool) -> Path:
    folder = root / "celeba"
    pictures = folder / "img_align_celeba"
    pictures.mkdir(parents=True)
    for number in range(6):
        (pictures / f"{number:06}.png").write_bytes(png_bytes(random_pixels(22, 18, 3, number)))
    (folder / "list_eval_partition.txt").write_text("".join(f"{n:06}.png {p}\n" for n, p in enumerate("000112")))
    if zipped:
        shutil.make_archive(str(pictures), "zip", folder, "img_align_celeba")
        shutil.rmtree(pictures)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_celeba_is_split_by_its_partition_file(tmp_path, zipped):
    folder = write_celeba(tmp_path, zipped)
    assert [len(set_of("celeba", tmp_path, split)) for split in ("train", "val", "test", "all")] == [3, 2, 1, 6]
    assert len(set_of("celeba", folder)) == 3
    sample = set_of("celeba", tmp_path, "test", image_size=(22, 18))[0]["image"]
    raw = random_pixels(22, 18, 3, 5).transpose(2, 0, 1)
    torch.testing.assert_close(sample, torch.from_numpy(raw.astype(np.float32)) / 127.5 - 1)


def test_damaged_celeba_is_named(tmp_path):
    folder = write_celeba(tmp_path, zipped=False)
    partition = folder / "list_eval_partition.txt"
    partition.write_text("000000.png 0\nnonsense\n")
    with pytest.raises(DataError, match=r"list_eval_partition\.txt:2: expected `file\.jpg 0\|1\|2`, got 'nonsense'"):
        set_of("celeba", tmp_path)
    partition.write_text("000009.png 0\n")
    with pytest.raises(DataError, match=r"expected 000009\.png, listed in list_eval_partition\.txt, got no such file"):
        set_of("celeba", tmp_path)
    partition.write_text("000000.png 0\n")
    with pytest.raises(DataError, match="expected files of split test, got none"):
        set_of("celeba", tmp_path, "test")


def test_lsun_without_lmdb_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match="data set 'lsun': expected the package lmdb, got none; pip install lmdb"):
        set_of("lsun", tmp_path)


class _Environment:
    """The few calls of lmdb that the reader makes, over a dictionary on disk."""

    def __init__(self, path: str, **options: object) -> None:
        assert options["readonly"]
        assert not options["lock"]
        self._values = pickle.loads((Path(path) / "data.mdb").read_bytes())

    def begin(self) -> _Environment:
        return self

    def __enter__(self) -> _Environment:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cursor(self):
        return iter(sorted(self._values.items()))

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)


@pytest.fixture
def lsun_root(tmp_path, monkeypatch) -> Path:
    """Three categories behind an imitation of lmdb, or behind the package itself where it is installed."""
    try:
        import lmdb
    except ImportError:
        lmdb = types.SimpleNamespace(open=_Environment, Error=OSError)
        monkeypatch.setitem(sys.modules, "lmdb", lmdb)
    for number, category in enumerate(("bedroom", "church_outdoor", "tower")):
        folder = tmp_path / f"{category}_train_lmdb"
        folder.mkdir()
        values = {f"key{row}".encode(): png_bytes(random_pixels(9, 9, 3, 10 * number + row)) for row in range(3)}
        if isinstance(lmdb, types.SimpleNamespace):
            (folder / "data.mdb").write_bytes(pickle.dumps(values))
        else:
            with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
                for key, value in values.items():
                    transaction.put(key, value)
    return tmp_path


def test_lsun_categories_are_classes_and_one_alone_has_none(lsun_root):
    every = set_of("lsun", lsun_root, image_size=9)
    assert every.class_names == ["bedroom", "church_outdoor", "tower"]
    assert every.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    raw = random_pixels(9, 9, 3, 11).transpose(2, 0, 1)
    torch.testing.assert_close(every[4]["image"], torch.from_numpy(raw.astype(np.float32)) / 127.5 - 1)
    alone = set_of("lsun", lsun_root, classes=["church_outdoor"], limit=2)
    assert (len(alone), alone.num_classes) == (2, None)
    chosen = set_of("lsun", lsun_root, classes=["tower", "bedroom"])
    assert (chosen.class_names, chosen.labels.tolist()) == (["tower", "bedroom"], [1, 1, 1, 0, 0, 0])


def test_lsun_bad_input_is_named(lsun_root):
    with pytest.raises(DataError, match="expected categories among bedroom, church_outdoor, tower, got 'castle'"):
        set_of("lsun", lsun_root, classes=["castle"])
    with pytest.raises(DataError, match=r"expected folders such as bedroom_val_lmdb.*torchvision cannot download"):
        set_of("lsun", lsun_root, "val")


def test_lsun_travels_to_another_process(lsun_root):
    dataset = set_of("lsun", lsun_root, image_size=9)
    first = dataset[0]["image"]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0]["image"], first)
    assert torch.equal(next(iterate(dataset, 1, workers=1))["image"][0], first)

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.errors import DataError, MetricError
from genlab.metrics import DatasetSource, FileSource, GeneratorSource, IterableSource, StatisticsSource, open_source
from genlab.metrics.opening import as_source, is_run
from genlab.metrics.stored import ArraySource


def all_images(source, batch_size=7, limit=None):
    return [image for batch in source.batches(batch_size, limit) for image in batch]


def test_folder_gives_pillows_rgb_in_order_of_path(picture_folder):
    folder = picture_folder("a", 9)
    source = open_source(folder)
    assert isinstance(source, FileSource) and source.count == 9
    for image, path in zip(all_images(source), sorted(folder.iterdir()), strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.array(Image.open(path).convert("RGB")))


def test_zip_gives_the_same_images_as_its_folder(picture_folder, tmp_path):
    folder = picture_folder("a", 5)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"a/{path.name}")
    ours, theirs = all_images(open_source(tmp_path / "a.zip")), all_images(open_source(folder))
    assert len(ours) == 5 and all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_mixed_sizes_come_as_lists(picture_folder):
    batches = list(open_source(picture_folder("a", 4, sizes=((10, 12), (7, 5)))).batches(3))
    assert isinstance(batches[0], list) and [tuple(image.shape) for image in batches[0]] == [
        (3, 10, 12), (3, 7, 5), (3, 10, 12),
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_eight_bit_mode_is_read_as_pytorch_fid_reads_it(tmp_path, mode):
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(array).convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path)
    expected = np.array(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(all_images(FileSource(tmp_path))[0].permute(1, 2, 0).numpy(), expected)


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100], [65535, 257 * 7]], dtype=np.uint16)).save(tmp_path / "x.png")
    assert all_images(FileSource(tmp_path))[0][0].tolist() == [[0, 100], [255, 7]]


def test_limit_and_fingerprint_follow_the_files(picture_folder):
    folder = picture_folder("a", 6)
    source = FileSource(folder)
    assert len(all_images(source, 4, limit=5)) == 5
    assert FileSource(folder).fingerprint == source.fingerprint
    Image.new("RGB", (24, 24)).save(folder / "00000.png")
    assert FileSource(folder).fingerprint != source.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "zero bytes"), (b"no image at all", "no known image format"), ("truncated", "breaks off or is damaged")],
)
def test_unreadable_images_are_named(picture_folder, content, message):
    folder = picture_folder("a", 3)
    victim = folder / "00001.png"
    victim.write_bytes(victim.read_bytes()[:900] if content == "truncated" else content)
    with pytest.raises(DataError, match=message) as caught:
        all_images(FileSource(folder))
    assert str(victim) in str(caught.value) and "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="decompression bomb"):
        all_images(FileSource(tmp_path))


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="nothing at that path"):
        open_source(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty folder"):
        open_source(tmp_path / "empty")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(DataError, match="folder or a zip archive"):
        open_source(tmp_path / "x.txt")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["images", "arr_0"])
def test_arrays_of_images_are_read_in_slices(tmp_path, save, key):
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
    save(tmp_path / "x.npz", **{key: images})
    source = open_source(tmp_path / "x.npz")
    assert isinstance(source, ArraySource) and source.count == 10
    np.testing.assert_array_equal(torch.stack(all_images(source, 3)).permute(0, 2, 3, 1).numpy(), images)
    assert [len(batch) for batch in source.batches(3, limit=7)] == [3, 3, 1]


@pytest.mark.parametrize(
    "array", [np.zeros((3, 4, 4, 3)), np.zeros((3, 4, 4), dtype=np.uint8), np.zeros((3, 4, 4, 7), dtype=np.uint8)]
)
def test_other_arrays_are_refused(tmp_path, array):
    np.savez(tmp_path / "x.npz", images=array)
    with pytest.raises(MetricError, match=r"uint8 \(n, h, w, c\)"):
        open_source(tmp_path / "x.npz")


def test_npz_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.npz").write_text("hello")
    with pytest.raises(MetricError, match="npz of statistics or images"):
        open_source(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", other=np.zeros(3))
    with pytest.raises(MetricError, match="keys 'mu' and 'sigma', got"):
        open_source(tmp_path / "y.npz")


def test_npz_of_statistics_is_recognised(tmp_path):
    np.savez(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert isinstance(open_source(tmp_path / "x.npz"), StatisticsSource)


def sample(n, generator):
    return torch.rand(n, 1, 4, 4, generator=generator) * 2 - 1


def test_generator_gives_the_same_images_whatever_the_reader_asks():
    source = GeneratorSource(sample, 25, batch_size=10, seed=3)
    once = torch.stack(all_images(source, 4))
    assert once.shape == (25, 1, 4, 4) and once.dtype == torch.uint8
    assert torch.equal(once, torch.stack(all_images(source, 100)))
    assert not torch.equal(once, torch.stack(all_images(GeneratorSource(sample, 25, batch_size=10, seed=4))))


def test_a_diverged_or_odd_generator_is_refused():
    with pytest.raises(MetricError, match="NaN or Inf; the model has diverged"):
        all_images(GeneratorSource(lambda n, g: torch.full((n, 1, 2, 2), float("nan")), 3))
    with pytest.raises(MetricError, match="expected 3 images"):
        all_images(GeneratorSource(lambda n, g: torch.zeros(n + 1, 1, 2, 2), 3))
    with pytest.raises(MetricError, match="at least 1, got 0"):
        GeneratorSource(sample, 0)


def test_data_set_comes_in_order_as_bytes(digits):
    source = as_source(digits[1])
    images = torch.stack(all_images(source, 100))
    expected = digits[1].fetch(np.arange(297))["image"]
    assert isinstance(source, DatasetSource) and images.dtype == torch.uint8
    torch.testing.assert_close(images.float() / 127.5 - 1, expected, atol=1 / 255, rtol=0)


def test_shorter_domain_of_an_unpaired_set_counts_each_picture_once():
    from genlab.config import DataConfig
    from genlab.data import build

    dataset = build(DataConfig(name="two_domains", image_size=16, limit=20), "train")
    dataset.lengths = (20, 13)
    assert len(all_images(DatasetSource(dataset, "b"))) == 13 and len(all_images(DatasetSource(dataset, "a"))) == 20


def test_iterables_of_tensors_serve_as_sources():
    chunks = [torch.zeros(4, 1, 2, 2), torch.ones(3, 1, 2, 2)]
    assert torch.stack(all_images(as_source(chunks)))[:, 0, 0, 0].tolist() == [128] * 4 + [255] * 3
    assert len(all_images(IterableSource(chunks), limit=5)) == 5
    with pytest.raises(MetricError, match="NaN or Inf"):
        all_images(IterableSource([torch.full((1, 1, 2, 2), float("inf"))]))
    with pytest.raises(MetricError, match="got int"):
        as_source(3)


def test_runs_are_told_from_folders_of_images(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("")
    assert is_run(tmp_path / "run") and not is_run(tmp_path)
    assert is_run(tmp_path / "run" / "checkpoints" / "step_00000001.safetensors")


def test_a_zip_with_a_damaged_member_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(buffer, "png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", buffer.getvalue())
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[60] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match="x.zip:a.png"):
        all_images(FileSource(tmp_path / "x.zip"))

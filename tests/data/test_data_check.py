"""`genlab.data.check`: every fault of a folder, archive or root at once."""

from __future__ import annotations

import gzip
import shutil

import pytest
from picture_files import bomb_bytes, png_bytes, random_pixels

from genlab.data import check
from genlab.data.idx import idx_files
from genlab.errors import DataError


def findings(report) -> set[tuple[str, str, str]]:
    return {(finding.severity, finding.kind, finding.path.split("/")[-1]) for finding in report.findings}


def test_a_sound_folder_is_ok_and_counted(write):
    write.many("cats/{}.png", 12)
    write.many("dogs/{}.png", 11)
    report = check(write.root)
    assert report.ok
    assert report.findings == []
    assert (report.layout, report.images) == ("folder", 23)
    assert report.sizes == {(8, 8): 23}
    assert report.formats == {"3 channels, 8 bit": 23}
    assert report.groups == {"cats": 12, "dogs": 11}
    assert report.lines()[-1] == "ok: 0 errors, 0 warnings"


@pytest.mark.parametrize("zipped", [False, True])
def test_every_fault_is_listed_at_once(write, zipped):
    write.many("ok{}.png", 8)
    whole = png_bytes(random_pixels(64, 64, 3, 99))
    write.bytes("empty.png", b"")
    write.bytes("truncated.png", whole[: len(whole) // 2])
    write.bytes("bomb.png", bomb_bytes())
    write.bytes("text.png", b"text")
    write("grey.png", channels=1)
    write("deep.png", dtype="uint16")
    write("large.png", height=9)
    write.bytes("copy.png", (write.root / "ok0.png").read_bytes())
    write.bytes("notes.txt", b"x")
    report = check(write.zipped() if zipped else write.root)
    name = "pictures.zip:set/" if zipped else ""
    expected = {
        ("error", "empty", "empty.png"),
        ("error", "truncated", "truncated.png"),
        ("error", "bomb", "bomb.png"),
        ("error", "not-an-image", "text.png"),
        ("error", "channels", "grey.png"),
        ("warning", "bits", "deep.png"),
        ("warning", "size", "large.png"),
        ("warning", "duplicate", "ok0.png"),
        ("warning", "ignored", "notes.txt"),
    }
    assert findings(report) == expected
    assert not report.ok
    assert report.images == 12
    assert all(name in finding.path for finding in report.findings)
    assert report.lines()[-1] == "not usable as it is: 5 errors, 4 warnings"
    assert sum(line.startswith(("error: ", "warning: ")) for line in report.lines()) == 9
    assert [finding.severity for finding in report.findings] == ["error"] * 5 + ["warning"] * 4


def test_sizes_without_a_majority_are_not_odd(write):
    for number in range(6):
        write(f"{number}.png", height=5 + number)
    report = check(write.root)
    assert report.findings == []
    assert len(report.sizes) == 6


def test_class_with_few_images_is_warned_of(write):
    write.many("cats/{}.png", 12)
    write.many("dogs/{}.png", 3)
    report = check(write.root)
    assert findings(report) == {("warning", "few-images", "dogs")}
    assert report.ok


def test_unpaired_file_is_found_where_most_are_paired(write):
    write.many("A/{}.png", 12)
    write.many("B/{}.png", 11)
    write("B/other.png")
    assert findings(check(write.root)) == {("error", "unpaired", "11.png"), ("error", "unpaired", "other.png")}
    assert check(write.root, paired=False).ok


def test_domains_without_common_names_are_unpaired_by_design_unless_demanded(write):
    write.many("trainA/a{}.png", 10)
    write.many("trainB/b{}.png", 10)
    assert check(write.root).ok
    assert len(check(write.root, paired=True).errors) == 20


def test_pairs_side_by_side_need_an_even_width_when_demanded(write):
    write("a.png", width=16)
    write("b.png", width=15)
    assert ("error", "odd-width", "b.png") in findings(check(write.root, paired=True))
    assert check(write.root).ok


def test_a_split_of_one_domain_that_the_other_lacks_is_found(write):
    for folder in ("trainA", "trainB", "testA"):
        write.many(folder + "/" + folder + "{}.png", 10)
    found = [(finding.kind, finding.detail) for finding in check(write.root).errors]
    assert found == [("domains", "test images of one domain, none of B")]


def test_paired_demands_two_domains(write):
    for domain in "ABC":
        write.many(domain + "/{}.png", 10)
    assert [finding.kind for finding in check(write.root, paired=True).errors] == ["domains"]


def test_file_beside_class_folders_is_found(write):
    write.many("cats/{}.png", 10)
    write("stray.png")
    assert ("error", "stray", "stray.png") in findings(check(write.root))


def test_empty_folder_is_an_error_and_a_missing_one_raises(write):
    assert [finding.kind for finding in check(write.root).errors] == ["no-images"]
    with pytest.raises(DataError, match="expected a folder or a zip archive, got nothing at that path"):
        check(write.root / "absent")


def test_damaged_zip_member_is_listed(write):
    write.many("{}.png", 3)
    archive = write.zipped()
    data = bytearray(archive.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 0xFF
    archive.write_bytes(data)
    assert findings(check(archive)) == {("error", "unreadable", "0.png")}


def test_progress_counts_every_file(write):
    write.many("{}.png", 5)
    seen = []
    check(write.root, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 5) for number in range(1, 6)]


def test_real_mnist_and_cifar_roots_are_checked_as_a_whole(shared_data, tmp_path):
    report = check(shared_data / "MNIST")
    assert report.ok
    assert (report.layout, report.images) == ("idx", 70_000)
    assert report.groups["MNIST test, label 0"] == 980
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch.xz"):
        shutil.copyfile(shared_data / "cifar-10-batches-py" / name, folder / name)
    (folder / "data_batch_1").write_bytes(b"no pickle")
    report = check(tmp_path)
    assert report.layout == "cifar"
    assert report.groups["test_batch, label 3"] == 1000
    assert findings(report) == {
        ("error", "unreadable", "data_batch_1"),
        *(("error", "missing", f"data_batch_{number}") for number in range(2, 6)),
    }


def test_damaged_and_missing_idx_files_are_listed(shared_data, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in idx_files("test"):
        shutil.copyfile(shared_data / "MNIST" / "raw" / f"{name}.gz", folder / f"{name}.gz")
    images = folder / f"{idx_files('test')[0]}.gz"
    images.write_bytes(gzip.compress(b"\0\0\x08\x03"))
    report = check(tmp_path)
    assert report.images == 0
    assert findings(report) == {("error", "unreadable", "raw"), ("error", "unreadable", images.name)}


@pytest.mark.parametrize(
    ("name", "images", "errors"),
    [("facades.zip", 400, 0), ("horse2zebra_128.zip", 580, 0), ("lfwcrop_64.zip", 2500, 0), ("emoji_64.zip", 656, 9)],
)
def test_real_archives(shared_data, name, images, errors):
    report = check(shared_data / name)
    assert (report.layout, report.images) == ("zip", images)
    assert len(report.errors) == errors
    # Nine emoji are stored as grey with alpha among RGBA: a set that must be read with data.channels.
    assert {finding.kind for finding in report.errors} <= {"channels"}

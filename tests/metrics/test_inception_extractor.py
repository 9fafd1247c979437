import os
import subprocess
import sys
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.errors import MetricError
from genlab.metrics import fid, inception_score
from genlab.metrics.extractors.inception import DIMS, InceptionExtractor, build_network, find_weights


@pytest.fixture(scope="module")
def extractor(inception_weights):
    return InceptionExtractor(inception_weights)


def torch_home(weights):
    return str(weights.parents[2])


def pytorch_fid_command(weights, *arguments):
    """Output of `python -m pytorch_fid` with these weights in torch hub's cache."""
    command = [sys.executable, "-m", "pytorch_fid", *map(str, arguments), "--device", "cpu", "--num-workers", "0"]
    environment = {**os.environ, "TORCH_HOME": torch_home(weights)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_distance_agrees_with_pytorch_fid_on_the_same_files(picture_folder, inception_weights, tmp_path):
    a = picture_folder("a", 66, seed=1)
    b = picture_folder("b", 68, seed=2, brightness=20, suffix="jpg")
    saved = tmp_path / "theirs.npz"
    pytorch_fid_command(inception_weights, "--save-stats", a, saved, "--dims", 64)
    theirs = float(pytorch_fid_command(inception_weights, saved, b, "--dims", 64).split("FID:")[1])
    assert theirs > 0.01
    # `b` takes the part of the reference, so that its statistics are cached and its images pass the network once.
    score = fid(b, a, inception_weights=inception_weights, dims=64)[0]
    assert score.value == pytest.approx(theirs, rel=1e-3)
    assert score.name == "frechet[inception64]"  # other features than pool3 are not called FID
    assert (score.protocol["real"]["count"], score.protocol["fake"]["count"]) == (68, 66)
    # Their statistics of `a` stand in for its images.
    from_statistics = fid(b, saved, inception_weights=inception_weights, dims=64)[0]
    assert from_statistics.value == pytest.approx(theirs, rel=1e-3)
    assert from_statistics.protocol["fake"]["count"] is None


@pytest.mark.parametrize("dims", DIMS)
def test_features_of_every_depth_agree_with_pytorch_fid(dims, inception_weights, monkeypatch):
    from pytorch_fid.inception import InceptionV3

    monkeypatch.setenv("TORCH_HOME", torch_home(inception_weights))
    images = torch.randint(0, 256, (3, 3, 40, 52), dtype=torch.uint8)
    reference = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[dims]]).eval()
    with torch.no_grad():
        expected = reference(images.float() / 255)[0].mean(dim=(2, 3))
    features, logits = InceptionExtractor(inception_weights, dims=dims)(images, logits=False)
    assert features.shape == (3, dims) and logits is None
    assert expected.std(dim=0).mean() > 1e-3  # else agreement would say nothing
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.skipif("GENLAB_SLOW" not in os.environ, reason="a quarter of an hour on a CPU; set GENLAB_SLOW=1")
def test_fid_agrees_with_pytorch_fid_at_2048_dimensions(picture_folder, inception_weights):
    a, b = picture_folder("a", 2060, seed=1), picture_folder("b", 2060, seed=2, brightness=20)
    theirs = float(pytorch_fid_command(inception_weights, a, b).split("FID:")[1])
    score = fid(a, b, inception_weights=inception_weights)[0]
    assert score.name == "fid" and score.value == pytest.approx(theirs, rel=1e-3)


def test_logits_come_from_the_same_pass_without_bias(extractor):
    images = torch.randint(0, 256, (2, 3, 30, 30), dtype=torch.uint8)
    features, logits = extractor(images)
    assert logits.shape == (2, 1008)
    torch.testing.assert_close(logits, features @ extractor.network.fc.weight.T)


def test_images_of_unequal_sizes_are_resized_one_by_one(extractor):
    sizes = [(20, 30), (20, 30), (41, 17), (299, 299)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    together = extractor(images, logits=False)[0]
    alone = torch.cat([extractor(image[None], logits=False)[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channel_counts_are_read_as_pillow_converts_them(extractor, channels):
    array = np.random.default_rng(0).integers(0, 256, (24, 24, channels), dtype=np.uint8)
    converted = np.array(Image.fromarray(array[:, :, 0] if channels == 1 else array).convert("RGB"))
    ours = extractor(torch.from_numpy(array).permute(2, 0, 1)[None], logits=False)[0]
    expected = extractor(torch.from_numpy(converted).permute(2, 0, 1)[None], logits=False)[0]
    torch.testing.assert_close(ours, expected)


def test_five_channels_are_refused(extractor):
    with pytest.raises(MetricError, match="1 to 4 channels, got 5"):
        extractor(torch.zeros(1, 5, 8, 8, dtype=torch.uint8))


def test_floats_and_bytes_of_the_same_picture_have_the_same_features(extractor):
    images = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    features = [extractor(x, logits=False)[0] for x in (images, images.float() / 127.5 - 1)]
    assert torch.equal(*features)


def test_protocol_names_weights_resize_and_logits(extractor, inception_weights):
    import hashlib

    facts = extractor.describe()
    assert facts["extractor"] == "inception" and facts["dims"] == 2048
    assert facts["extractor_hash"] == hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert facts["official_weights"] is False
    assert "299x299" in facts["resize"] and "no bias" in facts["logits"]


def test_inception_score_of_a_folder_carries_its_protocol(picture_folder, inception_weights):
    score = inception_score(picture_folder("a", 12), inception_weights=inception_weights)
    assert score.name == "is" and score.value >= 1 and score.std is not None
    assert score.protocol["splits"] == 10 and "permutation" in score.protocol["split_order"]


def test_too_few_images_for_the_covariance_are_refused_before_any_is_read(picture_folder, inception_weights):
    a, b = picture_folder("a", 3), picture_folder("b", 3)
    with pytest.raises(MetricError, match=r"real: expected at least 65 images .* 64 dimensions.* got 3"):
        fid(a, b, inception_weights=inception_weights, dims=64)


def test_weights_come_from_argument_then_variable_then_torch_hub(inception_weights, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", torch_home(inception_weights))
    monkeypatch.delenv("GENLAB_INCEPTION_WEIGHTS", raising=False)
    assert find_weights() == inception_weights
    for name in ("variable.pth", "argument.pth"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("GENLAB_INCEPTION_WEIGHTS", str(tmp_path / "variable.pth"))
    assert find_weights() == tmp_path / "variable.pth"
    assert find_weights(tmp_path / "argument.pth") == tmp_path / "argument.pth"


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_missing_weights_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(MetricError) as caught:
        InceptionExtractor(tmp_path / "none.pth")
    assert "none.pth" in one_line(caught) and "--inception-weights" in str(caught.value)
    monkeypatch.setenv("GENLAB_INCEPTION_WEIGHTS", str(tmp_path / "gone.pth"))
    with pytest.raises(MetricError, match="gone.pth .GENLAB_INCEPTION_WEIGHTS"):
        InceptionExtractor()


def test_a_failed_download_names_the_ways_out(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("GENLAB_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(MetricError) as caught:
        InceptionExtractor()
    text = one_line(caught)
    assert "network is unreachable" in text and "--inception-weights PATH" in text
    assert not list(tmp_path.rglob("*.pth"))


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle was run')",))


def test_files_that_are_not_these_weights_are_refused_in_one_line(tmp_path, inception_weights):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"payload": Payload()}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes(inception_weights.read_bytes()[:100_000])
    (tmp_path / "text.safetensors").write_text("not weights either")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    for path in sorted(tmp_path.glob("*.*")):
        with pytest.raises(MetricError, match="expected") as caught:
            InceptionExtractor(path)
        assert path.name in one_line(caught)
    with pytest.raises(MetricError, match="missing, 1 unknown and 0 misshapen"):
        InceptionExtractor(tmp_path / "other.pth")


def test_torchvisions_own_inception_is_refused(tmp_path):
    from torchvision.models import inception_v3

    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "torchvision.pth")
    with pytest.raises(MetricError, match="pt_inception-2015-12-05"):
        InceptionExtractor(tmp_path / "torchvision.pth")


def test_safetensors_give_the_same_network(tmp_path, inception_weights, extractor):
    from safetensors.torch import save_file

    save_file(torch.load(inception_weights, weights_only=True), tmp_path / "w.safetensors")
    images = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    other = InceptionExtractor(tmp_path / "w.safetensors")
    assert torch.equal(other(images)[0], extractor(images)[0])


def test_unknown_dims_are_refused(inception_weights):
    with pytest.raises(MetricError, match="64, 192, 768, 2048, got 100"):
        InceptionExtractor(inception_weights, dims=100)


def test_network_has_pytorch_fids_keys(inception_weights, monkeypatch):
    from pytorch_fid.inception import fid_inception_v3

    monkeypatch.setenv("TORCH_HOME", torch_home(inception_weights))
    theirs = fid_inception_v3().state_dict()
    ours = build_network().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.cuda
def test_gpu_features_agree_with_the_cpu(inception_weights, extractor):
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = extractor(images)[0]
    features = InceptionExtractor(inception_weights, device="cuda")(images)[0].cpu()
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

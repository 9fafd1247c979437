import dataclasses
import re

import pytest
import torch

from genlab.config import DataConfig
from genlab.data import build
from genlab.errors import MetricError
from genlab.metrics import evaluate, resolve, resolve_for
from genlab.metrics.extractors import trained
from genlab.metrics.extractors.base import with_channels
from genlab.metrics.extractors.network import shift, working_size


@pytest.fixture
def short_training(monkeypatch):
    """Trainings of ten steps, for tests that ask how an extractor is kept, not how good it is."""
    recipe = trained._recipe

    def short(task, train, seed):
        return dataclasses.replace(recipe(task, train, seed), images_seen=640)

    monkeypatch.setattr(trained, "_recipe", short)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def shapes():
    config = DataConfig(name="shapes", image_size=16, limit=200)
    return build(config, "train")


def test_digits_classifier_names_more_than_97_percent_of_the_test_digits(classifier):
    assert classifier.name == "digits_cnn" and classifier.dim == 64
    assert classifier.accuracy > 0.97
    assert classifier.facts["accuracy_on"] == "digits test" and classifier.facts["accuracy_count"] == 297


def test_features_and_logits_of_the_classifier_fit_together(classifier, digits):
    batch = digits[1].fetch(torch.arange(297).numpy())
    features, logits = classifier(batch["image"])
    assert features.shape == (297, 64) and logits.shape == (297, 10)
    assert float((logits.argmax(dim=1) == batch["label"]).double().mean()) == classifier.accuracy
    torch.testing.assert_close(classifier.network.head(features), logits)


def test_protocol_names_hash_accuracy_and_training(classifier):
    facts = classifier.describe()
    assert re.fullmatch("[0-9a-f]{64}", facts["extractor_hash"])
    assert facts["task"] == "classify" and facts["trained_on"] == "digits train (1500 images)"
    assert facts["accuracy"] == classifier.accuracy and facts["resize"].endswith("16x16")


def test_second_call_reads_the_cache(digits, classifier, monkeypatch):
    monkeypatch.setattr(trained, "_train", None)  # training again would fail
    again = resolve("auto", train=digits[0], held_out=digits[1])
    assert again.hash == classifier.hash and again.accuracy == classifier.accuracy


def test_training_repeats_exactly_and_leaves_the_global_generator_alone(digits, short_training, tmp_path, monkeypatch):
    hashes = []
    for name in ("one", "two"):
        monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / name))
        before = torch.get_rng_state()
        hashes.append(resolve("classifier", train=digits[0], held_out=digits[1]).hash)
        assert torch.equal(torch.get_rng_state(), before)
    other = resolve("classifier", train=digits[0], held_out=digits[1], seed=1)
    assert hashes[0] == hashes[1] != other.hash


def test_training_inside_no_grad_is_the_same(digits, short_training, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "one"))
    expected = resolve("classifier", train=digits[0], held_out=digits[1]).hash
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "two"))
    with torch.no_grad():
        assert resolve("classifier", train=digits[0], held_out=digits[1]).hash == expected


def test_a_damaged_cache_file_is_trained_again_and_said(digits, short_training, fresh_cache):
    first = resolve("classifier", train=digits[0], held_out=digits[1])
    (path,) = (fresh_cache / "extractors").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.warns(UserWarning, match="damaged cache"):
        assert resolve("classifier", train=digits[0], held_out=digits[1]).hash == first.hash
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_process_that_comes_second_takes_the_first_ones_weights(digits, short_training, fresh_cache, monkeypatch):
    first = resolve("classifier", train=digits[0], held_out=digits[1])
    (path,) = (fresh_cache / "extractors").glob("*.safetensors")
    written, train = path.read_bytes(), trained._train

    def slower_process(*arguments):
        network, facts = train(*arguments)
        with torch.no_grad():
            network.head.bias.add_(1.0)
        path.write_bytes(written)  # meanwhile the other process is done
        return network, facts

    path.unlink()
    monkeypatch.setattr(trained, "_train", slower_process)
    assert resolve("classifier", train=digits[0], held_out=digits[1]).hash == first.hash


def test_an_unwritable_cache_is_one_clear_error(digits, short_training, tmp_path, monkeypatch):
    (tmp_path / "extractors").write_text("in the way")
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    with pytest.raises(MetricError, match="writable cache directory.*GENLAB_CACHE"):
        resolve("classifier", train=digits[0], held_out=digits[1])


def test_data_of_another_size_has_another_extractor(short_training, fresh_cache):
    hashes = {resolve_for(DataConfig(name="digits", image_size=size), "auto").hash for size in (8, 16)}
    assert len(hashes) == 2


def test_rotation_serves_sets_without_classes_and_has_no_inception_score(shapes, short_training, fresh_cache):
    calls = []
    extractor = resolve("rotation", train=shapes, progress=lambda *arguments: calls.append(arguments))
    assert extractor.name == "shapes_rotation_cnn" and extractor.num_classes is None
    assert calls[-1] == ("train shapes_rotation_cnn", 10, 10)
    assert "its own training images" in extractor.facts["accuracy_on"]
    features, logits = extractor(shapes.fetch(torch.arange(3).numpy())["image"])
    assert features.shape == (3, 64) and logits is None
    with pytest.raises(MetricError, match="is: expected an extractor whose logits name classes"):
        evaluate(shapes, shapes, extractor, ["fid", "is"])


def test_auto_is_rotation_where_there_are_no_classes(short_training, fresh_cache):
    extractor = resolve_for(DataConfig(name="two_domains", image_size=16, limit=64))
    assert extractor.name.endswith("_rotation_cnn")


def test_classifier_of_a_set_without_classes_is_refused():
    with pytest.raises(MetricError, match="expected a data set with classes"):
        resolve_for(DataConfig(name="two_domains", image_size=16), "classifier")


def test_unknown_extractors_name_the_nearest():
    with pytest.raises(MetricError, match="got 'inceptoin'; did you mean 'inception'"):
        resolve("inceptoin")
    with pytest.raises(MetricError, match="expected a data set to learn from"):
        resolve("classifier")


@pytest.mark.parametrize(
    ("given", "expected"),
    [((8, 8), (8, 8)), ((28, 28), (28, 28)), ((64, 64), (32, 32)), ((256, 128), (32, 16)), ((3, 400), (8, 32))],
)
def test_working_size_is_bounded_and_keeps_the_shape(given, expected):
    assert working_size(*given) == expected


def test_shift_moves_whole_pictures_by_bounded_amounts():
    images = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(50, 1, 1, 1)
    moved = shift(images, 2, torch.Generator().manual_seed(0))
    centres = moved[:, 0, 2:4, 2:4]
    differences = centres - images[:, 0, 2:4, 2:4]
    assert (differences == differences[:, :1, :1]).all()  # inside, a shift by (dy, dx) adds 6 dy + dx everywhere
    offsets = {(round(float(d) / 6), float(d) - 6 * round(float(d) / 6)) for d in differences[:, 0, 0]}
    assert len(offsets) > 10 and all(abs(dy) <= 2 and abs(dx) <= 2 for dy, dx in offsets)


def test_channels_are_brought_to_one_as_pillow_does():
    import numpy as np
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    ours = with_channels(torch.from_numpy(array).permute(2, 0, 1)[None], 1)[0, 0].numpy()
    np.testing.assert_array_equal(ours, np.array(Image.fromarray(array).convert("L")))

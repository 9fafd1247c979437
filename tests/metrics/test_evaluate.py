import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from genlab.config import DataConfig
from genlab.data import build
from genlab.errors import DataError, MetricError, UserError
from genlab.metrics import (
    GeneratorSource,
    IterableSource,
    Protocol,
    Score,
    check_metrics,
    default_metrics,
    describe,
    evaluate,
    evaluate_generator,
    fid,
    frechet_distance,
    open_source,
    resolve,
    resolve_for,
    save_statistics,
    score_table,
)
from genlab.metrics.extractors.pixels import PixelExtractor

PIXELS = PixelExtractor(4)
DIGITS = DataConfig(name="digits", image_size=16)


def noise(n, generator):
    return torch.randn(n, 1, 16, 16, generator=generator).clamp(-1, 1)


def images_of(dataset, indices):
    return dataset.fetch(np.asarray(indices))["image"]


def test_halves_of_the_real_digits_are_near_and_noise_is_far(classifier, digits):
    train = digits[0]
    halves = [images_of(train, range(start, len(train), 2)) for start in (0, 1)]
    near = evaluate(halves[0], halves[1], classifier, ["fid", "is", "kid", "prdc"])
    far = evaluate(halves[0], GeneratorSource(noise, 500), classifier, ["fid", "is", "kid", "prdc"])
    near, far = ({score.name.split("[")[0]: score.value for score in scores} for scores in (near, far))
    assert near["frechet"] < 0.02 * far["frechet"] and near["kid"] < 0.02 * far["kid"]
    assert near["is"] > 9 > 3 > far["is"]
    assert min(near[name] for name in ("precision", "recall", "coverage")) > 0.8
    assert max(far[name] for name in ("recall", "density", "coverage")) < 0.2
    # One real outlier's large ball can hold many fakes: what density was made for (Naeem et al. 2020, section 3.1).
    assert far["density"] < far["precision"] < 0.5


def test_a_generator_that_forgets_half_of_the_classes_scores_worse(classifier, digits):
    train = digits[0]
    few = images_of(train, [index for index in range(len(train)) if int(train.labels[index]) < 5])
    whole = images_of(train, range(0, len(train), 2))
    scores = [{s.name: s.value for s in evaluate(train, fake, classifier, ["fid", "is"])} for fake in (whole, few)]
    assert scores[0]["frechet[digits_cnn]"] < 0.2 * scores[1]["frechet[digits_cnn]"]
    assert scores[1]["is[digits_cnn]"] < 6 < scores[0]["is[digits_cnn]"]


def test_scores_equal_those_computed_from_all_features_at_once(classifier, digits):
    fake = GeneratorSource(noise, 300, batch_size=64)
    score = evaluate(digits[1], fake, classifier, ["fid"], batch_size=50)[0]
    features = []
    for images in (images_of(digits[1], range(297)), torch.cat(list(fake.batches(64)))):
        features.append(classifier(images)[0].double().numpy())
    moments = [(part.mean(axis=0), np.cov(part, rowvar=False)) for part in features]
    assert score.value == pytest.approx(frechet_distance(*moments[0], *moments[1]), rel=1e-4)


def test_the_same_generator_scores_the_same_twice_and_in_other_batches(classifier, digits):
    def scores(**options):
        fake = GeneratorSource(noise, 300)
        return [score.value for score in evaluate(digits[1], fake, classifier, ["fid", "is", "kid", "prdc"], **options)]

    assert scores() == scores() == scores(cache=False)
    # Other batches through the network change sums in the last digits of float32 only.
    assert scores(batch_size=33, cache=False) == pytest.approx(scores(), rel=1e-4)


def test_every_score_carries_its_protocol(classifier, digits):
    facts = {"checkpoint": "step_00000010.safetensors", "which": "last"}
    fake = GeneratorSource(noise, 100, seed=5, facts=facts)
    scores = evaluate(digits[1], fake, classifier, ["fid", "is", "kid", "prdc"], protocol=Protocol(seed=7, prdc_k=3))
    names = ["frechet", "is", "kid", "precision", "recall", "density", "coverage"]
    assert [score.name for score in scores] == [f"{name}[digits_cnn]" for name in names]
    for score in scores:
        protocol = json.loads(json.dumps(score.to_json()))["protocol"]
        assert protocol["extractor"] == "digits_cnn" and len(protocol["extractor_hash"]) == 64
        assert protocol["fake"]["count"] == 100 and protocol["fake"]["sampling_seed"] == 5
        assert protocol["fake"]["checkpoint"] == "step_00000010.safetensors" and protocol["seed"] == 7
        assert protocol["resize"] and protocol["dtype"] and protocol["torch"] == torch.__version__
        if not score.name.startswith("is"):
            assert protocol["real"]["count"] == 297 and protocol["split"] == "test"
    assert (
        scores[1].protocol["splits"] == 10 and scores[2].protocol["subset_size"] == 100 and scores[3].protocol["k"] == 3
    )
    assert scores[1].std is not None and scores[0].std is None


def test_real_statistics_are_cached_by_data_extractor_and_limit(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    fake = torch.randint(0, 256, (50, 1, 16, 16), dtype=torch.uint8)
    reads = []

    def score(real, extractor=PIXELS, **options):
        reads.clear()
        report = lambda what, done, total: reads.append(what)  # noqa: E731
        return evaluate(real, fake, extractor, progress=report, **options)[0].value, "real images" in reads

    first, read = score(digits[1])
    assert read
    assert score(digits[1]) == (first, False)
    assert score(digits[1], cache=False) == (first, True)
    for options in (
        {"real": digits[0]},
        {"real": digits[1], "extractor": PixelExtractor(5)},
        {"real": digits[1], "protocol": Protocol(limit=40)},
        {"real": digits[1], "metrics": ["kid"]},
    ):
        assert score(**options)[1] and not score(**options)[1]
    for path in (tmp_path / "statistics").iterdir():
        path.write_bytes(b"damaged")
    assert score(digits[1]) == (first, True)


def test_one_pass_over_the_generated_images_serves_all_metrics(classifier, digits):
    drawn = []

    def counting(n, generator):
        drawn.append(n)
        return noise(n, generator)

    evaluate(digits[1], GeneratorSource(counting, 120), classifier, ["fid", "is", "kid", "prdc"])
    assert sum(drawn) == 120


def test_images_of_mixed_sizes_are_judged_one_by_one(picture_folder):
    a = picture_folder("a", 20, sizes=((24, 24), (16, 32)))
    assert fid(a, a, extractor=PIXELS, batch_size=7)[0].value == pytest.approx(0.0, abs=1e-9)


def test_saved_statistics_stand_in_for_images(picture_folder, tmp_path):
    a, b = picture_folder("a", 20, seed=1), picture_folder("b", 20, seed=2)
    saved = save_statistics(a, tmp_path / "a.npz", extractor=PIXELS)
    direct = fid(a, b, extractor=PIXELS)[0].value
    assert direct > 0
    assert fid(saved, b, extractor=PIXELS)[0].value == pytest.approx(direct, rel=1e-9)
    assert fid(b, saved, extractor=PIXELS)[0].value == pytest.approx(direct, rel=1e-9)
    with pytest.raises(MetricError, match="one feature extractor, got extractor pixels5 and pixels4|equal dimensions"):
        fid(saved, b, extractor=PixelExtractor(5))
    with pytest.raises(MetricError, match="a.npz: expected images for kid, got saved statistics"):
        fid(saved, b, extractor=PIXELS, metrics=["kid"])
    with pytest.raises(MetricError, match="expected a new file"):
        save_statistics(a, saved, extractor=PIXELS)
    with pytest.raises(MetricError, match="already holds statistics"):
        save_statistics(saved, tmp_path / "b.npz", extractor=PIXELS)
    with pytest.raises(MetricError, match=r"b\.npy: expected a name that ends in \.npz"):
        save_statistics(tmp_path / "absent", tmp_path / "b.npy", extractor=PIXELS)
    with pytest.raises(UserError, match=r"b\.npz: expected a place in a folder"):
        save_statistics(tmp_path / "absent", saved / "b.npz", extractor=PIXELS)


def test_statistics_of_other_weights_are_refused(picture_folder, tmp_path):
    a = picture_folder("a", 20)
    saved = save_statistics(a, tmp_path / "a.npz", extractor=PIXELS)
    other = PixelExtractor(4)
    other.hash = "0" * 64
    with pytest.raises(MetricError, match="got hash 0000.*recompute"):
        fid(a, saved, extractor=other)


@pytest.mark.parametrize("side", [0, 1])
def test_too_few_images_are_refused_on_either_side(side):
    counts = [30, 30]
    counts[side] = 16
    images = [torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8) for count in counts]
    with pytest.raises(MetricError, match=rf"{['real', 'fake'][side]}: expected at least 17 images .* got 16"):
        evaluate(*images, PIXELS)
    with pytest.raises(MetricError, match="expected at least 17 images .* got 16"):  # of unknown count in advance
        evaluate(images[0].split(5), images[1].split(5), PIXELS)


def test_bad_requests_name_what_was_meant():
    images = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(MetricError, match="got 'kidd'; did you mean 'kid'"):
        evaluate(images, images, PIXELS, ["kidd"])
    with pytest.raises(MetricError, match="got none"):
        check_metrics([])
    with pytest.raises(MetricError, match="real images to compare with"):
        evaluate(None, images, PIXELS)
    with pytest.raises(MetricError, match="fake: expected images, got none"):
        evaluate(images, [], PIXELS, ["kid"])
    with pytest.raises(MetricError, match="modes: expected points"):
        evaluate(images, images, PIXELS, ["modes"])
    assert check_metrics(["frechet", "fid", "is"]) == ["fid", "is"]


def test_paths_are_checked_before_a_network_is_loaded(tmp_path):
    with pytest.raises(DataError, match="nothing at that path"):
        fid(tmp_path / "none", tmp_path, inception_weights=tmp_path / "no_weights.pth")


def test_inception_score_needs_a_known_count(classifier):
    chunks = [torch.rand(10, 1, 16, 16)] * 2
    with pytest.raises(MetricError, match="known number of fake images"):
        evaluate(None, IterableSource(chunks), classifier, ["is"])
    assert evaluate(None, IterableSource(chunks, 20), classifier, ["is"])[0].protocol["fake"]["count"] == 20


def test_generator_of_a_run_is_scored_against_its_data(classifier):
    progress = []
    scores = evaluate_generator(noise, DIGITS, samples=100, progress=lambda *a: progress.append(a))
    assert [score.name for score in scores] == [
        "frechet[digits_cnn]", "is[digits_cnn]", "modes[digits_cnn]", "class_kl[digits_cnn]",
    ]  # fmt: skip
    assert scores[0].protocol["real"]["count"] == 1500 and scores[0].protocol["split"] == "train"
    assert scores[0].protocol["extractor_hash"] == classifier.hash
    assert progress[-1] == ("fake images", 100, 100)


def test_points_are_judged_by_their_modes():
    config = DataConfig(name="ring", limit=2000)
    ring = build(config, "train")
    extractor = resolve_for(config)
    assert default_metrics(extractor) == ["modes", "fid"]

    def perfect(n, generator):
        mode = ring.modes[torch.randint(0, 8, (n,), generator=generator)]
        return mode + ring.std * torch.randn(n, 2, generator=generator)

    def collapsed(n, generator):
        return ring.modes[:1] + ring.std * torch.randn(n, 2, generator=generator)

    good, bad = ({s.name: s.value for s in evaluate_generator(f, config, samples=800)} for f in (perfect, collapsed))
    assert good["modes"] == 8 and good["high_quality"] > 0.97 and good["balance"] > 0.98
    assert bad["modes"] == 1 and bad["balance"] == 0 and bad["frechet[points]"] > 100 * good["frechet[points]"]
    with pytest.raises(MetricError, match="points"):
        resolve("classifier", train=ring)


def test_folder_judged_against_itself_by_a_run_of_everything(picture_folder):
    folder = picture_folder("a", 30)
    scores = {s.name: s.value for s in fid(folder, folder, extractor=PIXELS, metrics=["fid", "kid", "prdc"])}
    assert scores["frechet[pixels4]"] == pytest.approx(0, abs=1e-9) and scores["precision[pixels4]"] == 1.0
    assert open_source(folder).describe()["source"] == "a"


def test_score_table_and_listing_say_it_in_words():
    protocol = {"extractor": "x_cnn", "extractor_hash": "abcdef0123", "real": {"source": "x", "count": 5}, "seed": 0}
    rows = score_table([Score("kid[x_cnn]", 0.123456789, 0.01, protocol), Score("is", float("nan"))])
    assert rows[0]["value"] == "0.123457 ± 0.01" and rows[0]["extractor"] == "x_cnn abcdef01"
    assert rows[0]["real"] == "x (5)" and rows[0]["fake"] == "-" and rows[0]["better"] == "lower"
    assert rows[1]["better"] == "higher"
    assert Score("is", float("nan")).to_json()["value"] is None
    assert {row["name"] for row in describe()} >= {"fid", "is", "kid", "prdc", "modes", "inception", "classifier"}
    assert issubclass(MetricError, UserError)


MEMORY_PROGRAM = """
import resource, sys, torch
from genlab.metrics import GeneratorSource, Protocol, evaluate
from genlab.metrics.extractors.pixels import PixelExtractor

torch.set_num_threads(1)
def sample(n, generator):
    return torch.rand(n, 3, 64, 64, generator=generator)

sources = [GeneratorSource(sample, int(sys.argv[1]), seed=seed) for seed in (1, 2)]
evaluate(*sources, PixelExtractor(), ["fid", "kid", "prdc"], protocol=Protocol(reservoir=200, kid_subsets=2))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
"""


def test_peak_memory_does_not_grow_with_the_number_of_images():
    def peak(count):
        command = [sys.executable, "-c", MEMORY_PROGRAM, str(count)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # 3,000 more images are 36 MiB of bytes or 147 MiB of floats on each side, where they kept.
    assert peak(4000) - peak(1000) < 12 * 1024


def test_importing_metrics_loads_no_heavy_library():
    heavy = "torchvision scipy sklearn pytorch_fid torchmetrics matplotlib"
    program = f"import sys, genlab.metrics; print([m for m in {heavy.split()} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_run_and_its_checkpoint_are_sources_of_images(tmp_path):
    from genlab.config import load_config
    from genlab.trainers import train

    run = tmp_path / "run"
    train(load_config("dcgan_tiny", ["train.steps=1", "train.sample_count=4"]), run, evaluator=None)
    (checkpoint,) = (run / "checkpoints").glob("step_*1.safetensors")
    protocol = Protocol(seed=3)
    scores = [fid(run, path, extractor=PIXELS, samples=40, protocol=protocol)[0] for path in (run, checkpoint)]
    assert [score.value for score in scores] == pytest.approx([0, 0], abs=1e-9)
    fake = scores[0].protocol["fake"]
    assert (fake["checkpoint"], fake["step"], fake["count"], fake["sampling_seed"]) == (checkpoint.name, 1, 40, 3)
    (run / "checkpoints" / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match="cut.safetensors"):
        open_source(run / "checkpoints" / "cut.safetensors")

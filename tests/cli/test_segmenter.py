"""genlab evaluate --segmenter: the FCN score of a Pix2Pix, from the command line."""

from __future__ import annotations

import json

QUIET = ["--device", "cpu", "train.tensorboard=false", "train.steps=3", "train.sample_every=3", "evaluate.metrics=[]"]


def test_the_fcn_score_stands_beside_the_others_and_refuses_other_models(genlab, tmp_path):
    judge, translator = tmp_path / "judge", tmp_path / "translator"
    for words, folder in ((["segmentation_tiny"], judge), (["pix2pix_tiny", "data.direction=b_to_a"], translator)):
        outcome = genlab("train", *words, *QUIET, "--run-dir", folder)
        assert outcome.code == 0, outcome.err
    outcome = genlab("evaluate", translator, "--segmenter", judge, "--metrics", "own", "--samples", 8, "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["name"]: row for row in map(json.loads, outcome.out.splitlines())}
    assert {"l1", "fcn_mean_iou", "fcn_mean_iou_real", "fcn_pixel_accuracy", "fcn_class_accuracy"} <= set(rows)
    assert rows["fcn_mean_iou"]["protocol"]["count"] == 8
    assert rows["fcn_mean_iou"]["protocol"]["checkpoint"] == "step_00000003.safetensors"
    refused = genlab("evaluate", judge, "--segmenter", judge)
    assert refused.code == 2
    assert "--segmenter: expected a model of algorithm pix2pix, got one of segmentation" in refused.err
    missing = genlab("evaluate", translator, "--segmenter", tmp_path / "none")
    assert missing.code == 2
    assert len(missing.error_lines) == 1

"""Evaluation of a classifier on a dataset."""

import json
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from classifiers import classifier, save
from command import results, rows
from sklearn.metrics import balanced_accuracy_score, log_loss
from tiny import write_list
from torchmetrics.functional.classification import multiclass_calibration_error

from asc.data.lists import Clip
from asc.evaluate.__main__ import main
from asc.evaluate.bootstrap import LocationBootstrap
from asc.evaluate.groups import group_clips
from asc.evaluate.reliability import BINS, expected_calibration_error, reliability
from asc.evaluate.summary import summarize
from asc.evaluate.tables import evaluation_tables
from asc.predictions import Predictions, read_predictions, write_predictions

LABELS = ["indoor", "outdoor", "transportation"]


def random_predictions(clips: int = 200) -> Predictions:
    rng = np.random.default_rng(0)
    return Predictions(LABELS, rng.integers(3, size=clips), rng.dirichlet(np.ones(3), clips))


def clip(name: str, label: str = "indoor", location: str = "oslo-1") -> Clip:
    return Clip(Path("/data/audio") / name, label, location)


def test_metrics_equal_scikit_learns():
    predictions = random_predictions()
    metrics = predictions.metrics()
    assert metrics.macro_accuracy == pytest.approx(balanced_accuracy_score(predictions.targets, predictions.predicted))
    assert metrics.log_loss == pytest.approx(log_loss(predictions.targets, predictions.probabilities))


def test_calibration_error_equals_torchmetrics_and_arithmetic_by_hand():
    predictions = random_predictions()
    preds, target = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.targets)
    expected = multiclass_calibration_error(preds, target, 3, n_bins=BINS, norm="l1").item()
    assert expected_calibration_error(reliability(predictions)) == pytest.approx(expected, abs=1e-6)

    sure = np.array([[0.9, 0.1, 0], [0.9, 0, 0.1], [0.5, 0.5, 0], [0, 0, 1]])
    bins = reliability(Predictions(LABELS, np.array([0, 1, 0, 2]), sure))
    assert [(part.clips, part.accuracy) for part in bins] == [(1, 1), (2, 0.5), (1, 1)]
    assert expected_calibration_error(bins) == pytest.approx((1 * 0.5 + 2 * 0.4 + 1 * 0) / 4)


def test_the_bootstrap_resamples_locations_as_a_loop_over_them_does():
    rng = np.random.default_rng(1)
    locations, values = rng.choice(list("abcdefgh"), 60), rng.random(60)
    bootstrap = LocationBootstrap(locations.tolist(), seed=3)
    resampled = bootstrap.mean(values, np.ones((60, 1)))[:, 0]
    for draw, value in list(zip(bootstrap.draws, resampled, strict=True))[:20]:
        drawn = [
            values[locations == name] for name, times in zip("abcdefgh", draw, strict=True) for _ in range(int(times))
        ]
        assert value == pytest.approx(np.concatenate(drawn).mean())
    low, high = bootstrap.interval(resampled)
    assert low < values.mean() < high
    assert (bootstrap.draws == LocationBootstrap(locations.tolist(), seed=3).draws).all()


def test_the_interval_covers_what_the_normal_approximation_says_and_grows_with_equal_clips():
    values = np.random.default_rng(2).random(400)
    alone = LocationBootstrap([str(number) for number in range(400)])
    low, high = alone.interval(alone.mean(values, np.ones((400, 1)))[:, 0])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)
    four = LocationBootstrap([str(number // 4) for number in range(1600)])  # each value four times at its place
    low4, high4 = four.interval(four.mean(values.repeat(4), np.ones((1600, 1)))[:, 0])
    assert high4 - low4 == pytest.approx(high - low, rel=0.1)  # four times the clips, no more knowledge
    one = LocationBootstrap(["here"] * 400)
    assert one.interval(one.mean(values, np.ones((400, 1)))[:, 0]) is None


def test_names_tell_scene_city_and_device():
    tau2022 = ["airport-lisbon-1000-40000-0-a.wav", "bus-lisbon-1001-40001-9-s1.wav", "bus-oslo-2-3-4-s1.wav"]
    groups = group_clips([clip(name) for name in tau2022])
    assert groups["scene"] == ["airport", "bus", "bus"]
    assert groups["city"] == ["lisbon", "lisbon", "oslo"]
    assert groups["device"] == ["a", "s1", "s1"]
    mobile = ["airport-lisbon-1000-40000-a.wav", "bus-oslo-1001-40001-a.wav"]
    assert list(group_clips([clip(name) for name in mobile])) == ["label", "scene", "city"]  # one device tells nothing
    assert list(group_clips([clip(mobile[0]), clip("1-100032-A-0.flac")])) == ["label"]
    assert "scene" not in group_clips([clip("bus-a-1-1-a.wav", "bus"), clip("tram-b-1-1-a.wav", "tram")])


def test_figures_of_groups_and_mistakes_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.05, 0.05, 0.9]])
    clips = [
        clip("park-a-1-1-a.wav", "outdoor", "a-1"),
        clip("park-a-2-1-a.wav", "outdoor", "a-2"),
        clip("bus-b-3-1-a.wav", "transportation", "b-3"),
        clip("tram-b-4-1-a.wav", "transportation", "b-4"),
    ]
    figures = summarize(Predictions(LABELS, np.array([1, 1, 2, 2]), probabilities), clips, Path("/data"), 0, worst=5)
    assert figures["groups"]["scene"]["park"]["accuracy"] == 0.5
    assert figures["groups"]["scene"]["park"]["log_loss"] == pytest.approx(-np.log([0.2, 0.8]).mean())
    assert figures["groups"]["scene"]["park"]["accuracy_interval"] == [0, 1]
    assert figures["groups"]["scene"]["bus"]["accuracy_interval"] is None  # a single location
    assert list(figures["groups"]["label"]) == ["outdoor", "transportation"]
    assert [mistake["filename"] for mistake in figures["worst"]] == ["audio/bus-b-3-1-a.wav", "audio/park-a-1-1-a.wav"]
    assert figures["worst"][0]["true"] == "transportation"
    assert figures["worst"][0]["probability_of_true"] == 0.1
    assert figures["worst"][0]["predicted"] == "indoor"
    assert figures["interval"]["macro_accuracy"] == [0, 1]
    json.dumps(figures, allow_nan=False)


def test_hostile_names_are_escaped_and_tables_fit_the_terminal():
    labels = [f"scene_with_a_long_name_{number}" for number in range(10)]
    rng = np.random.default_rng(0)
    predictions = Predictions(labels, rng.integers(10, size=30), rng.dirichlet(np.ones(10), 30))
    clips = [clip(f"\x1b[2J{number}{'x' * 90}.wav", labels[t]) for number, t in enumerate(predictions.targets)]
    facts = {"checkpoint": "a.ckpt", "stage": None, "data": "/data", "split": "test", "labels": labels, "notes": []}
    text = evaluation_tables(facts | summarize(predictions, clips, Path("/data"), 0, 5))
    assert "\x1b" not in text
    assert "\n1 scene_with_a_long_name_0 " in text  # numbered columns
    assert max(map(len, text.splitlines())) <= 125


def test_predictions_survive_their_file(tmp_path):
    predictions = random_predictions(20)
    clips = [clip(f'{number},"é".wav', LABELS[target]) for number, target in enumerate(predictions.targets)]
    path = tmp_path / "predictions.csv"
    write_predictions(path, Path("/data"), clips, LABELS, predictions.probabilities)
    again = read_predictions(path)
    assert again.targets.tolist() == predictions.targets.tolist()
    np.testing.assert_allclose(again.probabilities, predictions.probabilities, atol=1e-6)
    path.write_text("filename,scene_label,a\nx,b,1\n")
    with pytest.raises(ValueError, match="repeat the run"):
        read_predictions(path)


def test_a_checkpoint_on_its_own_test_clips_has_the_results_of_its_run(trained, tmp_path, capsys):
    run, _ = trained
    main([str(run / "checkpoints/best.ckpt"), "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert "macro-average accuracy" in out
    assert str(tmp_path) in out
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    expected = results(run)["test"]
    actual = evaluation["test"]
    assert actual["confusion_matrix"] == expected["confusion_matrix"]
    assert actual["class_accuracy"] == expected["class_accuracy"]
    # the run's features come from the cache, in float16
    assert actual["log_loss"] == pytest.approx(expected["log_loss"], rel=0.01, abs=1e-3)
    assert evaluation["notes"] == []
    assert {path.name for path in tmp_path.iterdir()} == {
        *("evaluation.json", "predictions.csv", "confusion_matrix.png", "reliability.png", "accuracy_by_group.png")
    }
    ours, theirs = rows(tmp_path / "predictions.csv"), rows(run / "predictions.csv")
    assert [row["filename"] for row in ours] == [row["filename"] for row in theirs]
    assert mean(abs(float(a["indoor"]) - float(b["indoor"])) for a, b in zip(ours, theirs, strict=True)) < 0.01


def test_an_onnx_file_says_the_same_and_json_is_all_that_is_printed(trained, tiny, tmp_path, capsys):
    run, _ = trained
    data = ["data=dcase", f"data.root={tiny}", f"data.cache_dir={tmp_path}"]
    printed = []
    for file in ("model.onnx", "checkpoints/best.ckpt"):
        main([str(run / file), *data, "--json", "--split", "train", "--output", str(tmp_path / "out")])
        printed.append(json.loads(capsys.readouterr().out))
    onnx, torch_ = printed
    assert onnx["clips"] == 24
    assert onnx["test"]["confusion_matrix"] == torch_["test"]["confusion_matrix"]
    assert onnx["test"]["log_loss"] == pytest.approx(torch_["test"]["log_loss"], rel=1e-3, abs=1e-4)
    assert onnx["groups"].keys() == {"label"}  # scene is the label, one city, one device


def test_other_labels_are_refused_and_other_lengths_and_orders_told(trained, tiny, tmp_path, capsys):
    """Of half-second clips at 8 kHz with the labels in another order, on clips of 2 s at 16 kHz."""
    model = classifier()
    model.labels[:] = model.hparams["labels"] = ["transportation", "indoor", "outdoor"]
    checkpoint = save(model, tmp_path / "other.ckpt")
    data = ["data=dcase", f"data.root={tiny}", f"data.cache_dir={tmp_path}"]
    main([str(checkpoint), *data, "--output", str(tmp_path / "out"), "--json"])
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["labels"] == ["transportation", "indoor", "outdoor"]
    assert "12 of 12 clips last 2 s, not 0.5 s" in evaluation["notes"][0]
    assert sum(evaluation["test"]["confusion_matrix"][0]) == 4
    for row in rows(tmp_path / "out/predictions.csv")[:2]:
        wave = torch.from_numpy(model_wave(tiny / row["filename"], model))
        assert model.probabilities(wave.numpy()[None])[0, 0] == pytest.approx(float(row["transportation"]), abs=1e-5)

    meta = (tiny / "meta.csv").read_text()
    root = tmp_path / "renamed"
    root.mkdir()
    (root / "audio").symlink_to(tiny / "audio")
    for name in ("meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"):
        header, *lines = (tiny / name).read_text().splitlines()
        write_list(root / name, header, [line.replace("\toutdoor", "\tforest") for line in lines])
    assert "outdoor" in meta
    with pytest.raises(SystemExit, match="forest, which .* does not know"):
        main([str(checkpoint), "data=dcase", f"data.root={root}", "--output", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()  # nothing is left of a failure


def model_wave(path: Path, model) -> np.ndarray:
    from asc.audio import read_wave

    return read_wave(path, model.sample_rate, model.channel, model.clip_samples).numpy()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=nothing"], "Could not find 'data/nothing' Available options"),
        (["data=dcase"], "data.root is not set"),
        (["data.nothing=1"], "Could not override 'data.nothing'"),
        (["nothing"], "invalid setting nothing: expected NAME=VALUE"),
        (["--worst", "-1"], "invalid --worst=-1"),
    ],
)
def test_wrong_words_get_one_sentence(trained, tmp_path, words, message):
    with pytest.raises(SystemExit) as stop:
        main([str(trained[0] / "checkpoints/best.ckpt"), *words, "--output", str(tmp_path / "out")])
    assert message in str(stop.value)
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_alone_and_a_runs_folder_are_refused(trained, tmp_path):
    checkpoint = save(classifier(), tmp_path / "alone.ckpt")
    with pytest.raises(SystemExit, match="does not name its data"):
        main([str(checkpoint), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="holds a run"):
        main([str(checkpoint), "--output", str(trained[0])])

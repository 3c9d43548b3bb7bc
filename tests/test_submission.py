"""The package of the challenge, checked by the rules as the challenge states them."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from command import results, rows
from tiny import RATE

from asc import InputError, SceneClassifier
from asc.submission.__main__ import main
from asc.submission.meta import describe, submission_label
from asc.submission.rules import check_meta, check_output

LABELS = ["indoor", "outdoor", "transportation"]
TEAM = {
    "authors": [
        {
            "lastname": "Gañán",
            "firstname": "Ana",
            "email": "ana@example.org",
            "corresponding": True,
            "affiliation": {"abbreviation": "U X", "institute": "University of X"},
        },
        {
            "lastname": "Doe",
            "firstname": "Jo",
            "email": "jo@example.org",
            "affiliation": {"abbreviation": "Y", "institute": "Y"},
        },
    ],
    "source_code": "https://example.org/code",
    "description": {"decision_making": "maximum likelihood"},
}


@pytest.fixture
def evaluation_set(tmp_path) -> Path:
    audio = tmp_path / "evaluation" / "audio"
    audio.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (0, 2, 10, 8639):
        soundfile.write(audio / f"{number}.wav", rng.normal(0, 0.1, RATE * 2), RATE)
    return audio.parent


@pytest.fixture
def words(trained, evaluation_set, tmp_path) -> list[str]:
    (tmp_path / "authors.yaml").write_text(yaml.safe_dump(TEAM, allow_unicode=True), encoding="utf-8")
    facts = ["--name", "Small CNN", "--abbreviation", "SmallCNN", "--authors", str(tmp_path / "authors.yaml")]
    checkpoint = str(trained[0] / "checkpoints/best.ckpt")
    return [checkpoint, str(evaluation_set), *facts, "--output", str(tmp_path), "--rehearsal"]


def table(count: int = 8640) -> list[list[str]]:
    return [[f"audio/{number}.wav", "indoor", "0.5", "0.3", "0.2"] for number in range(count)]


def test_a_rehearsed_package_follows_the_rules(trained, words, tmp_path, capsys):
    main([*words, "--number", "3"])
    printed = capsys.readouterr()
    assert "4 of 8,640 clips" in printed.err
    label = "Ganan_UX_task1b_3"
    output, meta = tmp_path / f"{label}.output.csv", yaml.safe_load((tmp_path / f"{label}.meta.yaml").read_text())

    text = output.read_text()
    assert text.splitlines()[0] == "filename\tscene_label\tindoor\toutdoor\ttransportation"
    lines = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    assert [line["filename"] for line in lines] == [f"audio/{number}.wav" for number in (0, 2, 10, 8639)]
    model = SceneClassifier.load_from_checkpoint(trained[0] / "checkpoints/best.ckpt")
    for line in lines:
        expected = model.classify(tmp_path / "evaluation" / line["filename"])
        assert {name: float(line[name]) for name in LABELS} == pytest.approx(expected, abs=1e-5)
        assert line["scene_label"] == max(expected, key=expected.get)

    submission, system = meta["submission"], meta["system"]
    assert submission["label"] == label
    assert len(submission["abbreviation"]) <= 10
    assert [author.get("corresponding", False) for author in submission["authors"]] == [True, False]
    assert submission["authors"][0]["lastname"] == "Gañán"
    assert set(system["description"]) == {
        *("input_sampling_rate", "acoustic_features", "embeddings", "data_augmentation", "machine_learning_method"),
        *("ensemble_method_subsystem_count", "decision_making", "external_data_usage", "complexity_management"),
    }
    assert system["description"]["input_sampling_rate"] == "16kHz"
    assert system["description"]["acoustic_features"] == "log gammatone spectrogram"
    assert "SpecAugment" in system["description"]["data_augmentation"]
    assert system["description"]["decision_making"] == "maximum likelihood"  # the team's word
    assert (system["external_datasets"], system["source_code"]) == ([], "https://example.org/code")
    assert system["complexity"] == {  # 320 + 18,496 + 8,320 + 33,024 + 771 values of 4 bytes: facts of Table 2
        "total_parameters": 60931,
        "total_parameters_non_zero": 60931,
        "model_size": pytest.approx(60931 * 4 / 1024, abs=0.01),
    }


def test_development_figures_are_those_of_the_run_in_the_challenges_units(trained, words, tmp_path):
    run, _ = trained
    main(words)
    meta = yaml.safe_load(next(tmp_path.glob("*.meta.yaml")).read_text())
    development, test = meta["results"]["development_dataset"], results(run)["test"]
    assert development["overall"]["accuracy"] == pytest.approx(100 * test["macro_accuracy"], abs=0.01)
    assert development["overall"]["logloss"] == pytest.approx(test["log_loss"], abs=1e-3)
    clips = rows(run / "predictions.csv")
    for label in LABELS:
        own = [clip for clip in clips if clip["scene_label"] == label]
        expected = -np.log([float(clip[label]) for clip in own]).mean()
        assert development["class_wise"][label]["logloss"] == pytest.approx(expected, abs=1e-3)
        assert development["class_wise"][label]["accuracy"] == pytest.approx(
            100 * test["class_accuracy"][label], abs=0.01
        )


def test_a_complete_output_passes_and_each_fault_is_named():
    check_output(table())
    for change, message in [
        (lambda rows: rows.pop(), "8,639 rows"),
        (lambda rows: rows.__setitem__(7, rows[8]), "listed twice: 1 .audio/8.wav"),
        (lambda rows: rows[5].__setitem__(0, "audio/8640.wav"), "not of the evaluation set: 1 .audio/8640.wav"),
        (lambda rows: rows[5].__setitem__(1, "forest"), "unknown labels: 1 .audio/5.wav"),
        (lambda rows: rows[5].__setitem__(2, "half"), "no probabilities"),
        (lambda rows: rows[5].__setitem__(2, "nan"), "no probabilities"),
        (lambda rows: rows[5].__setitem__(2, "0.9"), "no probabilities"),
    ]:
        faulty = table()
        change(faulty)
        with pytest.raises(InputError, match=message):
            check_output(faulty)


def meta_of_rules() -> dict:
    figures = {"accuracy": 90.0, "logloss": 0.3}
    names = ["input_sampling_rate", "acoustic_features", "embeddings", "data_augmentation", "machine_learning_method"]
    names += ["ensemble_method_subsystem_count", "decision_making", "external_data_usage", "complexity_management"]
    return {
        "submission": {
            "label": "Doe_UX_task1b_1",
            "name": "Small CNN",
            "abbreviation": "SmallCNN",
            "authors": [dict(author) for author in TEAM["authors"]],
        },
        "system": {
            "description": dict.fromkeys(names),
            "complexity": {"total_parameters": 100, "total_parameters_non_zero": 90, "model_size": 0.35},
            "external_datasets": [],
            "source_code": None,
        },
        "results": {"development_dataset": {"overall": figures, "class_wise": dict.fromkeys(LABELS, figures)}},
    }


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("submission", "abbreviation", "elevenchars", "at most 10 characters, it has 11"),
        ("submission", "abbreviation", "", "abbreviation is missing"),
        ("submission", "name", " ", "name is missing"),
        ("submission", "authors", [], "at least one author"),
        ("submission", "authors", TEAM["authors"][:1] * 2, "2 authors have corresponding: true"),
        ("submission", "authors", TEAM["authors"][1:], "0 authors have corresponding: true"),
        ("submission", "authors", [{"lastname": "Doe"}], "lacks firstname, email, affiliation"),
        ("submission", "label", "Doe_task1b_1", "LASTNAME_INSTITUTE"),
        ("submission", "label", "Doe_UX_task1b_5", "LASTNAME_INSTITUTE"),
        ("system", "external_datasets", [{"name": "AudioSet"}], "lacks url, total_audio_length"),
        ("system", "description", {}, "description lacks input_sampling_rate"),
        (
            "system",
            "complexity",
            {"total_parameters": 128001, "total_parameters_non_zero": 128001, "model_size": 128001 * 4 / 1024},
            "500.0 KB .* allows 500",
        ),
    ],
)
def test_each_rule_of_the_meta_information(part, name, value, message):
    meta = meta_of_rules()
    check_meta(meta)
    meta[part][name] = value
    with pytest.raises(InputError, match=message):
        check_meta(meta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words, path: words.remove("--rehearsal"), "missing files: 8636"),
        (lambda words, path: words.extend(["--number", "5"]), "invalid --number=5"),
        (lambda words, path: words.extend(["--output", str(path / "nowhere")]), "is no folder"),
        (lambda words, path: words.extend(["--abbreviation", "elevenchars"]), "at most 10 characters"),
        (lambda words, path: words.__setitem__(1, str(path / "nowhere")), "holds no folder audio/"),
        (lambda words, path: words.__setitem__(0, words[0].replace("best", "last")), "no results.json of its run"),
        (lambda words, path: words.__setitem__(0, str(Path(words[0]).parents[1] / "model.onnx")), "run's checkpoint"),
        (lambda words, path: (path / "evaluation/audio/dog.wav").touch(), r"files other than .*1 \(audio/dog.wav\)"),
        (lambda words, path: (path / "evaluation/audio/2.wav").write_bytes(b"RIFF"), "2.wav is not a sound file"),
        (lambda words, path: (path / "authors.yaml").write_text("a: [1"), "is no YAML file"),
        (lambda words, path: (path / "authors.yaml").write_text("who: me"), "unknown fields"),
        (lambda words, path: (path / "authors.yaml").write_text("authors: me"), "at least one author"),
        (lambda words, path: (path / "authors.yaml").unlink(), "cannot be read"),
        (lambda words, path: (path / "Ganan_UX_task1b_1.meta.yaml").mkdir(), "cannot be written"),
    ],
)
def test_faults_get_one_sentence_and_leave_no_half_package(words, tmp_path, change, message):
    change(words, tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert re.search(message, str(stop.value))
    assert "\n" not in str(stop.value)
    assert not [path for path in tmp_path.rglob("*task1b*") if path.is_file()]


def test_the_label_is_plain_ascii_and_pruning_is_told(trained, tmp_path):
    author = {"lastname": "van der Þór_Ñu.ñez", "affiliation": {"abbreviation": "INRS/EMT"}, "corresponding": True}
    assert submission_label([author], 4) == "vanderorNunez_INRSEMT_task1b_4"
    model = SceneClassifier.load_from_checkpoint(trained[0] / "checkpoints/best.ckpt")
    assert describe(model, trained[0])["complexity_management"] is None
    for value in model.net.parameters():
        value.data[: len(value) // 2] = 0
    assert describe(model, trained[0])["complexity_management"] == "weight pruning"

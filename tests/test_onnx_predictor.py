"""Classifiers from ONNX files answer as their checkpoints do, and foreign files are refused."""

import json

import numpy as np
import onnx
import pytest
import soundfile
from classifiers import classifier, observed, prune_at_once, save
from onnx import TensorProto, helper

from asc import InputError, SceneClassifier
from asc.compress import QAT
from asc.export import export, export_frontend
from asc.listen import listen
from asc.onnx_predictor import OnnxPredictor
from asc.predictor import load_predictor


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory with model.onnx, frontend.onnx, whole.onnx and any.ckpt of one classifier."""
    folder = tmp_path_factory.mktemp("run")
    model = classifier()
    export(model, folder / "model.onnx")
    export_frontend(model, folder / "frontend.onnx")
    export(model, folder / "whole.onnx", with_frontend=True)
    save(model, folder / "any.ckpt")
    return folder


def waves(count: int = 16, samples: int = 4000) -> np.ndarray:
    levels = np.logspace(-3, -0.5, count)[:, None]
    return (levels * np.random.default_rng(0).standard_normal((count, samples))).astype(np.float32)


@pytest.mark.parametrize("name", ["model.onnx", "whole.onnx"])
def test_the_answers_are_those_of_the_checkpoint(name, run, tmp_path):
    ours, theirs = load_predictor(run / "any.ckpt"), load_predictor(run / name)
    assert isinstance(ours, SceneClassifier)
    for fact in ("labels", "sample_rate", "clip_samples", "min_samples", "channel"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    expected, answers = ours.probabilities(waves()), theirs.probabilities(waves())
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert (answers.argmax(1) == expected.argmax(1)).all()
    soundfile.write(tmp_path / "long.wav", waves(1, 30_000)[0], 11_025, subtype="FLOAT")
    mean = np.mean([window.probabilities for window in listen(theirs, tmp_path / "long.wav", 0.3)], axis=0)
    assert list(ours.classify(tmp_path / "long.wav", 0.3).values()) == pytest.approx(mean.tolist(), abs=1e-4)


def test_the_8_bit_file_answers_as_its_checkpoint(tmp_path):
    int8 = QAT().finish(observed(prune_at_once(classifier(channel="mean"), amount=0.5), QAT()))
    export(int8, tmp_path / "model.onnx")
    export_frontend(int8, tmp_path / "frontend.onnx")
    file = load_predictor(tmp_path / "model.onnx")
    assert file.channel == "mean"
    ours, theirs = int8.probabilities(waves()), file.probabilities(waves())
    assert np.abs(ours - theirs).max() < 0.05


def test_silence_has_finite_answers(run):
    for name in ("model.onnx", "any.ckpt"):
        answer = load_predictor(run / name).probabilities(np.zeros((1, 4000), np.float32))
        assert answer.sum() == pytest.approx(1, abs=1e-5)


def test_the_number_of_threads_changes_nothing(run):
    one, two = (OnnxPredictor(run / "model.onnx", threads).probabilities(waves(2)) for threads in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_features_need_the_frontend_of_the_same_run(run, tmp_path):
    (tmp_path / "model.onnx").write_bytes((run / "model.onnx").read_bytes())
    with pytest.raises(InputError, match=r"its frontend.onnx is not beside it: copy that file from the run"):
        load_predictor(tmp_path / "model.onnx")
    export_frontend(classifier(frontend={"n_bins": 48}), tmp_path / "frontend.onnx")
    with pytest.raises(InputError, match=r"frontend.onnx belongs to another classifier"):
        load_predictor(tmp_path / "model.onnx")


def foreign(path, facts: dict[str, str], source: str = "wave", shape: tuple = ("batch", 3)):
    """An ONNX file that takes waveforms of three samples and gives them back, with these facts."""
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in (source, "probabilities")
    )
    graph = helper.make_graph([helper.make_node("Identity", [source], ["probabilities"])], "g", inputs, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, facts)
    onnx.save(proto, path)
    return path


GOOD = {"labels": ["a", "b", "c"], "channel": 0, "sample_rate": 8000, "clip_samples": 3, "min_samples": 1}


def facts(**changes) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in {**GOOD, **changes}.items()}


def test_a_file_of_the_form_is_taken(tmp_path):
    predictor = load_predictor(foreign(tmp_path / "A.ONNX", facts()))
    np.testing.assert_array_equal(predictor.probabilities(np.eye(3, dtype=np.float32)), np.eye(3))


@pytest.mark.parametrize(
    "told",
    [
        {},
        facts() | {"labels": "not JSON"},
        facts() | {"labels": "[" * 10_000},
        facts(labels=5),
        facts(labels=["a", "b"]),
        facts(labels=["a", "b", "b"]),
        facts(labels="abc"),
        facts(sample_rate=0),
        facts(sample_rate=1e400),
        facts(sample_rate=None),
        facts(clip_samples=10**12),
        facts(min_samples=-1),
        facts(channel="left"),
        facts(channel=-1),
        facts(channel=[0]),
    ],
)
def test_a_file_that_does_not_say_what_it_is_is_refused(told, tmp_path):
    with pytest.raises(InputError, match=r"m.onnx (does not say|is not) what it .*: export it again"):
        load_predictor(foreign(tmp_path / "m.onnx", told))


def test_what_is_no_classifier_is_refused(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(InputError, match=r"folder.onnx does not exist or is not a file"):
        load_predictor(tmp_path / "folder.onnx")
    with pytest.raises(InputError, match=r"gone.onnx does not exist"):
        load_predictor(tmp_path / "gone.onnx")
    for name in ("empty.onnx", "text.onnx"):
        with pytest.raises(InputError, match=f"{name} is not an ONNX file that this machine can run"):
            load_predictor(tmp_path / name)
    with pytest.raises(InputError, match=r"other.onnx is not what it says"):
        load_predictor(foreign(tmp_path / "other.onnx", facts(clip_samples=9), "pixels", ("batch", 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda softmax: setattr(softmax, "op_type", "LogSoftmax"), "does not compute probabilities"),
        (lambda softmax: softmax.attribute[0].CopyFrom(helper.make_attribute("axis", 7)), "ONNX file|fails where"),
    ],
)
def test_a_file_that_answers_with_something_else_is_refused(change, message, run, tmp_path):
    model = onnx.load(run / "whole.onnx")
    change(model.graph.node[-1])
    onnx.save(model, tmp_path / "whole.onnx")
    with pytest.raises(InputError, match=message):
        load_predictor(tmp_path / "whole.onnx").probabilities(waves(1))

"""Teachers: EfficientAT against the original's outputs, ONNX files against arithmetic, targets against scikit-learn."""

import hashlib
import io
import json
import shutil
from contextlib import redirect_stderr

import numpy as np
import onnx
import pytest
import soundfile
import torch
from command import call, results
from mobilenet import published
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from tiny import SETTINGS
from tqdm import tqdm

from asc import InputError
from asc.audio import read_wave
from asc.data import SceneData
from asc.download.catalog import read_dataset
from asc.teachers import EfficientAT, OnnxTeacher
from asc.teachers.targets import teach


def test_efficientat_equals_the_original(shared):
    """Golden outputs of the original code, on every eighth clip of scenes3."""
    golden = np.load(shared.parent / "teacher/mn04_scenes3.npz")
    teacher = EfficientAT(str(shared.parent / "teacher/mn04_as_mAP_432.pt"))
    for name, embedding, logits in list(zip(*(golden[key] for key in golden), strict=True))[::8]:
        wave = torch.from_numpy(read_wave(shared / "scenes3" / name, teacher.sample_rate, "mean"))
        with torch.inference_mode():
            found = teacher(wave[None])
            torch.testing.assert_close(found[0], torch.from_numpy(embedding), atol=1e-4, rtol=0)
            torch.testing.assert_close(teacher.tags(found)[0], torch.from_numpy(logits), atol=1e-4, rtol=0)
    assert teacher.tag_names[:2] == ["Speech", "Male speech, man speaking"]
    assert len(teacher.tag_names) == len(logits) == 527


@pytest.mark.parametrize(("width", "embedding"), [(0.1, 96), (0.4, 384), (1.0, 960)])
def test_efficientat_of_any_width_loads(width, embedding, tmp_path):
    torch.save(published(width), tmp_path / "mn.pt")
    teacher = EfficientAT(str(tmp_path / "mn.pt"))
    found = teacher(torch.randn(2, 32_000))
    assert found.shape == (2, embedding)
    assert teacher.tags(found).shape == (2, 527)


@pytest.mark.parametrize("content", [None, b"no weights", {"features.0.0.weight": torch.zeros(8, 1, 3, 3)}])
def test_a_file_of_another_network_is_rejected(content, tmp_path):
    if isinstance(content, dict):
        torch.save(content, tmp_path / "mn.pt")
    elif content:
        (tmp_path / "mn.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"^invalid teacher.weights=.*mn.pt: expected") as caught:
        EfficientAT(str(tmp_path / "mn.pt"))
    assert "\n" not in str(caught.value)


def moments(path, shape: list, **metadata: str) -> str:
    """Write an ONNX file that computes the mean square of its input along the last axis, and of its steps."""
    node, bounds = helper.make_node, [np.array([value]) for value in (0, -1, 1, 2**31)]
    nodes = [
        node("Mul", ["wave", "wave"], ["squares"]),
        node("ReduceMean", ["squares"], ["power"], axes=[-1], keepdims=1),
        node("Slice", ["wave", "0", "-1", "-1"], ["first"]),
        node("Slice", ["wave", "1", "2147483648", "-1"], ["second"]),
        node("Sub", ["second", "first"], ["steps"]),
        node("Mul", ["steps", "steps"], ["step_squares"]),
        node("ReduceMean", ["step_squares"], ["roughness"], axes=[-1], keepdims=1),
        node("Concat", ["power", "roughness"], ["moments"], axis=-1),
    ]
    wave, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [*shape[:-1], size])
        for name, size in (("wave", shape[-1]), ("moments", 2), ("power", 1))
    )
    constants = [numpy_helper.from_array(value, str(value[0])) for value in bounds]
    graph = helper.make_graph(nodes, "moments", [wave], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("shape", [["samples"], ["batch", "samples"], [1, 4]])
def test_an_onnx_file_of_any_input_shape_is_a_teacher(shape, tmp_path):
    file = moments(tmp_path / "moments.onnx", shape, sample_rate="16000")
    wave = torch.tensor([[1.0, 2.0, 3.0, 2.0], [0.0, 0.0, 4.0, 0.0]])
    teacher = OnnxTeacher(file)
    assert teacher.sample_rate == 16_000
    assert teacher(wave).tolist() == [[4.5, 1.0], [4.0, pytest.approx(32 / 3)]]
    assert OnnxTeacher(file, sample_rate=8_000, output="power")(wave).tolist() == [[4.5], [4.0]]


def test_an_onnx_file_that_cannot_teach_is_rejected(tmp_path):
    file = moments(tmp_path / "moments.onnx", ["batch", "samples"])
    with pytest.raises(InputError, match=r"moments.onnx does not store its sample_rate"):
        OnnxTeacher(file)
    with pytest.raises(InputError, match=r"^invalid teacher.output=vector: expected moments or power"):
        OnnxTeacher(file, sample_rate=16_000, output="vector")
    with pytest.raises(InputError, match=r"^invalid teacher.weights=.*expected one input of floats"):
        OnnxTeacher(moments(tmp_path / "map.onnx", ["batch", 1, "samples"]), sample_rate=16_000)
    with pytest.raises(InputError, match=r"nowhere.onnx cannot be loaded"):
        OnnxTeacher(str(tmp_path / "nowhere.onnx"), sample_rate=16_000)


def constant(path, value, **metadata: str) -> str:
    """Write an ONNX file whose output is this constant, whatever its input."""
    array = np.array(value, np.float32)
    nodes = [helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(array))]
    wave = helper.make_tensor_value_info("wave", TensorProto.FLOAT, ["samples"])
    graph = helper.make_graph(
        nodes, "constant", [wave], [helper.make_tensor_value_info("y", TensorProto.FLOAT, array.shape)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.mark.parametrize("value", [1.0, [], [1.0, np.nan]])
def test_an_output_that_is_no_vector_of_numbers_is_rejected(value, tmp_path):
    teacher = OnnxTeacher(constant(tmp_path / "constant.onnx", value), sample_rate=16_000)
    with pytest.raises(InputError, match=r"^invalid teacher.output=y: expected"):
        teacher(torch.zeros(1, 100))


def test_each_output_and_rate_has_embeddings_of_its_own_in_the_cache(tiny, tmp_path):
    file = moments(tmp_path / "moments.onnx", ["batch", "samples"])
    data = SceneData(str(tiny), cache_dir=str(tmp_path / "cache"), num_workers=0)
    data.setup()
    clips = data.clips["test"][:4]
    teachers = [OnnxTeacher(file, 16_000), OnnxTeacher(file, 16_000, "power"), OnnxTeacher(file, 8_000, "power")]
    both, power, slower = (data.embeddings(teacher, clips) for teacher in teachers)
    np.testing.assert_array_equal(power, both[:, :1])
    assert np.abs(slower / power - 1).max() > 0.01, "the sound above 4 kHz is missing"


def clips(places: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeddings (clips, 8), classes and locations: four clips of each place, which are alike but say nothing."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(places), 4)
    return rng.normal(size=(places, 8))[place] + 0.01 * rng.normal(size=(4 * places, 8)), place % 2, [*map(str, place)]


def test_labels_of_a_location_do_not_reach_its_targets():
    """Embeddings that identify the place would predict its label without cross-validation by location."""
    x, classes, locations = clips(30)
    found = teach(x, classes, locations, x, 2)
    assert found.accuracy < 0.75  # chance is 0.5 of 30 places
    assert (found.unlabelled.argmax(1) == classes).mean() > found.accuracy


def test_targets_of_unlabelled_clips_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 3
    x = rng.normal(size=(60, 4)) + np.eye(3, 4)[classes]
    found = teach(x[:48], classes[:48], [str(number) for number in range(48)], x[48:], 4)
    expected = LogisticRegression(C=found.penalty, class_weight="balanced", max_iter=5000).fit(x[:48], classes[:48])
    np.testing.assert_allclose(found.unlabelled[:, :3], expected.predict_proba(x[48:]))
    assert not found.unlabelled[:, 3].any(), "a class without clips"
    np.testing.assert_allclose(found.labelled.sum(1), 1)


def test_a_class_with_a_single_location_is_rejected():
    x, classes, locations = clips(3)
    with pytest.raises(InputError, match="two locations in each class"):
        teach(x, classes, locations, x[:0], 2)


# Training


@pytest.fixture(scope="module")
def lesson(tmp_path_factory) -> list[str]:
    """Arguments of a run with a teacher: loudness and roughness tell the classes of the tiny dataset apart."""
    file = moments(tmp_path_factory.mktemp("teacher") / "moments.onnx", ["batch", "samples"], sample_rate="16000")
    return ["teacher=onnx", f"teacher.weights={file}", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def unlabelled(tiny, tmp_path_factory):
    """A folder with two new recordings, and copies of a training recording and of two test recordings, one in FLAC."""
    folder = tmp_path_factory.mktemp("unlabelled")
    train = sorted((tiny / "audio").glob("*-oslo-0-*.wav"))
    first, second, *_ = sorted((tiny / "audio").glob("*-oslo-105-*.wav"))  # a location of the test list
    (folder / "deep/er").mkdir(parents=True)
    for number, path in enumerate(train):
        wave, rate = soundfile.read(path)
        soundfile.write(folder / f"deep/er/{number}.wav", wave / 2, rate)
    for number, path in enumerate([first, train[0]], len(train)):
        shutil.copy(path, folder / f"deep/er/{number}.wav")
    wave, rate = soundfile.read(second, dtype="int16")
    soundfile.write(folder / "lossless.flac", wave, rate)
    (folder / "notes.txt").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def taught(job, lesson, unlabelled, tmp_path_factory):
    """The directory of a run with a teacher and unlabelled recordings."""
    directory = tmp_path_factory.mktemp("taught")
    assert call(*job, *lesson, f"data.unlabelled={unlabelled}", f"hydra.run.dir={directory}") is None
    return directory


def test_training_with_a_teacher_prints_its_accuracy(job, lesson, unlabelled, tmp_path, capsys):
    assert call(*job, *lesson, f"data.unlabelled={unlabelled}", f"hydra.run.dir={tmp_path}") is None
    captured = capsys.readouterr()
    assert "teacher     OnnxTeacher, 100.0 % by cross-validation; 2 unlabelled clips" in captured.out.splitlines()
    assert "3 of the labelled recordings are left out (2.wav, 3.wav, lossless.flac)" in captured.err
    assert results(tmp_path)["stage"] == "float"


def test_what_can_take_seconds_has_a_bar_on_a_terminal(job, lesson, unlabelled, taught, tmp_path, monkeypatch):
    init = tqdm.__init__
    monkeypatch.setattr(tqdm, "__init__", lambda bar, *args, **options: init(bar, *args, **{**options, "delay": 0}))
    terminal = type("Terminal", (io.StringIO,), {"isatty": lambda stream: True})
    words = [*job, *lesson, f"data.unlabelled={unlabelled}", "frontend.standardize=true", f"hydra.run.dir={tmp_path}"]
    with redirect_stderr(terminal()) as shown:
        assert call(*words) is None
    stages = ["looking for copies", "checking the cache", "choosing the penalty", "mean and deviation"]
    for stage in [*stages, "recalibrating batch norms"]:
        assert f"{stage}: " in shown.getvalue()


def test_a_quarter_of_an_epoch_is_labelled(tiny, lesson, tmp_path):
    """Of 24 training clips and 96 unlabelled ones: two clips in 48 files each."""
    waves = [soundfile.read(path) for path in sorted((tiny / "audio").glob("*-oslo-0-*.wav"))[:2]]
    for number in range(48):
        for name, (wave, rate) in zip("ab", waves, strict=True):
            soundfile.write(tmp_path / f"{name}{number}.wav", (0.5 + number / 96) * wave, rate)
    node = {"_target_": "asc.teachers.OnnxTeacher", "weights": lesson[1].partition("=")[2]}
    settings = {"sample_rate": 16_000, "num_workers": 0, "cache": False, "batch_size": 16}
    data = SceneData(str(tiny), teacher=node, unlabelled=str(tmp_path), label_weight=0.25, **settings)
    data.setup()
    found = data.learn_targets()
    targets = torch.cat([batch.target for batch in data.train_dataloader()])
    assert targets.shape == (96 + 24, 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    classes = torch.tensor([data.labels.index(clip.label) for clip in data.clips["train"]])
    expected = 0.25 * torch.eye(3)[classes] + 0.75 * torch.tensor(found.labelled, dtype=torch.float32)
    ours = data.dataset("train").targets
    torch.testing.assert_close(ours[:24], expected)
    torch.testing.assert_close(ours[24:], torch.tensor(found.unlabelled, dtype=torch.float32))


def test_data_with_variants_trains_on_them(tiny, lesson):
    node = {"_target_": "asc.teachers.OnnxTeacher", "weights": lesson[1].partition("=")[2]}
    settings = {"sample_rate": 16_000, "num_workers": 0, "cache": False, "batch_size": 16}
    data = SceneData(str(tiny), teacher=node, variants=2, **settings)
    data.setup()
    assert [len(data.clips[split]) for split in ("train", "unlabelled")] == [24, 48]
    targets = data.learn_targets()
    assert targets.unlabelled.shape == (48, 3)
    waves = torch.cat([batch.wave for batch in data.train_dataloader()])
    assert waves.shape == (24 + 48, 32_000)
    original = soundfile.read(data.clips["train"][0].path, dtype="float32")[0]
    assert sum(torch.equal(wave, torch.from_numpy(original)) for wave in waves) == 1


def test_compression_learns_the_same_targets(taught, tmp_path, capsys):
    words = [f"checkpoint={taught}/checkpoints/best.ckpt", "phase=qat", "trainer.max_epochs=1"]
    assert call(*words, f"hydra.run.dir={tmp_path}", script="compress.py") is None
    assert "teacher     OnnxTeacher, 100.0 % by cross-validation; 2 unlabelled clips" in capsys.readouterr().out
    assert results(tmp_path)["stage"] == "int8"


def test_compression_finds_the_teacher_from_another_folder(job, lesson, tmp_path, monkeypatch):
    shutil.copy(lesson[1].partition("=")[2], tmp_path / "teacher.onnx")
    monkeypatch.chdir(tmp_path)
    assert call(*job, *lesson, "teacher.weights=teacher.onnx", f"hydra.run.dir={tmp_path}/float") is None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = [f"checkpoint={tmp_path}/float/checkpoints/best.ckpt", "phase=prune", "trainer.max_epochs=1"]
    assert call(*words, f"hydra.run.dir={tmp_path}/pruned", script="compress.py") is None
    message = str(call(*words, "+teacher.weights=a.onnx", f"hydra.run.dir={tmp_path}/b", script="compress.py"))
    assert message.startswith("error: invalid teacher=")


def test_a_checkpoint_cannot_name_a_teacher_outside_the_package(taught, tmp_path):
    content = torch.load(taught / "checkpoints/best.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"]["teacher"]["_target_"] = "os.system"
    torch.save(content, tmp_path / "bad.ckpt")
    words = [f"checkpoint={tmp_path}/bad.ckpt", "phase=qat", f"hydra.run.dir={tmp_path}/run"]
    assert "invalid teacher=os.system" in str(call(*words, script="compress.py"))


def test_evaluation_needs_neither_teacher_nor_unlabelled_recordings(taught, tmp_path):
    content = torch.load(taught / "checkpoints/best.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"] |= {"unlabelled": "/nowhere"}
    content["datamodule_hyper_parameters"]["teacher"]["weights"] = "/nowhere.onnx"
    torch.save(content, tmp_path / "moved.ckpt")
    assert call(str(tmp_path / "moved.ckpt"), script="asc.evaluate") is None


def test_unlabelled_recordings_need_a_teacher_and_a_folder_with_sound(job, lesson, tmp_path):
    message = str(call(*job, f"data.unlabelled={tmp_path}", f"hydra.run.dir={tmp_path}/a"))
    assert message.startswith(f"error: data.unlabelled={tmp_path} needs a teacher")
    for folder in (tmp_path, tmp_path / "nowhere", ""):
        message = str(call(*job, *lesson, f"data.unlabelled={folder}", f"hydra.run.dir={tmp_path}/b"))
        assert message.startswith(f"error: invalid data.unlabelled={folder}: expected")


def test_a_folder_of_classes_has_unlabelled_recordings_too(tiny, lesson, unlabelled, tmp_path, capsys):
    folders(tiny, tmp_path / "data")
    words = [
        "data=folder",
        f"data.root={tmp_path}/data",
        f"data.unlabelled={unlabelled}",
        "data.cache=false",
        *SETTINGS,
    ]
    assert call(*words, *lesson, f"hydra.run.dir={tmp_path}/run") is None
    assert "unlabelled clips" in capsys.readouterr().out


# Check


def folders(tiny, root) -> None:
    """The tiny dataset as a folder for each class and location."""
    for path in (tiny / "audio").glob("*.wav"):
        label, _, place, number, _ = path.stem.split("-")
        (root / label / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / label / place / f"{number}.wav")


def test_check_lists_the_labels_that_a_teacher_doubts(tiny, lesson, tmp_path, capsys):
    """One recording of 36 is in the folder of another class."""
    folders(tiny, tmp_path)
    (tmp_path / "indoor/wrong").mkdir()
    (tmp_path / "outdoor/104/1.wav").rename(tmp_path / "indoor/wrong/1.wav")
    teacher = ["--teacher", lesson[1].partition("=")[2]]
    assert call(str(tmp_path), *teacher, "--json", script="asc.check") == 0
    found = json.loads(capsys.readouterr().out)
    (doubt,) = found["doubts"]
    assert (doubt["file"], doubt["label"], doubt["sounds"]) == ("indoor/wrong/1.wav", "indoor", {})
    assert max(doubt["probabilities"], key=doubt["probabilities"].get) == "outdoor"
    # of 13 recordings indoors one is not recognized
    assert found["teacher_accuracy"] == pytest.approx((12 / 13 + 1 + 1) / 3)
    assert call(str(tmp_path), *teacher, script="asc.check") == 0
    assert "indoor/wrong/1.wav" in capsys.readouterr().out.split("1 labels that the teacher doubts")[1]
    assert str(call(str(tmp_path), "--teacher", "nowhere.onnx", script="asc.check")).startswith("error: nowhere.onnx")
    assert "36 readable files" in capsys.readouterr().out, "the report needs no teacher"


def test_the_published_file_is_known_by_its_hash(shared):
    (file,) = read_dataset("efficientat_mn04").files
    content = (shared.parent / "teacher" / file.name).read_bytes()
    assert (len(content), hashlib.md5(content).hexdigest()) == (file.bytes, file.md5)

"""ONNX files against the networks that they were made of, float and 8-bit."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from classifiers import BASELINE, HERE, classifier, clips, error, logits, observed, onnx_logs, prune_at_once, save
from torch import nn
from torch.ao.nn import quantized as nnq

from asc import InputError, SceneClassifier
from asc.compress import QAT
from asc.export import export, export_frontend
from asc.quantization.graph import Add

NETS = {
    "cnn": {},
    "first_norm": {"bn_first_block_only": True},
    "odd": {"filters": [5, 7, 9, 11]},
    "average": {"pooling": "average"},
    "mean_std": {"pooling": "mean_std"},
    "no_bias": {"_target_": "tiny.NoBias"},
    "baseline": BASELINE,
    "cp_mobile": {"_target_": "asc.nets.CPMobile"},
    "residual": {"_target_": "own_nets.Residual"},
    "sums": {"_target_": "own_nets.Sums"},
}


def run(path, **inputs) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name, value), = inputs.items()  # fmt: skip
    return session.run(["probabilities"], {name: value.numpy()})[0]


def probabilities(model, x) -> np.ndarray:
    with torch.inference_mode():
        return (model.net(x) if x.ndim == 4 else model(x)).softmax(-1).numpy()


def optimized(path) -> list[str]:
    """The operations that ONNX Runtime computes for each clip, beyond those of this processor's own layouts."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


# Networks


@pytest.mark.parametrize("net", NETS)
def test_float_file_computes_the_network(net, tmp_path):
    model = classifier(NETS[net])
    dense = export(model, tmp_path / "dense.onnx")
    for count in (1, 8):
        x = clips(model, count)
        np.testing.assert_allclose(run(dense, features=x), probabilities(model, x), atol=1e-5)
    torch.testing.assert_close(logits(model.folded(), x), logits(model, x), rtol=1e-4, atol=1e-5)
    pruned = export(prune_at_once(model, amount=0.5), tmp_path / "pruned.onnx")
    np.testing.assert_allclose(run(pruned, features=x), probabilities(model, x), atol=1e-5)
    if net in ("cnn", "baseline"):
        assert optimized(dense) == optimized(pruned), "pruned weights are unpacked when the file is loaded"


CASES = [*((net, "onednn", True) for net in NETS), *((net, "onednn", False) for net in ("cnn", "no_bias", "sums"))]
CASES += [("residual", engine, True) for engine in ("x86", "qnnpack")]


@pytest.mark.parametrize(("net", "engine", "fold"), CASES)
def test_8_bit_file_computes_the_network(net, engine, fold, tmp_path):
    if engine not in HERE:
        pytest.skip(f"this torch lacks {engine}")
    model, phase = classifier(NETS[net]), QAT(engine, fold)
    x = clips(model, 32)
    fake = observed(model, phase)
    int8 = phase.finish(fake)
    assert error(logits(fake, x), logits(model, x)) < 0.15
    assert error(logits(int8, x), logits(fake, x)) < 0.02
    logs = onnx_logs(export(int8, tmp_path / "model.onnx"), x, engine)
    assert error(logs, logits(int8, x).log_softmax(-1)) < 0.05
    loaded = SceneClassifier.load_from_checkpoint(save(int8, tmp_path / "int8.ckpt"), trusted=["tiny", "own_nets"])
    assert torch.equal(logits(loaded, x), logits(int8, x))


def test_sums_and_averages_of_8_bit_graphs():
    """A sum and the ReLU behind it are one layer; an average is taken of floats, and quantized anew."""
    model = classifier(NETS["residual"])
    int8 = QAT().finish(observed(model, QAT()))
    kinds = [type(layer).__name__ for layer in int8.net]
    assert [layer.with_relu for layer in int8.net if isinstance(layer, Add)] == [True, True]
    assert not {"ReLU", "BatchNorm2d"} & set(kinds)
    at = kinds.index("AvgPoolOverTime")
    assert [kinds[at + step] for step in (-1, 1, 2)] == ["DeQuantize", "Flatten", "Quantize"]
    block = 9 * 8 + 8**2  # weights of the depthwise and pointwise convolution for each value
    assert model.complexity().macs == 16 * 16 * (9 * 8 + block) + 8 * 8 * block + 8 * 3 == int8.complexity().macs


# Files


def test_8_bit_file_contains_integers_and_runs_on_them(tmp_path):
    model = QAT().finish(observed(classifier(), QAT()))
    path = export(model, tmp_path / "model.onnx")
    arrays = [onnx.numpy_helper.to_array(constant) for constant in onnx.load(path).graph.initializer]
    sizes = {kind: sum(array.size for array in arrays if array.dtype == kind) for kind in (np.int8, np.int32)}
    assert sizes[np.int8] == 61_033 - 9 + 3  # without the constant channel of the first, with zero points of the last
    assert sizes[np.int32] == 484 - 33  # biases without those of the first layer
    assert sum(array.size for array in arrays if array.dtype == np.float32) < 2 * 484 + 20  # scales
    assert path.stat().st_size <= 72 * 1024
    kinds = optimized(path)
    assert (kinds.count("QLinearConv"), kinds.count("Conv")) == (3, 1)


@pytest.mark.parametrize("net", ["cnn", "odd"])
def test_first_convolution_in_float_arithmetic_gives_the_integers_of_its_8_bit_kernel(net, tmp_path):
    """Its sums in 64-bit integers, requantized by one product in float32, as 8-bit kernels do."""
    int8 = QAT().finish(observed(classifier(NETS[net]), QAT()))
    proto = onnx.load(export(int8, tmp_path / "model.onnx"))
    pooled = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"][1].output[0]
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.UINT8, None))
    x = clips(int8, 8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"features": x.numpy()})[0]

    layers = list(int8.net)
    first = next(index for index, layer in enumerate(layers) if isinstance(layer, nnq.Conv2d))
    with torch.inference_mode():
        for layer in layers[:first]:
            x = layer(x)
        conv, pool = layers[first], next(layer for layer in layers if isinstance(layer, nn.MaxPool2d))
        weight = conv.weight()
        scales = weight.q_per_channel_scales().float() * torch.tensor(x.q_scale(), dtype=torch.float32)
        bias = (conv.bias().double() / scales).round()
        integers = (x.int_repr().int() - x.q_zero_point()).double()
        sums = nn.functional.conv2d(integers, weight.int_repr().double(), bias, padding=conv.padding)
        steps = (scales / torch.tensor(conv.scale, dtype=torch.float32)).view(-1, 1, 1)
        rounded = (sums.float() * steps).round().clamp(0, 255)  # half to even
    assert conv.zero_point == 0
    assert ours.shape[1] % 4 == 0
    np.testing.assert_array_equal(ours[:, : conv.out_channels], pool(rounded).numpy())
    assert len(np.unique(ours)) > 50


@pytest.mark.parametrize("stage", ["float", "int8"])
def test_pruned_file_is_smaller_in_proportion(stage, tmp_path):
    """Half of the values and a bit for each: 1/2 + 1/32 of a float file, 1/2 + 1/8 of an 8-bit one, and the rest."""
    sizes, costs = [], []
    for model in (classifier(), prune_at_once(classifier(), amount=0.5)):
        small = QAT().finish(observed(model, QAT())) if stage == "int8" else model
        sizes.append(export(small, tmp_path / "model.onnx").stat().st_size)
        costs.append(small.complexity())
    width = 1 if stage == "int8" else 4
    saved = (costs[0].nonzero_parameters - costs[1].nonzero_parameters) * width - costs[1].parameters / 8
    assert sizes[0] - sizes[1] == pytest.approx(saved, abs=2500)  # the rest: names, and how to unpack


def test_metadata_describes_the_classifier(tmp_path):
    model = classifier()
    proto = onnx.load(export(model, tmp_path / "model.onnx"))
    noted = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert (noted["labels"], noted["sample_rate"], noted["clip_samples"]) == (model.labels, 8000, 4000)


# Frontends

FRONTENDS = {
    "gammatone": {},
    "mel": {"filterbank": "mel", "window": "hamming", "win_length": 400, "standardize": True, "frames": None},
    "spectrogram": {"filterbank": None, "n_bins": 257, "power": 2, "log": False, "frames": 30},
}


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_file_with_frontend_takes_a_wave(frontend, tmp_path):
    model = classifier(frontend=frontend)
    if model.frontend.standardized:
        model.frontend.fit([clips(model)])
    path = export(model, tmp_path / "model.onnx", with_frontend=True)
    for count in (1, 3):
        wave = 0.1 * torch.randn(count, model.clip_samples)
        np.testing.assert_allclose(run(path, wave=wave), probabilities(model, wave), atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"normalize": "level"}, {"f_min": 50.0, "f_max": 8000.0, "n_bins": 64}])
def test_frontend_file_computes_its_filterbank_once(settings, tmp_path):
    """At the report's sizes: a megabyte of weights becomes the formula of gammatone filters."""
    frontend = {"sample_rate": 44_100, "n_fft": 4096, "win_length": 2048, "hop_length": 1024, "n_bins": 128, **settings}
    hyperparameters = classifier().hparams
    frontend = {**hyperparameters["frontend"], **frontend, "frames": None}
    model = SceneClassifier(**{**hyperparameters, "frontend": frontend, "clip_samples": 44_100}).eval()
    path = export_frontend(model, tmp_path / "frontend.onnx")
    assert path.stat().st_size < 60_000
    assert "Sin" not in optimized(path)
    wave = 0.1 * torch.randn(2, 44_100)
    found = onnxruntime.InferenceSession(str(path)).run(None, {"wave": wave.numpy()})[0]
    np.testing.assert_allclose(found, model.frontend(wave).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("n_fft", "win_length", "hop_length"),
    [(1000, 700, 333), (509, 400, 160), (1023, 1023, 1500), (64, 64, 5), (512, 1, 7)],
)
def test_fourier_transforms_of_any_length_are_exported(n_fft, win_length, hop_length, tmp_path):
    """Of prime length, with gaps between frames, of many frames for each sample, of one sample."""
    sizes = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length, "n_bins": n_fft // 2 + 1}
    hyperparameters = classifier().hparams
    frontend = {"_target_": "asc.frontend.Spectrogram", "sample_rate": 8000, "filterbank": None, "log": False, **sizes}
    model = SceneClassifier(**{**hyperparameters, "frontend": frontend, "clip_samples": 8000}).eval()
    path = export_frontend(model, tmp_path / "frontend.onnx")
    wave = 0.1 * torch.randn(2, 8000)
    found = onnxruntime.InferenceSession(str(path)).run(None, {"wave": wave.numpy()})[0]
    np.testing.assert_allclose(found, model.frontend(wave).numpy(), atol=2e-5)


def test_what_has_no_onnx_form_is_rejected(tmp_path):
    with pytest.raises(InputError, match="stage qat"):
        export(QAT().begin(classifier()), tmp_path / "model.onnx")
    trainable = classifier(frontend={"trainable_stft": True, "frames": None})
    with pytest.raises(InputError, match="trainable_stft"):
        export(trainable, tmp_path / "model.onnx", with_frontend=True)
    int8 = QAT().finish(observed(classifier(), QAT()))
    next(layer for layer in int8.net if isinstance(layer, nnq.Quantize)).scale.fill_(1e-30)
    with pytest.raises(InputError, match="32 bits"):
        export(int8, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())

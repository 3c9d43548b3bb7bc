import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from classifiers import HERE, NETS, classifier, clips, fit, observed, prune_at_once
from torch import nn
from torch.ao.nn import quantized as nnq

from asc import InputError
from asc.compress import QAT, PruneFilters
from asc.export import export


def answers(path, **inputs) -> np.ndarray:
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


@pytest.mark.parametrize("prune", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("net", [*NETS.values(), {"bn_first_block_only": True}, {"filters": [5, 7, 9, 11]}])
def test_onnx_runtime_computes_the_float_network(net, prune, tmp_path):
    model = prune_at_once(classifier(net), amount=0.5) if prune else classifier(net)
    path = export(model, tmp_path / "model.onnx")
    for count in (1, 8):
        x = clips(model, count)
        np.testing.assert_allclose(answers(path, features=x), probabilities(model, x), atol=1e-5)


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "norms"])
def test_convolutions_without_biases_are_quantized_and_exported(fold, tmp_path):
    model = classifier({"_target_": "tiny.NoBias"})
    assert model.complexity().parameters == 63_751 - 480
    int8 = QAT(fold=fold).finish(observed(model, QAT(fold=fold)))
    x = clips(model)
    for stage, tolerance in ((model, 1e-5), (int8, 0.05)):
        path = export(stage, tmp_path / "model.onnx")
        np.testing.assert_allclose(answers(path, features=x), probabilities(stage, x), atol=tolerance)


def test_a_batch_norm_that_cannot_be_folded_is_exported_too(tmp_path):
    model = classifier()
    with torch.no_grad():
        model.net.blocks[1][3].weight[2] = -1
    x = clips(model)
    path = export(model, tmp_path / "float.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node].count("BatchNormalization") == 2
    np.testing.assert_allclose(answers(path, features=x), probabilities(model, x), atol=1e-5)
    int8 = QAT().finish(observed(model, QAT()))
    path = export(int8, tmp_path / "int8.onnx")
    np.testing.assert_allclose(answers(path, features=x), probabilities(int8, x), atol=0.05)


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "norms"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("prune", [False, True], ids=["dense", "pruned"])
def test_onnx_runtime_computes_the_8_bit_network(net, fold, prune, tmp_path):
    phase = QAT(fold=fold)
    int8 = phase.finish(observed(prune_at_once(classifier(net), amount=0.5) if prune else classifier(net), phase))
    path = export(int8, tmp_path / "model.onnx")
    x = clips(int8, 32)
    ours, theirs = probabilities(int8, x), answers(path, features=x)
    assert np.abs(ours - theirs).max() < 0.05
    assert np.sqrt(np.square(ours - theirs).mean()) < 0.1 * ours.std(0).mean()  # some steps of the last layer's grid


def test_the_8_bit_file_holds_integers_and_runs_on_them(tmp_path):
    model = QAT().finish(observed(classifier(), QAT()))
    path = export(model, tmp_path / "model.onnx")
    arrays = [onnx.numpy_helper.to_array(constant) for constant in onnx.load(path).graph.initializer]
    # the kernels but the constant map of the first, and the dense layer's zero points
    assert sum(array.size for array in arrays if array.dtype == np.int8) == 61_033 - 9 + 3
    assert (
        sum(array.size for array in arrays if array.dtype == np.int32) == 484 - 33
    )  # the biases but the first layer's
    assert sum(array.size for array in arrays if array.dtype == np.float32) < 2 * 484 + 20  # scales
    assert path.stat().st_size <= 72 * 1024

    kinds = optimized(path)
    assert (kinds.count("QLinearConv"), kinds.count("Conv")) == (3, 1)


@pytest.mark.parametrize("net", [{}, {"bn_first_block_only": True}, {"filters": [5, 7, 9, 11]}], ids=str)
def test_the_first_convolution_in_float_arithmetic_gives_the_integers_of_its_8_bit_kernel(net, tmp_path):
    """Its sums in 64-bit integers, put on the output's grid by one product in float32, as 8-bit kernels do."""
    int8 = QAT().finish(observed(classifier(net), QAT()))
    proto = onnx.load(export(int8, tmp_path / "model.onnx"))
    pooled = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"][1].output[0]
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.UINT8, None))
    x = clips(int8, 8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"features": x.numpy()})[0]

    layers = list(int8.net)
    first = next(number for number, layer in enumerate(layers) if isinstance(layer, nnq.Conv2d))
    with torch.inference_mode():
        for layer in layers[:first]:
            x = layer(x)
        conv, pool = layers[first], next(layer for layer in layers if isinstance(layer, nn.MaxPool2d))
        weight = conv.weight()
        scales = weight.q_per_channel_scales().float() * torch.tensor(x.q_scale(), dtype=torch.float32)
        bias = (conv.bias().double() / scales).round()
        sums = nn.functional.conv2d(
            (x.int_repr().int() - x.q_zero_point()).double(), weight.int_repr().double(), bias, padding=conv.padding
        )
        steps = (scales / torch.tensor(conv.scale, dtype=torch.float32)).view(-1, 1, 1)
        rounded = (sums.float() * steps).round().clamp(0, 255)  # half to even
    assert conv.zero_point == 0
    np.testing.assert_array_equal(ours, pool(rounded).numpy())
    assert len(np.unique(ours)) > 50


@pytest.mark.parametrize("stage", ["float", "int8"])
def test_a_pruned_file_is_smaller_in_proportion(stage, tmp_path):
    """Half of the values and a bit for each: 1/2 + 1/32 of a float file, 1/2 + 1/8 of an 8-bit one, and the rest."""
    sizes, values = [], []
    for model in (classifier(), prune_at_once(classifier(), amount=0.5)):
        small = QAT().finish(observed(model, QAT())) if stage == "int8" else model
        sizes.append(export(small, tmp_path / "model.onnx").stat().st_size)
        values.append(small.complexity())
    width = 1 if stage == "int8" else 4
    zeros = values[0].nonzero_parameters - values[1].nonzero_parameters
    saved = zeros * width - values[1].parameters / 8
    assert sizes[0] - sizes[1] == pytest.approx(saved, abs=2500)  # the rest: names, and how to unpack


def test_a_pruned_file_is_unpacked_once_when_it_is_loaded(tmp_path):
    kinds = [
        optimized(export(model, tmp_path / f"{number}.onnx"))
        for number, model in enumerate((classifier(), prune_at_once(classifier(), amount=0.5)))
    ]
    assert kinds[0] == kinds[1]


def test_a_network_without_half_of_its_filters_is_smaller_too(tmp_path):
    model = classifier()
    dense = export(model, tmp_path / "dense.onnx").stat().st_size
    phase = PruneFilters(0.5)
    smaller = phase.finish(fit(phase.begin(model), phase))
    path = export(smaller, tmp_path / "smaller.onnx")
    assert path.stat().st_size < 0.35 * dense
    x = clips(smaller)
    np.testing.assert_allclose(answers(path, features=x), probabilities(smaller, x), atol=1e-5)


FRONTENDS = {
    "gammatone": {},
    "mel": {"filterbank": "mel", "window": "hamming", "win_length": 400, "standardize": True, "frames": None},
    "spectrogram": {"filterbank": None, "n_bins": 257, "power": 2, "log": False, "frames": 30},
}


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_with_the_frontend_in_front_a_wave_goes_in(frontend, tmp_path):
    model = classifier(frontend=frontend)
    if model.frontend.standardized:
        model.frontend.fit([clips(model)])
    path = export(model, tmp_path / "model.onnx", with_frontend=True)
    for count in (1, 3):
        wave = 0.1 * torch.randn(count, model.clip_samples)
        np.testing.assert_allclose(answers(path, wave=wave), probabilities(model, wave), atol=1e-4)


@pytest.mark.parametrize("engine", HERE)
def test_real_recordings_get_the_same_decisions(engine, shared, tmp_path):
    """All test clips of scenes3 through an 8-bit network that has seen the training clips."""
    from asc.data import SceneData

    model = classifier()
    data = SceneData(str(shared / "scenes3"), sample_rate=8000, clip_seconds=0.5, num_workers=0, cache=False)
    data.setup()
    with torch.no_grad():
        train, test = (
            torch.cat([model.frontend(wave) for wave, _ in data.loader(split)]) for split in ("train", "test")
        )
        phase = QAT(engine, weight_bits=7)  # ONNX Runtime, too, adds up in 16 bits where there is no VNNI
        fake = phase.begin(model)
        for layer in fake.net.train().modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        fake.net(train)
    for stage, tolerance in ((model, 1e-4), (phase.finish(fake.eval()), 0.05)):
        ours = probabilities(stage, test)
        theirs = answers(export(stage, tmp_path / "model.onnx"), features=test)
        assert np.abs(ours - theirs).max() < tolerance
        assert (ours.argmax(1) == theirs.argmax(1)).mean() >= (1 if stage is model else 0.98)


def test_the_file_says_what_it_is(tmp_path):
    model = classifier()
    proto = onnx.load(export(model, tmp_path / "model.onnx"))
    noted = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(noted["labels"]) == model.labels
    assert noted["sample_rate"] == "8000"


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(InputError, match="half quantized"):
        export(QAT().begin(classifier()), tmp_path / "model.onnx")
    trainable = classifier(frontend={"trainable_stft": True, "frames": None})
    with pytest.raises(InputError, match="trainable_stft"):
        export(trainable, tmp_path / "model.onnx", with_frontend=True)
    int8 = QAT().finish(observed(classifier(), QAT()))
    next(layer for layer in int8.net if isinstance(layer, nnq.Quantize)).scale.fill_(1e-30)
    with pytest.raises(InputError, match="32-bit grid"):
        export(int8, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())

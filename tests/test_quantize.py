import pytest
import torch
from classifiers import HERE, NETS, classifier, clips, observed
from torch.ao.nn import quantized as nnq

from asc.compress import QAT
from asc.quantization.quantize import running_on, safe_weight_bits


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "norms"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("engine", HERE)
def test_the_integers_compute_what_fine_tuning_saw(engine, net, fold):
    phase = QAT(engine, fold)
    fake = observed(classifier(net), phase)
    int8 = phase.finish(fake)
    assert int8.stage == "int8"
    x = clips(fake)
    with torch.inference_mode():
        step = next(layer for layer in reversed(int8.net) if isinstance(layer, nnq.Linear)).scale
        difference = (int8.net(x) - fake.net(x)).abs().max().item()
    assert difference <= 2.01 * step  # roundings of the same sums in another order


@pytest.mark.parametrize("engine", HERE)
def test_fake_quantization_is_near_the_float_network(engine):
    model = classifier()
    fake = observed(model, QAT(engine))
    x = clips(model)
    with torch.inference_mode():
        error = (fake.net(x) - model.net(x)).square().mean().sqrt()
        assert error < 0.1 * model.net(x).std()


@pytest.mark.parametrize("engine", HERE)
def test_every_engine_adds_up_exactly_with_the_bits_it_gets(engine):
    """The largest products that there can be: sums in 16 bits would overflow, and the engine be silently wrong."""
    largest = 2 ** (safe_weight_bits(engine) - 1)
    ones, zeros = torch.ones(8, dtype=torch.double), torch.zeros(8, dtype=torch.long)
    for value in (largest - 1, -largest):
        weight = torch.quantize_per_channel(torch.full((8, 16, 3, 3), float(value)), ones, zeros, 0, torch.qint8)
        with running_on(engine):
            conv = nnq.Conv2d(16, 8, 3)
            conv.set_weight_bias(weight, torch.zeros(8))
        conv.scale, conv.zero_point = 16 * 9 * 255 * largest / 100, 128
        x = torch.quantize_per_tensor(torch.full((1, 16, 5, 5), 255.0), 1.0, 0, torch.quint8)
        expected = 128 + round(100 * value / largest)
        assert conv(x).int_repr().unique().tolist() == [expected]


@pytest.mark.parametrize("engine", HERE)
def test_kernels_use_their_bits_symmetrically_by_channel(engine):
    model = QAT(engine).finish(observed(classifier(), QAT(engine)))
    bits = safe_weight_bits(engine)
    layers = [layer for layer in model.net.modules() if isinstance(layer, nnq.Conv2d | nnq.Linear)]
    assert len(layers) == 5
    for layer in layers:
        weight = layer.weight()
        assert weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        assert weight.q_per_channel_zero_points().count_nonzero() == 0
        largest = weight.int_repr().int().flatten(1).abs().amax(1)
        assert largest.max() <= 2 ** (bits - 1)
        used = largest[largest > 0]  # the constant map's filter is all zeros
        assert used.min() >= 2 ** (bits - 1) - 1


def test_a_folded_network_is_convolutions_pools_and_a_dense_layer():
    model = QAT().finish(observed(classifier(), QAT()))
    kinds = {type(layer).__name__ for layer in model.net}
    assert kinds == {
        *("ConstantPad", "Quantize", "PairedConvReLU2d", "Identity", "MaxPool2d", "MaxPoolOverTime", "Flatten"),
        *("Linear", "DeQuantize"),
    }


def test_sizes_of_an_8_bit_network_by_hand():
    cost = QAT().finish(observed(classifier(), QAT())).complexity()
    kernels, biases = 288 + 9 + 64 * 33 * 9 + 8192 + 32768 + 768, 33 + 64 + 128 + 256 + 3
    assert cost.parameters == kernels + biases + 1 == 61_518  # 1: the constant of the padding
    assert cost.size_kb <= (kernels + 4 * biases + 4) / 1024
    assert cost.nonzero_parameters > 0.97 * cost.parameters
    frames = 4000 // 128 + 1
    macs = 9 * 33 * 32 * frames + 64 * 33 * 9 * 16 * 8 + 64 * 128 * 8 * 4 + 128 * 256 * 4 * 1 + 768
    assert frames == 32
    assert cost.macs == macs


def test_batch_norms_that_are_kept_count_but_not_officially():
    phase = QAT(fold=False)
    cost = phase.finish(observed(classifier(), phase)).complexity()
    assert cost.parameters == 63_751
    assert cost.size_kb - cost.dcase2020_size_kb == pytest.approx(4 * (63_751 - 60_931) / 1024)
    assert cost.dcase2020_size_kb <= (60_448 + 4 * 483) / 1024

import copy
from itertools import product

import pytest
import torch
from classifiers import HERE, classifier, observed, save
from torch.ao.nn.intrinsic.quantized import ConvReLU2d

from asc import SceneClassifier
from asc.compress import QAT
from asc.quantization.columns import PairedConvReLU2d
from asc.quantization.quantize import running_on


@pytest.mark.parametrize("engine", HERE)
def test_the_integers_are_those_of_torch(engine):
    for kernel, width, clips, bias in product([(3, 1), (3, 2), (3, 3), (1, 5)], [12, 13, 14], [1, 3], [True, False]):
        weight, shift = torch.randn(5, 1, *kernel), torch.randn(5) if bias else None
        zeros = torch.zeros(5, dtype=torch.long)
        rounded = torch.quantize_per_channel(weight, weight.abs().amax((1, 2, 3)).double() / 63, zeros, 0, torch.qint8)
        x = torch.quantize_per_tensor(torch.randn(clips, 1, 6, width), 0.03, 100, torch.quint8)
        outputs = []
        for kind in (ConvReLU2d, PairedConvReLU2d):
            with running_on(engine):
                layer = kind(1, 5, kernel)
                layer.set_weight_bias(rounded, shift)
            layer.scale, layer.zero_point = 0.02, 7
            outputs.append(layer(x).int_repr())
        assert torch.equal(*outputs)
        assert outputs[0].unique().numel() > 20


def test_the_first_convolution_alone_is_paired_also_when_it_is_copied_and_loaded(tmp_path):
    model = QAT().finish(observed(classifier(), QAT()))
    loaded = SceneClassifier.load_from_checkpoint(save(model, tmp_path / "int8.ckpt"))
    for same in (model, copy.deepcopy(model), loaded):
        layers = [layer for layer in same.net if isinstance(layer, ConvReLU2d)]
        assert [layer.paired is not None for layer in layers] == [True, False, False, False]

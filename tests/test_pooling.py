"""The last pooling of the report's network, by maximum, average, or mean and standard deviation."""

import pytest
import torch
from classifiers import HERE, classifier, clips, error, lived_in, logits, observed, onnx_logs
from torch import nn

from asc import InputError
from asc.compress import QAT, PruneFilters
from asc.export import export
from asc.nets import PhamCNN
from asc.nets.pool import AvgPoolOverTime, MaxPoolOverTime, MeanStdPoolOverTime, PoolOverTime
from asc.quantization.fold import fold, unfoldable_norms

OURS = ["average", "mean_std"]


@pytest.mark.usefixtures("device")
def test_each_pooling_is_what_its_name_says():
    x = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(MaxPoolOverTime()(x), x.amax((2, 3), keepdim=True))
    torch.testing.assert_close(AvgPoolOverTime()(x), x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(
        AvgPoolOverTime(height=3)(x)[..., 0], torch.stack([x[:, :, :3], x[:, :, 3:]], 2).mean((3, 4))
    )
    mean_std = MeanStdPoolOverTime()(x)
    torch.testing.assert_close(mean_std[:, :, 0, 0], x.mean((2, 3)))
    torch.testing.assert_close(mean_std[:, :, 1, 0], x.std((2, 3), correction=0), rtol=1e-4, atol=1e-4)
    assert PoolOverTime is MaxPoolOverTime


def test_the_default_is_the_reports():
    torch.manual_seed(1)
    first = PhamCNN(3).eval()
    torch.manual_seed(1)
    second = PhamCNN(3, pooling="max").eval()
    x = torch.randn(2, 1, 40, 50)
    assert torch.equal(first(x), second(x))
    assert first.state_dict().keys() == PhamCNN(3, pooling="average").state_dict().keys()
    with pytest.raises(InputError, match="net.pooling=median"):
        PhamCNN(3, pooling="median")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("pooling", "columns"), [("average", 256), ("mean_std", 512)])
def test_sizes_and_any_clip_length(pooling, columns):
    net = PhamCNN(3, pooling=pooling)
    assert sum(value.numel() for value in net.parameters()) == 62_341 + 3 * (columns - 256)
    for frames in (25, 428):
        assert net.eval()(torch.randn(1, 1, 128, frames)).shape == (1, 3)
    net.train()(torch.zeros(2, 1, 16, 32)).sum().backward()
    assert all(value.grad.isfinite().all() for value in net.parameters())


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("pooling", "left"), [("average", []), ("mean_std", [21])])
def test_folding_changes_no_logit(pooling, left):
    net = lived_in(PhamCNN(3, pooling=pooling)).double()
    with torch.no_grad():
        net.blocks[3][3].weight[:100] *= -1  # an average commutes with these, a maximum does not
    assert unfoldable_norms(net) == left
    x = torch.randn(2, 1, 40, 50, dtype=torch.double)
    torch.testing.assert_close(fold(net, left)(x), net(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pooling", OURS)
@pytest.mark.parametrize("engine", HERE)
def test_8_bits(engine, pooling, tmp_path):
    model = classifier({"pooling": pooling})
    x = clips(model)
    fake = observed(model, QAT(engine))
    int8 = QAT(engine).finish(fake)
    assert error(logits(fake, x), logits(model, x)) < 0.1
    assert error(logits(int8, x), logits(fake, x)) < 0.02
    logs = onnx_logs(export(int8, tmp_path / "model.onnx"), x, engine)
    assert error(logs, logits(int8, x).log_softmax(-1)) < 0.05


@pytest.mark.parametrize("pooling", OURS)
def test_onnx_in_floats(pooling, tmp_path):
    model = classifier({"pooling": pooling})
    x = clips(model)
    logs = onnx_logs(export(model, tmp_path / "model.onnx"), x)
    torch.testing.assert_close(logs, logits(model, x).log_softmax(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", OURS)
def test_filters_of_zeros_are_pruned_without_a_trace(pooling):
    """Filters whose maps the next layer does not look at: without them the network computes the same."""
    model = classifier({"pooling": pooling})
    convolutions = [layer for layer in model.net.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer, after in zip(convolutions, [*convolutions[1:], model.net.dense], strict=True):
            layer.weight[::2] = 0
            columns = after.weight.shape[1] // layer.out_channels
            after.weight.view(len(after.weight), layer.out_channels, columns, -1)[:, ::2] = 0
    smaller = PruneFilters(0.5).begin(model)
    assert smaller.net.dense.in_features == model.net.dense.in_features // 2
    x = clips(model)
    torch.testing.assert_close(logits(smaller, x), logits(model, x), rtol=1e-4, atol=1e-5)

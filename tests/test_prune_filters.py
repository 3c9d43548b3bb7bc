import pytest
import torch
from classifiers import BASELINE, classifier, clips

from asc import InputError
from asc.compress import PruneFilters
from asc.compress.prune_filters import strongest_filters
from asc.quantization.quantize import kernels


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("net", "filters"), [({}, [24, 48, 96, 192]), (BASELINE, [24, 48])], ids=["cnn", "baseline"])
def test_without_filters_the_network_computes_what_the_rest_did(net, filters):
    """The maps of the removed filters, taken out of the old network by zeros where the next layer reads them."""
    model = classifier(net)
    kept = strongest_filters(model.net, 0.25)
    smaller = PruneFilters(0.25).begin(model)
    assert smaller.hparams["net"]["filters"] == filters
    assert smaller.stage == "pruned"
    readers = list(kernels(model.net))[1:]
    with torch.no_grad():
        for indices, reader in zip(kept, readers, strict=False):
            values = reader.shape[1] // (4 * len(indices) // 3)  # columns for a map: more than one after flattening
            columns = torch.cat([indices * values + value for value in range(values)])
            gone = torch.ones(reader.shape[1], dtype=torch.bool)
            gone[columns] = False
            reader[:, gone] = 0
    x = clips(model)
    with torch.inference_mode():
        torch.testing.assert_close(smaller.net(x), model.net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("device")
def test_the_filters_of_smallest_norm_go_and_the_network_is_smaller():
    model = classifier()
    norms = [kernel.detach().abs().flatten(1).sum(1) for kernel in kernels(model.net)][:4]
    smaller = PruneFilters(0.5).begin(model)
    for norm, indices in zip(norms, strongest_filters(model.net, 0.5), strict=True):
        gone = torch.ones(len(norm), dtype=torch.bool)
        gone[indices] = False
        assert len(indices) == len(norm) / 2
        assert norm[gone].max() <= norm[indices].min()
    n1, n2, n3, n4 = 16, 32, 64, 128
    counted = 10 * n1 + (9 * n1 + 1) * n2 + (n2 + 1) * n3 + (n3 + 1) * n4 + (n4 + 1) * 3
    assert smaller.complexity().dcase2020_size_kb == pytest.approx(counted * 4 / 1024)
    assert smaller.complexity().macs < 0.3 * model.complexity().macs


def test_one_filter_stays():
    smaller = PruneFilters(0.999).begin(classifier(BASELINE | {"filters": [4, 8]}))
    assert smaller.hparams["net"]["filters"] == [1, 1]


def test_a_network_whose_width_cannot_be_chosen_is_refused():
    with pytest.raises(InputError, match="FixedNet takes no filters"):
        PruneFilters().begin(classifier({"_target_": "tiny.FixedNet"}))

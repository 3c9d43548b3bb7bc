"""Block 1's layers at once, against the layers one by one and against finite differences."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from asc.nets import PhamCNN, conv_norm_pool
from asc.nets.conv_norm_pool import ConvNormPool, is_fusible
from asc.nets.conv_norm_pool import conv_norm_pool as fused

POOLS = {
    "up": nn.MaxPool2d((2, 4), ceil_mode=True),
    "down": nn.MaxPool2d((2, 4)),
    "square": nn.MaxPool2d(3),
    "whole": nn.MaxPool2d((9, 14)),
}


@pytest.fixture(params=[2**6, 2**30], ids=["many parts", "one part"])
def part(request, monkeypatch):
    """The same for all sizes of a part, down to a row of windows."""
    monkeypatch.setattr(conv_norm_pool, "PART", request.param)


def layers(filters: int = 5, bias: bool = True, pool: nn.Module = POOLS["up"]) -> nn.Sequential:
    """Layers with norms that do something: scales of both signs and zero."""
    norm = nn.BatchNorm2d(filters, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, filters) + 0.01)
        norm.bias.uniform_(-1, 1)
    convolution = nn.Conv2d(1, filters, 3, padding=1, bias=bias)
    return nn.Sequential(convolution, nn.ReLU(inplace=True), norm, copy.deepcopy(pool))


def results(net: nn.Sequential, x: Tensor, at_once: bool) -> dict[str, Tensor]:
    """Output, all gradients and all statistics after a step on some weighted sum of the output."""
    net, x = copy.deepcopy(net), x.clone().requires_grad_()
    z = fused(x, net[0], net[2], net[3]) if at_once else net(x)
    (z.float() * torch.linspace(-1, 2, z.numel(), device=z.device).view(z.shape)).sum().backward()
    gradients = {name: value.grad for name, value in net.named_parameters()}
    return {"z": z.detach(), "x": x.grad, **gradients, **dict(net.named_buffers())}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("bias", [True, False])
def test_fused_layers_compute_what_the_layers_do(pool, bias):
    net, x = layers(bias=bias, pool=pool).double(), torch.randn(3, 1, 9, 14, dtype=torch.float64)
    assert_close(results(net, x, True), results(net, x, False))


@pytest.mark.usefixtures("part")
def test_gradients_are_finite_differences():
    net, x = layers(filters=3).double(), torch.randn(2, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    padded = nn.functional.pad(x, (1, 1, 1, 1))

    def z(*values: Tensor) -> Tensor:
        return ConvNormPool.apply(*values, 1e-3, net[3])[0]

    parameters = [value.detach().requires_grad_() for value in net.parameters()]
    assert torch.autograd.gradcheck(z, (padded.detach().requires_grad_(), *parameters))


def test_scale_of_zero_gives_the_shift_and_finite_gradients():
    net, x = layers(), torch.randn(2, 1, 8, 8)
    nn.init.zeros_(net[2].weight)
    actual = results(net, x, True)
    assert torch.equal(actual["z"], net[2].bias.detach().view(-1, 1, 1).expand_as(actual["z"]))
    assert all(value.isfinite().all() for value in actual.values())
    assert not actual["x"].any()


@pytest.mark.usefixtures("part")
def test_rounding_is_no_worse_than_that_of_the_layers():
    """In float32 the layers' own sums over a batch are wrong in the fourth digit."""
    net, x = layers(filters=32).to(memory_format=torch.channels_last), torch.randn(4, 1, 32, 48)
    exact = results(net.double(), x.double(), False)
    net.float()
    ours, theirs = (results(net, x, at_once) for at_once in (True, False))
    for name, value in exact.items():
        scale = value.double().abs().max()
        error, other = ((result[name].double() - value).abs().max() / scale for result in (ours, theirs))
        assert error <= max(1e-4, 1.5 * other), name
        assert ours[name].dtype == theirs[name].dtype, name


def test_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setattr(conv_norm_pool, "PART", 2**6)
    net, x = layers(), torch.randn(6, 1, 12, 16)
    one = results(net, x, True)
    try:
        torch.set_num_threads(3)
        three = results(net, x, True)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_training_step_is_the_same_and_fuses_block_1_alone(monkeypatch):
    """Outputs, gradients, running statistics and random numbers drawn, with partly pruned weights."""
    net, x = PhamCNN(3).double().to(memory_format=torch.channels_last), torch.randn(4, 1, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        net.blocks[0][1].weight[::2] = 0
        net.blocks[0][3].weight[:5] *= -1
    calls, found = [], []
    monkeypatch.setattr("asc.nets.pham_cnn.conv_norm_pool", lambda *given: calls.append(1) or fused(*given))
    for at_once in (True, False):
        step = copy.deepcopy(net).train()
        torch.manual_seed(1)
        if not at_once:
            monkeypatch.setattr("asc.nets.pham_cnn.is_fusible", lambda *given: False)
        step(x).square().sum().backward()
        step.eval()(x)
        found.append({**{name: value.grad for name, value in step.named_parameters()}, **dict(step.named_buffers())})
    assert calls == [1]
    assert_close(*found)


CHANGES = {
    "a hook": lambda net: net[0].register_forward_hook(lambda *given: None),
    "frozen statistics": lambda net: net[2].eval(),
    "stride": lambda net: setattr(net[0], "stride", (2, 2)),
    "padding with copies": lambda net: setattr(net[0], "padding_mode", "reflect"),
    "overlapping windows": lambda net: setattr(net[3], "stride", 1),
    "parametrized": lambda net: nn.utils.parametrizations.weight_norm(net[0]),
    "pruned by hooks": lambda net: nn.utils.prune.l1_unstructured(net[0], "weight", 0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_layers_run_one_by_one(change):
    net, x = layers(), torch.randn(2, 1, 8, 8)
    assert is_fusible(x, *net)
    change(net)
    assert not is_fusible(x, *net)


def test_layers_in_bfloat16_run_one_by_one():
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fusible(torch.randn(2, 1, 8, 8), *layers())


@pytest.mark.nightly
def test_compiled_network_is_one_graph_without_fusion():
    net = PhamCNN(3, dropout_scale=0.0)  # dropout breaks the graph
    torch.compile(net.blocks[0], backend="eager", fullgraph=True)(torch.randn(2, 1, 32, 32))


@pytest.mark.nightly
def test_rounding_with_other_instructions():
    """torch chooses the processor's when it starts."""
    instructions = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    test = f"{__file__}::test_rounding_is_no_worse_than_that_of_the_layers"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, env=os.environ | instructions, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""What several tests share."""

import importlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from command import run
from emulated import Emulation
from pytorch_lightning.accelerators import CUDAAccelerator
from tiny import SETTINGS, write_tiny

importlib.import_module("matplotlib.font_manager")  # the first import takes seconds, and tells so on stderr
torch.set_num_threads(1)  # two processes share two cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tries", type=int, default=50, help="generated settings to try; of other inputs four times as many"
    )
    parser.addoption("--fuzz-seed", type=int, default=0, help="that chooses them, and instants")
    parser.addoption("--rooms", type=int, default=1, help="sizes of a full disk for each command in test_full_disk.py")
    parser.addoption("--kills", type=int, default=1, help="signals at random instants for each test in test_kills.py")
    parser.addoption("--emulated", action="store_true", help="tests of devices on that of emulated.py, without a GPU")


def other_devices(config: pytest.Config) -> list[str]:
    """Besides the CPU: the GPU, for `pytest -k cuda`, or what stands in for it."""
    return ["cuda"] if torch.cuda.is_available() else ["emulated"] * config.getoption("--emulated")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, devices in (("device", ["cpu"]), ("there", [])):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [*devices, *other_devices(metafunc.config)], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without another device, leave out the tests that compare one with the CPU."""
    if not other_devices(config):
        items[:] = [item for item in items if "there" not in item.fixturenames]  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real recordings (../shared/data) are not here")
    return path


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers in each test, whichever others run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def trainers_choose_the_cpu(monkeypatch) -> None:
    """As in processes that tests start: unless told otherwise, whatever the machine."""
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))


@pytest.fixture
def device(request, monkeypatch) -> Iterator[torch.device]:
    """The device on which the test makes its tensors."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # whose products have 10 bits
    with Emulation() if request.param == "emulated" else nullcontext(), torch.device(request.param) as device:
        yield device


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def job(tiny, tmp_path_factory):
    """The arguments of a small training run on the tiny dataset."""
    return ["data=dcase", f"data.root={tiny}", f"data.cache_dir={tmp_path_factory.mktemp('cache')}", *SETTINGS]


@pytest.fixture(scope="session")
def trained(job, tmp_path_factory):
    """A finished run's directory and what it printed."""
    directory = tmp_path_factory.mktemp("run")
    done = run(*job, "trainer.max_epochs=20", "data.val_fraction=0.25", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    return directory, done

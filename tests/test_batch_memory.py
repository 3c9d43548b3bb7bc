import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from classifiers import classifier, fit
from torch import nn

from asc.errors import InputError
from asc.training.batch_memory import HEAP, CheckBatchMemory, available_memory, step_memory

CPU = torch.device("cpu")
GB = 10**9


def test_a_steps_memory_is_what_its_tensors_take_at_once():
    def step() -> None:
        x = torch.ones(250_000)  # 1 MB
        y = x * 2
        del x
        y.add_(1)
        y.view(2, -1) * 2  # a view takes nothing, the product another

    assert step_memory(step, CPU) == pytest.approx(HEAP * 2e6)


def test_it_grows_with_the_batch():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, 1, 64, 64))
    one, four = (step_memory(lambda n=n: net(torch.zeros(n, 1, 64, 64)).sum().backward(), CPU) for n in (10, 40))
    assert four == pytest.approx(4 * one, rel=0.2)


PEAK = """
import copy, torch
from asc.nets import PhamCNN
from asc.training.memory import keep_freed_memory, peak_memory
from asc.training.batch_memory import step_memory
keep_freed_memory()
torch.set_num_threads(1)
net = PhamCNN(3).to(memory_format=torch.channels_last)
def step(n): copy.deepcopy(net)(torch.randn(n, 1, 128, 428)).sum().backward()
estimate = 40 * step_memory(lambda: step(2), torch.device("cpu")) / 2
before = peak_memory()
step(40)
print(estimate / (peak_memory() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another system may tell the peak of this process")
def test_it_is_near_the_real_peak():
    """The process's own, which includes what no one counts: not much below, and not three times as much."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 0.7 < float(done.stdout) < 3, done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="another system may tell the peak of this process")
def test_the_peak_is_the_process_own_not_that_of_a_larger_one_which_started_it():
    code = "from asc.training.memory import peak_memory; print(peak_memory())"
    with mmap.mmap(-1, GB) as held:
        held.write(bytes(GB))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(done.stdout) < GB / 2


def files(root: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 99 kB\nMemFree: 3 kB\nMemAvailable: 20000000 kB\n"}


def group(folder: str, names: tuple[str, str], limit: str) -> dict[str, str]:
    """Of which 3 GB are used, 1 GB of it by files."""
    stat = f"anon 1\ninactive_file {GB}\n"
    return {f"{folder}/{names[0]}": f"{limit}\n", f"{folder}/{names[1]}": f"{3 * GB}\n", f"{folder}/memory.stat": stat}


V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
SYSTEMS = {
    "no container": ({"proc/self/cgroup": "0::/\n"}, 20_480_000_000),
    "version 2": ({"proc/self/cgroup": "0::/\n", **group("sys/fs/cgroup", V2, f"{8 * GB}")}, 6 * GB),
    "version 2, no limit": ({"proc/self/cgroup": "0::/a\n", **group("sys/fs/cgroup/a", V2, "max")}, 20_480_000_000),
    "a group around it": ({"proc/self/cgroup": "0::/a/b\n", **group("sys/fs/cgroup/a", V2, f"{7 * GB}")}, 5 * GB),
    "version 1": (
        {"proc/self/cgroup": "3:cpu:/x\n4:memory:/a\n", **group("sys/fs/cgroup/memory/a", V1, f"{4 * GB}")},
        2 * GB,
    ),
    "full": ({"proc/self/cgroup": "0::/\n", **group("sys/fs/cgroup", V2, f"{GB}")}, 0),
}


@pytest.mark.parametrize(("content", "expected"), SYSTEMS.values(), ids=SYSTEMS)
def test_the_free_memory_of_machine_and_container(tmp_path, content, expected):
    assert available_memory(CPU, files(tmp_path, MACHINE | content)) == expected


def test_a_system_that_does_not_tell(tmp_path):
    assert available_memory(CPU, tmp_path) is None


def test_a_batch_that_cannot_fit_is_refused_with_the_size_that_does(monkeypatch):
    def refusal(free: int) -> str:
        monkeypatch.setattr("asc.training.batch_memory.available_memory", lambda device: free)
        with pytest.raises(InputError) as told:
            fit(classifier(), CheckBatchMemory(batch_size=8))
        return str(told.value)

    fits = re.fullmatch(r"a step of data.batch_size=8 needs .* set data.batch_size=(\d) or less", refusal(3_500_000))
    assert fits
    assert 1 <= int(fits[1]) < 8
    assert refusal(1000).endswith("give shorter clips or a smaller network")


def test_the_check_changes_nothing_of_the_training():
    trained = []
    for callbacks in ([], [CheckBatchMemory(batch_size=8)]):
        torch.manual_seed(0)
        trained.append(fit(classifier(), *callbacks).state_dict())
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())

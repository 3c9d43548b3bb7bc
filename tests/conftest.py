"""What several tests share."""

from pathlib import Path

import pytest
import torch


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

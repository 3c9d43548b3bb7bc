import pytest
import torch
from asc.rewrite.chain import chain, check_chain
from torch import nn

from asc import InputError
from asc.nets import PhamCNN


class Residual(PhamCNN):
    def forward(self, x):
        return super().forward(x) + 1


def test_networks_that_are_no_chain_are_refused():
    x = torch.zeros(1, 1, 40, 50)
    check_chain(PhamCNN(3), x)
    with pytest.raises(InputError, match="Residual is not a plain chain"):
        check_chain(Residual(3), x)
    with pytest.raises(InputError, match="GELU"):
        chain(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU()))
    with pytest.raises(InputError, match="groups=2"):
        chain(nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)))

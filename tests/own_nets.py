"""Networks that are graphs, as a user would bring them: with sums, forks and grouped convolutions."""

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """relu(x + body(x)), the sum written as one writes it."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)),
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


class Residual(nn.Module):
    """Two blocks of 8 channels, which edit their input in place."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.first, self.second = Block(8), Block(8)
        self.pool, self.average = nn.MaxPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(1)
        self.dense = nn.Linear(8, n_classes)

    def forward(self, x):
        if x.shape[-1] < 4:
            raise ValueError(f"{x.shape[-1]} frames are too few")
        x = self.second(self.pool(self.first(self.stem(x))))
        return self.dense(self.average(x).view(x.size(0), -1))


class Sums(nn.Module):
    """Norms before their convolutions, a strided shortcut, a norm behind a fork, `+=`, a sum of three."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.norm, self.stem = nn.BatchNorm2d(1), nn.Conv2d(1, 6, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2, padding=1))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(6, 6, 1, bias=False))
        self.scaled = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(6))
        self.tail = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 1), nn.Dropout2d(0.1))
        self.last = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d((1, 1)))
        self.dense = nn.Linear(8, n_classes)

    def forward(self, x):
        x = self.stem(self.norm(x))
        y = self.body(x) + self.shortcut(x)
        y += self.scaled(x)
        return self.dense(self.last(self.tail(y)).squeeze(3).squeeze(2))

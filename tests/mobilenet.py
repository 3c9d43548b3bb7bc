"""A file such as EfficientAT publishes, with random weights."""

import torch


def published(width: float) -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of a published file: MobileNetV3's table times `width`, rounded to 8."""

    def channels(number: float) -> int:
        nearest = max(8, int(number + 4) // 8 * 8)
        return nearest if nearest >= 0.9 * number else nearest + 8

    state: dict[str, torch.Tensor] = {}

    def add(name: str, n_in: int, n_out: int, kernel: int) -> None:
        state[f"{name}.0.weight"] = torch.randn(n_out, n_in, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.1.{part}"] = torch.rand(n_out)
        state[f"{name}.1.num_batches_tracked"] = torch.tensor(0)

    kernels = (3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5)
    wide = (16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960)
    out = (16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160)
    n_in = channels(16 * width)
    add("features.0", 1, n_in, 3)
    for number, (kernel, n_wide, n_out) in enumerate(zip(kernels, wide, out, strict=True), 1):
        n_wide, n_out = channels(n_wide * width), channels(n_out * width)
        block, part = f"features.{number}.block", 0
        if n_wide != n_in:
            add(f"{block}.0", n_in, n_wide, 1)
            part = 1
        add(f"{block}.{part}", 1, n_wide, kernel)
        if number in (4, 5, 6, 11, 12, 13, 14, 15):
            part, squeezed = part + 1, channels(n_wide // 4)
            for name, shape in (("fc1", (squeezed, n_wide)), ("fc2", (n_wide, squeezed))):
                state[f"{block}.{part}.conc_se_layers.0.{name}.weight"] = torch.randn(shape)
                state[f"{block}.{part}.conc_se_layers.0.{name}.bias"] = torch.randn(shape[0])
        add(f"{block}.{part + 1}", n_wide, n_out, 1)
        n_in = n_out
    add("features.16", n_in, 6 * n_in, 1)
    hidden = channels(1280 * width)
    for name, shape in (("classifier.2", (hidden, 6 * n_in)), ("classifier.5", (527, hidden))):
        state |= {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[0])}
    return state

"""Conv - ReLU - BatchNorm - MaxPool in training, a small part of the batch at a time.

For 100 clips of 128 x 428, a convolution with 32 filters makes tensors of 701 MB. Layer by layer, each of them goes to
memory and back a dozen times in a step, which takes longer than the arithmetic. Here they exist in parts of 2 MB,
which stay in a core's cache, and never as a whole. With W the weights, b the bias, and for each filter the mean and
variance of r over clips, height and width, inverse = 1 / sqrt(variance + eps), and a scale and a shift:

    y = W * x + b,  r = relu(y)                             (batch, filters, height, width), in parts
    z = pool(scale (r - mean) inverse + shift)              (batch, filters, h, w)
      = scale inverse pool(r) + (shift - scale inverse mean)

- The last line holds for scale > 0; for scale < 0, the maximum of the norm is at min(r) = -max(-r). So pooling needs no
  statistics, and the norm is computed from pooled values alone.
- The backward pass needs r again, at every position, and computes it anew from the small input.
- The convolution is a matrix product. A patch is what a filter sees of x at one position, k = inputs * kernel height *
  kernel width values, and a 1, which multiplies the bias: y (positions, filters) = patches (positions, k + 1) times
  weights (k + 1, filters). The gradients are products too, for which oneDNN takes several times as long if x has a
  single channel.
- Each thread computes parts of its own. If threads shared each operation, they would wait for each other a hundred
  times a clip, which takes long on a busy machine.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from asc.parallel import in_parallel

PART = 2**19  # values of y in a part: 2 MB in float32

Index = tuple[slice, ...]
Part = tuple[Index, Index]  # clips and rows of the padded x, and of the z that is computed from them


def is_fusible(x: Tensor, convolution: Any, relu: Any, norm: Any, pool: Any) -> bool:
    """Whether `conv_norm_pool` computes what these layers do in training, and faster.

    It replaces only plain layers without hooks, so that those of quantization and pruning run, and only for a single
    input channel in float32 on a CPU, where it was measured to be faster; in bfloat16, tensors are half as large and
    the layers as fast. It leaves what torch compiles to the compiler.
    """
    layers = (convolution, relu, norm, pool)
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return (
        not torch.compiler.is_compiling()
        and [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d]
        and not any(getattr(layer, name) for layer in layers for name in hooks)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and x.ndim == 4
        and x.shape[1] == convolution.in_channels == 1
        and (convolution.stride, convolution.dilation, convolution.padding_mode) == ((1, 1), (1, 1), "zeros")
        and not isinstance(convolution.padding, str)
        and bool(norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None)
        and pair(pool.stride) == pair(pool.kernel_size)
        and (pair(pool.padding), pair(pool.dilation), pool.return_indices) == ((0, 0), (1, 1), False)
    )


def conv_norm_pool(x: Tensor, convolution: nn.Conv2d, norm: Any, pool: nn.MaxPool2d) -> Tensor:
    """pool(norm(relu(convolution(x)))) of x (batch, inputs, height, width); updates the norm's running statistics.

    Args:
        x: on the CPU.
        convolution: stride and dilation 1, one group, padded with a number of zeros.
        norm: in training mode, with parameters, running statistics and a momentum.
        pool: windows that do not overlap, without padding.
    """
    height, width = pair(convolution.padding)  # type: ignore[arg-type]  # no string
    kernel, bias = convolution.weight, convolution.bias
    if bias is None:
        bias = kernel.new_zeros(len(kernel))
    padded = F.pad(x, (width, width, height, height))
    z, mean, variance, count = ConvNormPool.apply(padded, kernel, bias, norm.weight, norm.bias, norm.eps, pool)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)  # unbiased
    return z


def split(x: Tensor, kernel: Tensor, pool: nn.MaxPool2d) -> list[Part]:
    """Parts for padded x (batch, inputs, height, width), cut between windows of the pooling."""
    height, width = convolved_size(x, kernel)
    window, _ = pair(pool.kernel_size)
    windows = max(1, PART // (len(kernel) * width * window))
    clips = max(1, PART // (len(kernel) * width * height))
    starts = list(range(0, max(1, height - window + 1), windows * window))  # a rest below a window joins the last
    return [
        (
            (slice(clip, clip + clips), slice(None), slice(start, stop + kernel.shape[2] - 1)),
            (slice(clip, clip + clips), slice(None), slice(start // window, -(-stop // window))),
        )
        for clip in range(0, len(x), clips)
        for start, stop in zip(starts, [*starts[1:], height], strict=True)
    ]


def convolved_size(x: Tensor, kernel: Tensor) -> tuple[int, int]:
    """Height and width of y for padded x."""
    return x.shape[2] - kernel.shape[2] + 1, x.shape[3] - kernel.shape[3] + 1


class ConvNormPool(torch.autograd.Function):
    """The arithmetic of `conv_norm_pool`, in the names of this file's first lines."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float, pool: nn.MaxPool2d
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """For padded x: z (batch, filters, h, w), mean and variance (filters,) of r, and the number of their values."""
        weights, sign = product_weights(kernel, bias), torch.where(scale < 0, -1.0, 1.0)
        flips = bool((sign < 0).any())
        sizes = zip(convolved_size(x, kernel), pair(pool.kernel_size), strict=True)
        pooled_size = (-(-size // n) if pool.ceil_mode else size // n for size, n in sizes)
        size = (len(x), len(kernel), *pooled_size)
        pooled = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        positions = torch.empty_like(pooled, dtype=torch.int32)  # of the maxima, in the part's rows

        @torch.no_grad()
        def pool_part(part: Part) -> tuple[int, Tensor, Tensor]:
            in_x, in_z = part
            r = convolve_and_rectify(patches(x[in_x], kernel), weights, x[in_x], kernel)
            # torch.var_mean is 20 times slower on this memory layout
            mean, variance = torch.batch_norm_update_stats(r, torch.zeros_like(scale), torch.ones_like(scale), 0.0)
            if flips:
                r.mul_(per_channel(sign))
            pooled[in_z], positions[in_z] = F.max_pool2d(
                r, pool.kernel_size, ceil_mode=pool.ceil_mode, return_indices=True
            )
            return r[:, 0].numel(), mean, variance

        values, means, variances = zip(*in_parallel(pool_part, split(x, kernel, pool)), strict=True)
        if flips:
            pooled *= per_channel(sign)

        # of all parts: the mean of the means, and the mean of the variances plus the variance of the means
        counts = torch.tensor(values, dtype=torch.float64)
        fraction, part_means = counts / counts.sum(), torch.stack(means).double()  # (parts,), (parts, filters)
        mean = fraction @ part_means
        variance = fraction @ (torch.stack(variances).double() + (part_means - mean).square())
        inverse = (variance + eps).rsqrt().to(scale)
        mean, variance = mean.to(scale), variance.to(scale)

        ctx.save_for_backward(x, kernel, bias, scale, pooled, positions, mean, inverse)
        ctx.pool, ctx.count = pool, sum(values)
        ctx.mark_non_differentiable(mean, variance)
        z = torch.addcmul(per_channel(shift - mean * scale * inverse), pooled, per_channel(scale * inverse))
        return z, mean, variance, ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor, *others: Any) -> tuple[Tensor | None, ...]:
        """Gradients of x, kernel, bias, scale and shift.

        Let xhat = (r - mean) inverse, with M values of each filter, and g the gradient of scale xhat + shift: dz where
        a maximum was, 0 elsewhere. The gradients of batch norm are

            dshift = sum(g),  dscale = sum(g xhat),  dr = scale inverse (g - dshift / M - xhat dscale / M).

        The sums need pooled values alone. With xhat written out, dr is g, a constant and a multiple of r:

            dr = scale inverse g + offset + slope r
            slope = -scale inverse^2 dscale / M,  offset = -scale inverse dshift / M - slope mean.

        Then dy = dr where r > 0 and 0 elsewhere, dweights = patches^T dy, and dpatches = dy weights^T, which are added
        where they were taken from x.
        """
        x, kernel, bias, scale, pooled, positions, mean, inverse = ctx.saved_tensors
        pool = ctx.pool
        dshift = dz.sum((0, 2, 3))
        dscale = inverse * (pooled - per_channel(mean)).mul_(dz).sum((0, 2, 3))
        slope = -scale * inverse.square() * dscale / ctx.count
        offset = -scale * inverse * dshift / ctx.count - slope * mean
        size, weights = [*pair(pool.kernel_size)], product_weights(kernel, bias)

        @torch.no_grad()
        def part_gradients(part: Part) -> tuple[Tensor, Tensor | None]:
            in_x, in_z = part
            columns = patches(x[in_x], kernel)  # (clips, k + 1, positions)
            r = convolve_and_rectify(columns, weights, x[in_x], kernel)
            scaled = dz[in_z] * per_channel(scale * inverse)
            dr = torch.ops.aten.max_pool2d_with_indices_backward(
                scaled, r, size, size, [0, 0], [1, 1], pool.ceil_mode, positions[in_z].long()
            )
            dr.addcmul_(r, per_channel(slope)).add_(per_channel(offset))
            torch.ops.aten.threshold_backward.grad_input(dr, r, 0, grad_input=dr)
            dy = dr.permute(0, 2, 3, 1).flatten(1, 2)  # (clips, positions, filters), as they lie in memory
            dweights = torch.bmm(columns, dy).sum(0)
            if not ctx.needs_input_grad[0]:
                return dweights, None
            dpatches = torch.bmm(weights[:-1].expand(len(dy), -1, -1), dy.transpose(1, 2))  # (clips, k, positions)
            return dweights, F.fold(dpatches, x[in_x].shape[2:], kernel.shape[2:])

        parts = split(x, kernel, pool)
        dweights, dx_parts = zip(*in_parallel(part_gradients, parts), strict=True)
        dx = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        if dx is not None:
            for (in_x, _), values in zip(parts, dx_parts, strict=True):
                dx[in_x] += values  # neighbouring parts share rows
        *dkernel, dbias = torch.stack(dweights).sum(0)
        return dx, torch.stack(dkernel, 1).view_as(kernel), dbias, dscale, dshift, None, None


def product_weights(kernel: Tensor, bias: Tensor) -> Tensor:
    """Weights (k + 1, filters) with the bias as the last row."""
    return torch.cat([kernel.flatten(1).t(), bias.unsqueeze(0)])


def patches(x: Tensor, kernel: Tensor) -> Tensor:
    """Patches (clips, k + 1, positions) of padded x. `F.unfold` is seven times slower."""
    height, width = convolved_size(x, kernel)
    seen = x.unfold(2, height, 1).unfold(3, width, 1).reshape(len(x), -1, height * width)
    return F.pad(seen, (0, 0, 0, 1), value=1)


def convolve_and_rectify(patches: Tensor, weights: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    """The channels_last r (clips, filters, height, width) of padded x, from its patches (clips, k + 1, positions)."""
    rows = torch.bmm(patches.transpose(1, 2), weights.expand(len(patches), -1, -1)).relu_()
    return rows.unflatten(1, convolved_size(x, kernel)).permute(0, 3, 1, 2)


def per_channel(values: Tensor) -> Tensor:
    """(filters,) -> (filters, 1, 1), to be broadcast over height and width."""
    return values.view(-1, 1, 1)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width: one number stands for both."""
    return (value, value) if isinstance(value, int) else value

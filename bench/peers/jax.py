"""JAX: one compiled program for the whole meta-batch, its tasks in a loop (``lax.map``) or in a batch (``vmap``).

Convolutions are matrix products over gathered columns: on the CPU both forms took three times as long or more with
``lax.conv``. On a GPU, where that is cuDNN's, a batch of tasks is offered with either. Images are [B, H, W, C] inside,
as XLA's products want them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from peers.learner import Learner
from peers.nets import ConvNet

if TYPE_CHECKING:
    from workloads import Workload

    from maml_fast.data import Episodes

Array = Any  # jax.Array, where there is one
QUICKER_COMPILER = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"  # seconds for half minutes


CUDA_BACKENDS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
PRECISIONS = {"highest": "highest", "high": "tensorfloat32"}  # by PyTorch's names for them


class Jax(Learner):
    library = "jax"
    torch_allocates = False
    quick_environment: ClassVar[Mapping[str, str]] = {"XLA_FLAGS": QUICKER_COMPILER}
    over_tasks: ClassVar[str]
    convolution: ClassVar[str] = "gathered"

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        super().__init__(workload, start)
        _set_up(workload.device)
        rest = (workload.inner_steps, workload.order, workload.inner_lr, workload.scored)
        self._losses_and_gradient = _compiled(self.over_tasks, self.convolution, workload.network, *rest)

    @classmethod
    def obstacle(cls, workload: Workload) -> str | None:
        found = super().obstacle(workload)
        if found is None and workload.network is None:
            return "this net is not written in JAX"
        if found is None and workload.device == "cuda" and not any(map(find_spec, CUDA_BACKENDS)):
            return "jax has no backend for CUDA here: pip install 'jax[cuda13]'"
        return found

    def backward(self, episodes: Episodes) -> Tensor:
        import jax

        parameters = [jax.dlpack.from_dlpack(parameter.detach()) for parameter in self.parameters]
        batch = [jax.dlpack.from_dlpack(tensor.contiguous()) for tensor in episodes]
        losses, gradient = jax.block_until_ready(self._losses_and_gradient(parameters, batch))
        for parameter, part in zip(self.parameters, gradient, strict=True):
            part = torch.from_dlpack(part)
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad + part
        return torch.from_dlpack(losses)


class JaxMap(Jax):
    name = "jax-map"
    title = "JAX, lax.map over tasks"
    over_tasks = "map"


class JaxVmap(Jax):
    name = "jax-vmap"
    title = "JAX, vmap over tasks"
    over_tasks = "vmap"
    all_tasks_at_once = True
    copies = 24.0  # nine columns for a pixel


class JaxVmapConv(JaxVmap):
    name = "jax-vmap-conv"
    title = "JAX, vmap over tasks, lax.conv"
    devices = ("cuda",)
    convolution = "lax"
    copies = 12.0


def _set_up(device: str) -> None:
    # Both are read when the first client is made.
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # XLA's threads
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else it takes most of a GPU at once, which PyTorch shares
    import jax

    jax.config.update("jax_platforms", device)
    jax.config.update("jax_enable_x64", True)  # parity is judged in float64; arrays in float32 stay so
    if device == "cuda":  # XLA's own default there is TF32
        jax.config.update("jax_default_matmul_precision", PRECISIONS[torch.get_float32_matmul_precision()])


@lru_cache
def _compiled(
    over_tasks: str,
    convolution: str,
    network: ConvNet,
    steps: int,
    order: int,
    rate: float,
    scored: tuple[int, ...],
) -> Callable[[list[Array], list[Array]], tuple[Array, list[Array]]]:
    """Losses [scored + 1] and the meta-gradient as a function of the parameters and a meta-batch."""
    import jax

    def support_loss(weights: list[Array], x: Array, y: Array) -> Array:
        return _cross_entropy(_logits(network, CONVOLUTIONS[convolution], weights, x), y)

    def query_losses(parameters: list[Array], task: list[Array]) -> tuple[Array, list[Array]]:
        x_spt, y_spt, x_qry, y_qry = task
        weights, losses = parameters, []
        for step in range(steps):
            if step in scored:
                losses.append(support_loss(weights, x_qry, y_qry))
            gradients = jax.grad(support_loss)(weights, x_spt, y_spt)
            if order == 1:
                gradients = jax.lax.stop_gradient(gradients)
            weights = [weight - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
        last = support_loss(weights, x_qry, y_qry)
        return last, [*losses, last]

    def losses_and_gradient(parameters: list[Array], batch: list[Array]) -> tuple[Array, list[Array]]:
        one = jax.value_and_grad(query_losses, has_aux=True)

        def task(each: list[Array]) -> tuple[list[Array], list[Array]]:
            (_, losses), gradient = one(parameters, each)
            return losses, gradient

        losses, gradients = jax.lax.map(task, batch) if over_tasks == "map" else jax.vmap(task)(batch)
        return jax.numpy.stack([loss.mean() for loss in losses]), [gradient.mean(axis=0) for gradient in gradients]

    return jax.jit(losses_and_gradient)


def _cross_entropy(logits: Array, y: Array) -> Array:
    import jax

    right = jax.numpy.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=1) - right).mean()


def _logits(network: ConvNet, convolve: Callable[..., Array], weights: Sequence[Array], x: Array) -> Array:
    """``ConvNet.__call__`` in JAX."""
    import jax

    left = list(weights)
    x = x.transpose(0, 2, 3, 1)  # [B, H, W, C]
    for layer in (layer for block in network.blocks for layer in block):
        if layer == "conv":
            x = convolve(x, left.pop(0), left.pop(0), network.stride, network.padding)
        elif layer == "norm":
            x = _batch_norm(x, left.pop(0) if network.gamma else 1.0, left.pop(0), network.eps)
        elif layer == "relu":
            x = jax.numpy.where(x > 0, x, 0.0)
        elif layer == "pool":
            x = _max_pool(x)
    weight, bias = left
    features = x.mean(axis=(1, 2)) if network.average else x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    return features @ weight.T + bias


def _gathered_convolution(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    import jax

    out, _, *kernel = weight.shape
    x = jax.numpy.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    last = [size - k for size, k in zip(x.shape[1:3], kernel, strict=True)]
    taps = [
        x[:, i : i + last[0] + 1 : stride, j : j + last[1] + 1 : stride]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    columns = jax.numpy.concatenate(taps, axis=-1)  # [B, H', W', taps * C]
    return columns @ weight.transpose(2, 3, 1, 0).reshape(-1, out) + bias


def _lax_convolution(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    import jax

    layout = ("NHWC", "OIHW", "NHWC")
    pads = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(x, weight, (stride, stride), pads, dimension_numbers=layout) + bias


CONVOLUTIONS = {"gathered": _gathered_convolution, "lax": _lax_convolution}


def _batch_norm(y: Array, gamma: Array | float, beta: Array, eps: float) -> Array:
    mean = y.mean(axis=(0, 1, 2))
    variance = ((y - mean) ** 2).mean(axis=(0, 1, 2))
    return (y - mean) / (variance + eps) ** 0.5 * gamma + beta


def _max_pool(x: Array) -> Array:
    """2x2. Not ``x.reshape(...).max(...)``, whose gradient is wrong in XLA's fusions for the CPU."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * rows, : 2 * columns]
    x = x.reshape(x.shape[0], rows, 2, 2 * columns, -1)
    x = _larger(x[:, :, 0], x[:, :, 1])
    x = x.reshape(x.shape[0], rows, columns, 2, -1)
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(a: Array, b: Array) -> Array:
    import jax

    return jax.numpy.where(a >= b, a, b)

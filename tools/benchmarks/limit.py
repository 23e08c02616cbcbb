"""The convolutions and matrix products of some work, recorded and run again on their own.

The time of these calls is a limit for the work: what an implementation with PyTorch's products
could reach if all else were free. Convolutions by ``ddgan.ops`` are recorded as PyTorch's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_aten = torch.ops.aten
PRODUCTS = {
    _aten.convolution,
    _aten.convolution_backward,
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    # Attention's two products, and their softmax, are one call.
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward,
    _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_backward,
    _aten._scaled_dot_product_efficient_attention,
    _aten._scaled_dot_product_efficient_attention_backward,
    _aten._scaled_dot_product_cudnn_attention,
    _aten._scaled_dot_product_cudnn_attention_backward,
}


def _as_pytorch(func: torch._ops.OpOverload, args: tuple) -> tuple | None:
    """PyTorch's product and its arguments for the call of a product, else None."""
    if func.overloadpacket in PRODUCTS:
        return func, *args
    name = str(func.overloadpacket)  # ours exist only where they are built
    if name == "ddgan.conv3x3":
        *tensors, transposed = args
        return _aten.convolution, *tensors, [1, 1], [1, 1], [1, 1], transposed, [0, 0], 1
    if name == "ddgan.conv3x3_weight":
        x, grad, bias, _ = args
        weight = x.new_empty(grad.shape[1], x.shape[1], 3, 3)
        shape = ([grad.shape[1]], [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        return _aten.convolution_backward, grad, x, weight, *shape, [False, True, bias]
    return None


class _Recorder(TorchDispatchMode):
    """Notes each call of a product with stand-ins of its tensors, one per shape and layout."""

    def __init__(self, layout: torch.memory_format | None):
        super().__init__()
        self.layout = layout
        self.calls: list[Callable[[], object]] = []
        self._stand_ins: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        call = _as_pytorch(func, args)
        if call is not None:
            keep = (lambda x: x) if "attention" in func.__name__ else self._stand_in
            product, *arguments = call
            arguments, options = tree_map(keep, (arguments, kwargs or {}))
            self.calls.append(partial(product, *arguments, **options))
        return func(*args, **(kwargs or {}))

    def _stand_in(self, x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        key = (x.shape, x.stride(), x.dtype)
        if key not in self._stand_ins:
            # Strides may be 0: a gradient that is the same for all pixels.
            extent = 1 + sum((n - 1) * step for n, step in zip(*key[:2], strict=True))
            values = torch.randn(extent, device=x.device).to(x.dtype)
            copy = values.as_strided(x.shape, x.stride())
            if self.layout is not None and x.ndim == 4:
                copy = copy.contiguous(memory_format=self.layout)
            self._stand_ins[key] = copy
        return self._stand_ins[key]


def products_of(
    work: Callable[[], object], layout: torch.memory_format | None = None
) -> Callable[[], None]:
    """Do ``work`` once and return a call that makes its convolutions and matrix products alone.

    Each product is one that the work computed: an operator that computes only the gradients asked
    for does the same here. Images lie in memory as the work had them, or in ``layout``. The
    values are random.
    """
    with _Recorder(layout) as recorder:
        work()
    calls = recorder.calls

    @torch.no_grad()
    def run() -> None:
        for call in calls:
            call()

    run.count = len(calls)
    return run


def limits_of(work: Callable[[], object], channels_last: bool) -> dict[str, Callable[[], None]]:
    """The products of ``work`` in its own layout, named "limit", and in the other one.

    ``channels_last`` says that the work's own layout is NHWC.
    """
    other = torch.contiguous_format if channels_last else torch.channels_last
    name = "limit, NCHW" if channels_last else "limit, NHWC"
    return {"limit": products_of(work), name: products_of(work, other)}

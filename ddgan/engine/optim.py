"""Optimizer wrappers: one per network, with mixed precision on any device."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper as MMOptimWrapper
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ddgan.errors import ConfigError
from ddgan.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def usable_amp(amp: str, device: torch.device) -> str:
    """``amp``, or ``"fp16"`` instead of ``"bf16"`` on a GPU that has no bf16, with a warning.

    GPUs before Ampere, as the V100, convert bf16 in software, slower than without autocast.
    """
    if amp != "bf16" or device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0):
        return amp
    warnings.warn(
        f"amp is 'bf16', which {torch.cuda.get_device_name(device)} does not compute; training "
        "with 'fp16' and a loss scale instead (choose it by --amp fp16)",
        stacklevel=2,
    )
    return "fp16"


class SkipCounter:
    """Counts, on the device, the updates skipped because their gradient was not finite."""

    def __init__(self) -> None:
        # In total, in the current row, in the longest row.
        self._counts: Tensor | None = None

    def add(self, skipped: Tensor) -> None:
        """Count one update; ``skipped`` is a boolean scalar. The device is not waited for."""
        if self._counts is None:
            self._counts = torch.zeros(3, dtype=torch.int64, device=skipped.device)
        total, row, longest = self._counts.unbind()
        row = (row + 1) * skipped
        self._counts = torch.stack([total + skipped, row, torch.maximum(longest, row)])

    def read(self) -> tuple[int, int, int]:
        """How many were skipped in total, in the current row, and in the longest row."""
        return (0, 0, 0) if self._counts is None else tuple(self._counts.tolist())


@OPTIM_WRAPPERS.register_module()
class PrecisionOptimWrapper(MMOptimWrapper):
    """An optimizer with autocast to ``amp`` (``"off"``, ``"bf16"`` or ``"fp16"``).

    fp16 scales the loss. A step whose gradient is not finite is skipped, in any precision, and
    counted in ``skips``. The norm of the last gradient is ``grad_norm``. Both stay on the device.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        amp: str = "off",
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
    ):
        super().__init__(optimizer, accumulative_counts, clip_grad)
        if amp not in _DTYPES:
            raise ValueError(f"amp is {amp!r}; expected one of {[*_DTYPES]}")
        device = self.optimizer.param_groups[0]["params"][0].device
        amp = usable_amp(amp, device)
        self.dtype = _DTYPES[amp]
        self.device_type = device.type
        if amp == "fp16" and self.device_type != "cuda":
            raise ConfigError("amp is 'fp16', which needs a CUDA device; use 'bf16' or 'off'")
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=amp == "fp16")
        self.accumulative_counts = accumulative_counts
        self.skips = SkipCounter()
        self.grad_norm: Tensor | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute in the chosen precision; gradients are synchronised only before a step."""
        with (
            super().optim_context(model),
            torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None),
        ):
            yield

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of the (scaled) loss."""
        with torch.autocast(self.device_type, enabled=False):
            super().backward(self.scaler.scale(loss))

    def step(self) -> None:
        """Clip if asked and update the parameters, unless the gradient is not finite."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        parameters = self._parameters()
        self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters])
        skip = ~self.grad_norm.isfinite()
        self.skips.add(skip)
        if self.clip_grad_kwargs:
            # mmengine's own way to call it reads the norm, for which it waits for the device.
            self.clip_func(parameters, **self.clip_grad_kwargs)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # Private to torch (2.6 to 2.13): fused optimizers read on the device whether to skip,
            # as GradScaler makes them do, but without its pass over the gradients.
            self.optimizer.grad_scale, self.optimizer.found_inf = None, skip.float()
            self.optimizer.step()
            del self.optimizer.grad_scale, self.optimizer.found_inf
        elif not skip:
            # Other optimizers cannot; this waits for the device.
            self.optimizer.step()

    def state_dict(self) -> dict:
        """Return the state of the optimizer and, in fp16, of the loss scale."""
        state = super().state_dict()
        if self.scaler.is_enabled():
            state["loss_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the optimizer and the loss scale, if the state has one."""
        state = dict(state_dict)
        if (scaler := state.pop("loss_scaler", None)) and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)
        super().load_state_dict(state)

    def _parameters(self) -> list[Tensor]:
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.grad is not None]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PerNetworkOptimWrapperConstructor:
    """Build one optimizer wrapper for each named child of the model.

    The config is ``dict(generator=dict(optimizer=dict(type="Adam", …)), discriminator=…)``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        if paramwise_cfg:
            raise ConfigError("optim_wrapper.paramwise_cfg is not supported; remove it")
        self.config = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Return the wrappers of a model's children, by name."""
        trainable = {
            n for n, c in model.named_children() if any(p.requires_grad for p in c.parameters())
        }
        if set(self.config) != trainable:
            raise ConfigError(
                f"optim_wrapper has {sorted(self.config)}; expected an entry for each network that "
                f"is trained: {sorted(trainable)}"
            )
        return OptimWrapperDict(
            **{name: _build_wrapper(cfg, getattr(model, name)) for name, cfg in self.config.items()}
        )


def build_optim_wrappers(config: Mapping, model: nn.Module) -> OptimWrapperDict:
    """Return the optimizer wrappers of a model that a config's ``optim_wrapper`` describes."""
    wrappers = dict(config)
    constructor = {"type": wrappers.pop("constructor"), "optim_wrapper_cfg": wrappers}
    return OPTIM_WRAPPER_CONSTRUCTORS.build(constructor)(model)


def _build_wrapper(cfg: dict, network: nn.Module) -> MMOptimWrapper:
    cfg = dict(cfg)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS.build({**cfg.pop("optimizer"), "params": parameters})
    cfg.setdefault("type", "PrecisionOptimWrapper")
    return OPTIM_WRAPPERS.build({**cfg, "optimizer": optimizer})

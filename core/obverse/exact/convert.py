"""From a float model to its exact form: every layer is replaced, the wiring stays.

A model's `forward` is kept as it is and runs on float64. It may use layers that have an exact form, and between them
operations that are exact or correctly rounded one at a time (`obverse.exact.audit` tells).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.exact import layers, tables
from obverse.exact.attention import Attend
from obverse.nn import attention, exponential, gdn, llama, masked, next_scale, norms

M = TypeVar("M", bound=nn.Module)
Form = Callable[[M], nn.Module]

_forms: dict[type[nn.Module], Callable[..., nn.Module]] = {}


def exact_form(kind: type[M]) -> Callable[[Form[M]], Form[M]]:
    """Register how layers of a class become exact; for plugins that have layers of their own.

        @exact_form(MyNorm)
        def _(layer: MyNorm) -> nn.Module:
            return ExactMyNorm(layer.weight)

    Subclasses of `kind` need a registration of their own.
    """

    def register(form: Form[M]) -> Form[M]:
        _forms[kind] = form
        return form

    return register


def convert(module: M) -> M:
    """The exact form of a model, made from its weights by rounding; the model itself is not changed.

    Layers with a registered form are replaced. Other modules keep their class and their `forward`; their own
    floating-point parameters and buffers become float64.

    Raises:
        ConfigError: a layer of torch has no exact form, or weights cannot be rounded; the line names the layer.
    """
    return cast(M, _converted(module, ""))


def _converted(module: nn.Module, name: str) -> nn.Module:
    kind = type(module)
    if kind in _forms:
        try:
            form = _forms[kind](module)
        except ConfigError as error:
            raise ConfigError(f"{name or kind.__name__}: {error}") from None
        return form.train(module.training)
    if kind.__module__.startswith("torch.nn.modules") and kind not in _CONTAINERS:
        raise ConfigError(f"{name or kind.__name__}: {kind.__name__} has no exact form (known: {_known()})")
    twin = copy.copy(module)
    twin._parameters = {k: None if v is None else _frozen(v) for k, v in module._parameters.items()}
    twin._buffers = {k: None if v is None else _widened(v) for k, v in module._buffers.items()}
    for key, value in vars(twin).items():
        if key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            vars(twin)[key] = copy.copy(value)
    prefix = f"{name}." if name else ""
    twin._modules = {k: None if v is None else _converted(v, prefix + k) for k, v in module._modules.items()}
    return twin


_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def _known() -> str:
    return ", ".join(sorted(kind.__name__ for kind in _forms))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def _frozen(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(_widened(parameter), requires_grad=False)


class Function(nn.Module):
    """A function of one tensor as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), with w1 and w3 as one product."""

    def __init__(self, w1: Tensor, w3: Tensor, w2: Tensor) -> None:
        super().__init__()
        self.gates = layers.Linear(torch.cat([w1.detach(), w3.detach()]))
        self.w2 = layers.Linear(w2)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gates(x).chunk(2, -1)
        return self.w2(tables.silu(gate) * value)  # type: ignore[no-any-return]


@exact_form(nn.Linear)
def _linear(layer: nn.Linear) -> nn.Module:
    return layers.Linear(layer.weight, layer.bias)


@exact_form(nn.Embedding)
def _embedding(layer: nn.Embedding) -> nn.Module:
    return layers.Embedding(layer.weight)


@exact_form(nn.LayerNorm)
def _layer_norm(layer: nn.LayerNorm) -> nn.Module:
    if len(layer.normalized_shape) != 1:
        raise ConfigError(f"LayerNorm over {len(layer.normalized_shape)} axes has no exact form, only over one")
    return layers.LayerNorm(layer.weight, layer.bias, layer.eps)


@exact_form(norms.RMSNorm)
def _rms_norm(layer: norms.RMSNorm) -> nn.Module:
    return layers.RMSNorm(layer.weight, layer.eps)


@exact_form(norms.UnitNorm)
def _unit_norm(layer: norms.UnitNorm) -> nn.Module:
    return layers.UnitNorm(layer.eps)


@exact_form(attention.Attend)
def _attend(layer: attention.Attend) -> nn.Module:
    return Attend()


@exact_form(next_scale.HeadScale)
def _head_scale(layer: next_scale.HeadScale) -> nn.Module:
    return layers.HeadScale(layer.log_scale, next_scale.MAX_LOG_SCALE)


@exact_form(llama.FeedForward)
def _feed_forward(layer: llama.FeedForward) -> nn.Module:
    return SwiGLU(layer.w1.weight, layer.w3.weight, layer.w2.weight)


@exact_form(gdn.GDN)
def _gdn(layer: gdn.GDN) -> nn.Module:
    return layers.GDN(layer.beta, layer.gamma, layer.inverse)


@exact_form(nn.Conv2d)
def _conv(layer: nn.Conv2d) -> nn.Module:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ConfigError(f"convolution with {layer.padding_mode!r} padding of {layer.padding!r} has no exact form")
    stride, padding, dilation = (_pair(value) for value in (layer.stride, layer.padding, layer.dilation))
    return layers.Conv2d(layer.weight, layer.bias, stride, padding, dilation, layer.groups)


@exact_form(masked.MaskedConv2d)
def _masked_conv(layer: masked.MaskedConv2d) -> nn.Module:
    assert not isinstance(layer.padding, str)
    return layers.MaskedConv2d(layer.weight, layer.bias, layer.mask[0, 0] != 0, _pair(layer.padding))


@exact_form(nn.ConvTranspose2d)
def _conv_transpose(layer: nn.ConvTranspose2d) -> nn.Module:
    if layer.groups != 1 or _pair(layer.dilation) != (1, 1):
        raise ConfigError("transposed convolution with groups or dilation has no exact form")
    assert not isinstance(layer.padding, str)
    sizes = (_pair(value) for value in (layer.stride, layer.padding, layer.output_padding))
    return layers.ConvTranspose2d(layer.weight, layer.bias, *sizes)


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]


@exact_form(nn.SiLU)
def _silu(layer: nn.SiLU) -> nn.Module:
    return Function(tables.silu)


@exact_form(nn.GELU)
def _gelu(layer: nn.GELU) -> nn.Module:
    return Function(tables.gelu_tanh if layer.approximate == "tanh" else tables.gelu)


@exact_form(nn.Sigmoid)
def _sigmoid(layer: nn.Sigmoid) -> nn.Module:
    return Function(tables.sigmoid)


@exact_form(nn.Tanh)
def _tanh(layer: nn.Tanh) -> nn.Module:
    return Function(tables.tanh)


@exact_form(exponential.Exp)
def _exp(layer: exponential.Exp) -> nn.Module:
    return Function(tables.exp)


@exact_form(nn.Softplus)
def _softplus(layer: nn.Softplus) -> nn.Module:
    if layer.beta != 1:
        raise ConfigError(f"softplus with beta {layer.beta} has no exact form, only with 1")
    return Function(tables.softplus)


def _as_it_is(layer: nn.Module) -> nn.Module:
    return copy.copy(layer)


for _kind in (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.PixelShuffle, nn.PixelUnshuffle, nn.Flatten):
    _forms[_kind] = _as_it_is

"""Weights of a codec: files in our names, `encoder.…`, `quantizer.…` and `prior.…`, or official checkpoints.

In safetensors of our own, matrices may be stored as int8 with one float scale per row, under `KEY` and `KEY.scale`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from obverse.checkpoints import read_checkpoint, translated
from obverse.errors import PluginError, WeightsError

_SCALE = ".scale"


def load_weights(files: Sequence[Path], modules: Mapping[str, nn.Module]) -> None:
    """Fill modules, strictly. Their tensors become copies of the files', in the modules' own dtypes.

    Args:
        files: of any kind that `read_checkpoint` reads, in order; of tensors in several files the last one counts.
        modules: by the prefix of their tensors; parameters may be without data (`obverse.pipeline.build_hollow`).
            Tensors of a part that is not here are left alone.

    Raises:
        WeightsError: a file cannot be read, or keys or shapes differ from the modules'.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= translated(file, read_tensors(file))
    where = ", ".join(str(f) for f in files) or "no weights given"
    for prefix, module in modules.items():
        expected = module.state_dict()
        own = {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}
        problems = differences(expected, own)
        if problems:
            hint = f"; no file holds tensors of the {prefix}" if files and not own else ""
            raise WeightsError(f"weights of the {prefix} do not fit ({where}): {problems}{hint}")
        # Copies, so that files can be replaced while the codec lives.
        copies = {key: own[key].to(value.dtype, copy=True) for key, value in expected.items()}
        module.load_state_dict(copies, strict=True, assign=True)
        empty = [key for key, value in module.state_dict().items() if value.is_meta]
        if empty:
            raise PluginError(f"{type(module).__name__} does not take {empty[0]!r} from load_state_dict(assign=True)")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file under its own names, int8 matrices expanded to float32."""
    stored = read_checkpoint(file)
    scales = {key + _SCALE for key, value in stored.items() if value.dtype == torch.int8 and key + _SCALE in stored}
    return {
        k: _expand(v, stored[k + _SCALE]) if k + _SCALE in scales else v for k, v in stored.items() if k not in scales
    }


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, int8: bool) -> None:
    """Write floating-point tensors as float16, or matrices as int8 with a scale per row; integers as they are.

    Args:
        file: path to write.
        tensors: by full name.
        metadata: strings to keep beside them: source, licence and so on.
        int8: store floating-point tensors of two or more axes as int8.
    """
    stored: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not value.is_floating_point():
            stored[key] = value.contiguous()
        elif int8 and value.ndim >= 2:
            rows = value.float().flatten(1)
            scale = (rows.abs().amax(1) / 127).clamp(min=1e-12)
            stored[key] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape).contiguous()
            stored[key + _SCALE] = scale
        else:
            stored[key] = value.half().contiguous()
    save_file(stored, file, metadata=dict(metadata))


def read_metadata(file: Path) -> dict[str, str]:
    """The strings beside the tensors, without reading the tensors."""
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"weights {str(file)!r} cannot be read as safetensors: {error}") from error


def _expand(value: Tensor, scale: Tensor) -> Tensor:
    return value.float() * scale.view(-1, *[1] * (value.ndim - 1))


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What is wrong with given tensors, in words; nothing where keys and shapes are the same."""
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    shapes = [
        f"{key} is {tuple(given[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & given.keys())
        if given[key].shape != expected[key].shape
    ]
    listed = [("missing", missing), ("unexpected", unexpected), ("other shapes", shapes)]
    return "; ".join(f"{name}: {', '.join(keys[:4])}{_more(keys)}" for name, keys in listed if keys)


def _more(keys: Sequence[str]) -> str:
    return f" and {len(keys) - 4} more" if len(keys) > 4 else ""

"""A frozen tokenizer: the encoder and the quantizer of a codec, without its prior."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from obverse.config import load_config, weights_source
from obverse.errors import ConfigError, WeightsError
from obverse.hub import HubFile
from obverse.interfaces import Coded, Condition, Encoder, Layout, Quantizer
from obverse.pipeline import create
from obverse.weights import load_backbone, load_weights

_KEYS = ("codec", "quality", "encoder", "quantizer", "weights", "encoding_weights")


class Tokenizer:
    """Pictures to tokens, as the codec makes them: in float32, without gradients.

    Attributes:
        name: of the codec, or of the encoder where it is made of parts.
        parts: sections `encoder` and `quantizer`.
        encoder, quantizer: the parts.
        modules: the parts that have weights, by the prefix of their tensors.
        encoding_weights: where the weights of the encoder's backbone lie, if it has one.
        vocabulary: V, number of tokens.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Mapping[str, Any]],
        weights: Sequence[Path | HubFile],
        encoding_weights: Sequence[Path | HubFile] = (),
    ) -> None:
        self.name = name
        self.parts = {part: dict(parts[part]) for part in ("encoder", "quantizer")}
        self.encoder: Encoder = create("encoder", parts["encoder"])
        offered = {key: getattr(self.encoder, key) for key in ("channels", "qualities")}
        self.quantizer: Quantizer = create("quantizer", parts["quantizer"], offered)
        if not self.quantizer.context_free or list(self.quantizer.alphabets) != ["tokens"]:
            raise ConfigError(f"{name} has no tokens: its quantizer {parts['quantizer']['name']!r} makes other symbols")
        self.vocabulary = int(self.quantizer.alphabets["tokens"] or 0)
        self.encoding_weights = tuple(encoding_weights)
        modules = {"encoder": self.encoder, "quantizer": self.quantizer}
        self.modules: dict[str, nn.Module] = {k: part for k, part in modules.items() if isinstance(part, nn.Module)}
        self._load(_fetch(weights), encoding_weights)
        for module in self.modules.values():
            module.requires_grad_(False).eval()

    def _load(self, files: Sequence[Path], encoding_weights: Sequence[Path | HubFile]) -> None:
        """Fill the parts; tensors of a prior in the same files are left alone."""
        load_weights(files, self.modules)
        if not self.encoder.has_backbone or load_backbone(files, self.encoder):
            return
        if not load_backbone(_fetch(encoding_weights), self.encoder):
            raise WeightsError(f"tokenizer {self.name}: no file holds the weights of the encoder's backbone")

    @classmethod
    def of_codec(
        cls, source: str | Path, *, quality: int | None = None, weights: Sequence[str | Path] = (), **changes: Any
    ) -> Tokenizer:
        """Of a codec by name or configuration file; arguments as for `obverse.load`."""
        config = load_config(source, quality=quality, weights=weights, **changes)
        try:
            return cls(config.name, config.parts, config.weights, config.encoding_weights)
        except WeightsError as error:
            raise (config.without_weights(error) if config.weights else config.without_weights()) from error

    @classmethod
    def of_section(cls, section: Mapping[str, Any]) -> Tokenizer:
        """Of a section of a training configuration.

        Args:
            section: `codec`, a name or the path of a YAML file, and `weights` in place of its own; or `encoder`,
                `quantizer` and `weights`, and `encoding_weights` for an encoder with a backbone. Weights are one file
                or a list.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        unknown = [key for key in section if key not in _KEYS]
        if unknown or ("codec" in section) == ("encoder" in section) or ("encoder" in section) != (
            "quantizer" in section
        ):  # fmt: skip
            raise ConfigError(
                f"a tokenizer is {{codec, weights}} or {{encoder, quantizer, weights}}, not {{{', '.join(section)}}}"
            )
        weights, encoding = (_listed(section.get(key)) for key in ("weights", "encoding_weights"))
        if "codec" in section:
            changes = [f"encoding_weights=[{','.join(encoding)}]"] if encoding else []
            return cls.of_codec(section["codec"], quality=section.get("quality"), weights=weights, overrides=changes)
        sources = [[weights_source(file, Path()) for file in files] for files in (weights, encoding)]
        return cls(str(section["encoder"]["name"]), section, *sources)

    def to(self, device: str) -> torch.device:
        """Move the parts to a device.

        Raises:
            ConfigError: there is no such device here.
        """
        try:
            found = torch.device(device)
            for module in self.modules.values():
                module.to(found)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device {device!r} cannot run tokenizer {self.name}: {error}") from error
        return found

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Tokens [B, n] int64 of images [B, 3, H, W] in [0, 1]."""
        for module in self.modules.values():
            module.to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            latents = self.encoder.encode(images.float(), Condition())
            return self.quantizer.symbols(latents)["tokens"]

    @torch.no_grad()
    def codes(self) -> Tensor:
        """What each token stands for, [V, D] float32.

        Raises:
            ConfigError: its tokens do not stand for one cell of the latents each.
        """
        if self.quantizer.count is not None:
            raise ConfigError(
                f"tokenizer {self.name} has no code vector per token: its tokens share the latents' cells"
            )
        tokens = torch.arange(self.vocabulary)[None]
        row = self.quantizer.dequantize([Coded("tokens", tokens)], Layout(1, 1, self.vocabulary))["tokens"]
        return rearrange(row.float().cpu(), "1 d 1 v -> v d")

    @property
    def usual_side(self) -> int:
        """Side in pixels of crops for it: the only one that it takes, or the largest up to 256."""
        return self.encoder.tile or max(1, 256 // self.encoder.multiple) * self.encoder.multiple

    def check_size(self, height: int, width: int) -> None:
        """Refuse crops of a size that the encoder does not take.

        Raises:
            ConfigError: it is no multiple of the encoder's, or not its only one.
        """
        encoder = self.encoder
        if encoder.tile is not None and (height, width) != (encoder.tile, encoder.tile):
            raise ConfigError(f"tokenizer {self.name} takes {encoder.tile}x{encoder.tile} pixels, not {width}x{height}")
        if height % encoder.multiple or width % encoder.multiple:
            raise ConfigError(
                f"tokenizer {self.name} takes multiples of {encoder.multiple} pixels, not {width}x{height}"
            )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the latent grid of images of a size."""
        return self.encoder.cells(height, width)

    def state(self) -> dict[str, Tensor]:
        """The tensors of the parts under the codec's keys, without those of a backbone."""
        tensors = {f"{part}.{k}": v for part, module in self.modules.items() for k, v in module.state_dict().items()}
        return {key: value for key, value in tensors.items() if not key.startswith("encoder.backbone.")}

    def fingerprint(self) -> str:
        """Hexadecimal digest of the parts' configuration and tensors, a backbone's left out."""
        digest = hashlib.sha256(json.dumps(self.parts, sort_keys=True, default=str).encode())
        for key, value in sorted(self.state().items()):
            digest.update(f"{key} {list(value.shape)}".encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _fetch(weights: Sequence[Path | HubFile]) -> list[Path]:
    return [file.fetch() if isinstance(file, HubFile) else file for file in weights]


def _listed(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else [str(file) for file in given or []]

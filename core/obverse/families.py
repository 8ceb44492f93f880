"""Codecs with one checkpoint per quality, of which several are tried on a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.config import CodecConfig, load_config
from obverse.errors import RateError
from obverse.quality_search import highest_within

if TYPE_CHECKING:
    from obverse.codec import Codec


def compress_within(
    image: Any,
    max_bytes: int,
    source: str | Path = "pocket-vq",
    *,
    label: int | None = None,
    chunks: Mapping[str, bytes] | None = None,
    verify: bool = False,
    device: str = "cpu",
    numerics: str | None = None,
) -> bytes:
    """Write an image as a stream of at most so many bytes, of the highest quality that a codec has for it.

    The same as `Codec.compress` with `max_bytes`, for codecs whose qualities are in one network. Of those that have a
    checkpoint for each, some are loaded, one after the other: at most 4 of 8.

    Args:
        image: one image.
        max_bytes: of the whole stream.
        source: name of an installed codec, or path of a YAML file.
        label, chunks, verify: as for `Codec.compress`.
        device, numerics: as for `load`.

    Raises:
        RateError: the image does not fit in `max_bytes`.
        ObverseError: as for `load` and `Codec.compress`.
    """
    from obverse.codec import from_config

    def load(config: CodecConfig) -> Codec:
        return from_config(config, device, numerics)

    return within(load_config(source), load, image, max_bytes, label=label, chunks=chunks, verify=verify)


def within(
    config: CodecConfig, load: Callable[[CodecConfig], Codec], image: Any, max_bytes: int, **options: Any
) -> bytes:
    """As `compress_within`.

    Args:
        config: of the codec; of any of its checkpoints.
        load: makes a codec ready.
        image: one image.
        max_bytes: of the whole stream.
        options: further arguments of `Codec.compress`.
    """

    def compress(quality: int) -> bytes:
        data: bytes = load(config.at(quality)).compress(image, **options)
        return data

    if config.qualities is not None:
        try:
            return highest_within(compress, len, max_bytes, range(1, config.qualities + 1))
        except RateError:
            config = config.at(1)
    data: bytes = load(config).compress(image, max_bytes=max_bytes, **options)
    return data

"""Which codec wrote a stream: found and compared by name and fingerprint, without loading a network."""

from __future__ import annotations

from obverse.config import CodecConfig, installed_codecs
from obverse.container import Header
from obverse.errors import UnknownCodecError, WeightsError, WrongWeightsError
from obverse_registry import registry


def named_configs(header: Header) -> list[CodecConfig]:
    """Installed codecs of the name that a stream gives, whatever their weights; seldom more than one."""
    return [config for config in installed_codecs(header.tag) if config.tag() == header.tag]


def find_config(header: Header, *, fetch: bool = False) -> CodecConfig:
    """The installed codec that wrote a stream; needs no network to be loaded.

    Args:
        header: of the stream.
        fetch: get the weights of codecs of that name from the hub where they are not on this machine.

    Raises:
        UnknownCodecError: none of that name.
        WrongWeightsError: the name is installed, with another configuration or other weights.
        WeightsError: the codec is installed, its weights are not.
    """
    named: list[CodecConfig] = []
    unreadable: WeightsError | None = None
    for config in installed_codecs(header.tag):
        if config.tag() != header.tag:
            continue
        config = written_by(config, header)
        named.append(config)
        try:
            if fetch:
                config.fetch()
            if _same_quality(config, header) and config.fingerprint() == header.fingerprint:
                return config
        except WeightsError as error:
            unreadable = config.without_weights(error)
    if unreadable is not None:
        raise unreadable
    if named:
        raise _other_weights(named[0], header)
    wrote = _name(header)
    failed = [plugin.name for plugin in registry().failures()]
    raise UnknownCodecError(
        f"no installed codec wrote this stream{f' (it says {wrote!r})' if wrote else f' (tag {header.tag.hex()})'}; "
        f"install the plugin that has it{f', or mend the plugins that failed to load: {failed}' if failed else ''}"
    )


def written_by(config: CodecConfig, header: Header) -> CodecConfig:
    """Of a codec with one checkpoint per quality, the configuration of the one that a stream names; others as they are.

    Whether it is the right codec is for `check_origin` to say.
    """
    there = config.qualities is not None and header.tag == config.tag() and header.quality < config.qualities
    return config.at(header.quality + 1) if there else config


def check_origin(config: CodecConfig, header: Header) -> None:
    """Refuse a stream that another codec wrote. Weights of the hub are fetched where the name is right.

    Raises:
        UnknownCodecError: one of another name.
        WrongWeightsError: one of this name, with another configuration or other weights, or another of its checkpoints.
        WeightsError: the weights of this one are missing.
    """
    if header.tag != config.tag():
        wrote = _name(header)
        raise UnknownCodecError(
            f"the stream was written by another codec{f', {wrote!r}' if wrote else ''}, not {config.name!r}"
        )
    try:
        config.fetch()
        if not _same_quality(config, header) or header.fingerprint != config.fingerprint():
            raise _other_weights(config, header)
    except WeightsError as error:
        raise config.without_weights(error) from error


def _other_weights(config: CodecConfig, header: Header) -> WrongWeightsError:
    if not _same_quality(config, header):
        return WrongWeightsError(
            f"the stream was written with the checkpoint of quality {header.quality + 1}, this is {config} of "
            f"{config.qualities}; load that quality"
        )
    return WrongWeightsError(
        f"the stream was written by {config} with another configuration or other weights "
        f"(fingerprint {header.fingerprint.hex()}, here {config.fingerprint().hex()}); "
        "give the same --config, parts and --weights as for compressing"
    )


def _same_quality(config: CodecConfig, header: Header) -> bool:
    """Whether a configuration of one checkpoint is that of the quality that a stream names."""
    return config.qualities is None or header.quality + 1 == config.quality


def _name(header: Header) -> str:
    """The codec's name that a stream tells, or nothing."""
    return header.chunks.get("name", b"").decode(errors="replace")

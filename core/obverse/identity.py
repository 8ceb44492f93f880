"""Which installed codec wrote a stream: found by name and fingerprint, without loading a network."""

from __future__ import annotations

from obverse.config import CodecConfig, installed_codecs
from obverse.container import Header
from obverse.errors import UnknownCodecError, WeightsError, WrongWeightsError
from obverse_registry import registry


def named_configs(header: Header) -> list[CodecConfig]:
    """Installed codecs of the name that a stream gives, whatever their weights; seldom more than one."""
    return [config for config in installed_codecs() if config.tag() == header.tag]


def find_config(header: Header) -> CodecConfig:
    """The installed codec that wrote a stream; needs no network to be loaded.

    Raises:
        UnknownCodecError: none of that name.
        WrongWeightsError: the name is installed, with another configuration or other weights.
        WeightsError: the codec is installed, its weights are not.
    """
    named = named_configs(header)
    unreadable: WeightsError | None = None
    for config in named:
        try:
            if config.fingerprint() == header.fingerprint:
                return config
        except WeightsError as error:
            unreadable = error
    if unreadable is not None:
        raise unreadable
    if named:
        raise WrongWeightsError(
            f"the stream was written by codec {named[0].name!r} with another configuration or other weights "
            f"(fingerprint {header.fingerprint.hex()}); give the same --config, parts and --weights as for compressing"
        )
    wrote = header.chunks.get("name", b"").decode(errors="replace")
    failed = [plugin.name for plugin in registry().failures()]
    raise UnknownCodecError(
        f"no installed codec wrote this stream{f' (it says {wrote!r})' if wrote else f' (tag {header.tag.hex()})'}; "
        f"install the plugin that has it{f', or mend the plugins that failed to load: {failed}' if failed else ''}"
    )

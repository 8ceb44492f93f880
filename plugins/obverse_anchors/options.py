"""Options that several anchors have."""

from __future__ import annotations

from obverse.errors import ConfigError

CHROMA_FORMATS = ("4:2:0", "4:4:4")


def check_choice(name: str, option: str, value: str, choices: tuple[str, ...]) -> str:
    """One of a few words.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in choices:
        raise ConfigError(f"{name}: {option} takes {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")
    return value


def check_level(name: str, option: str, value: int, lowest: int, highest: int) -> int:
    """A whole number in a range.

    Raises:
        ConfigError: it is none.
    """
    if type(value) is not int or not lowest <= value <= highest:
        raise ConfigError(f"{name}: {option} takes a whole number from {lowest} to {highest}, not {value!r}")
    return value

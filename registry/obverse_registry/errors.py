"""What can go wrong with names and plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class RegistryError(Exception):
    """Root of the registry's errors: a malformed component, a plugin or a target that does not load."""


class UnknownComponentError(RegistryError, LookupError):
    """No installed plugin provides a component of that kind and name."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, or an empty string."""
    import difflib  # only on the way to an error: a listing should not pay for it

    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""

"""Exact arithmetic: models whose numbers are the same on every machine. docs/exactness.md says why.

prior = convert(prior)          # from a float model with its weights
with audit():                   # while testing: is the wiring exact as well?
    ...
"""

from obverse.exact.audit import InexactError, audit, trusted
from obverse.exact.backends import BACKENDS, use_backend
from obverse.exact.convert import convert, exact_form

__all__ = ["BACKENDS", "InexactError", "audit", "convert", "exact_form", "trusted", "use_backend"]

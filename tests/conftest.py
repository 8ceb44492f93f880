"""Settings of all tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("obverse.testing")
settings.register_profile("obverse", deadline=None, derandomize=True)  # the same examples on every machine
settings.load_profile("obverse")

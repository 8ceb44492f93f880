"""Settings of all tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("obverse.testing")
settings.register_profile("obverse", deadline=None, derandomize=True)  # the same examples on every machine
settings.load_profile("obverse")
torch.set_num_threads(1)  # the networks here are small: more threads only wait for each other

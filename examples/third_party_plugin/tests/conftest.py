"""Failing asserts of the contract suites show their values."""

import pytest

pytest.register_assert_rewrite("obverse.testing")

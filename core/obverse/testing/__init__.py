"""Contract tests for plugin authors. Subclass one, say how your component is made, and pytest collects the tests:

    import pytest

    pytest.register_assert_rewrite("obverse.testing")  # in conftest.py: failed assertions show their values

    class TestMyPrior(PriorContract):
        def make(self):
            return MyPrior(vocabulary=16)

`make` returns a component that has the same weights every time. Sizes, images, latents and conditions have defaults;
override the methods that do not fit. This package needs pytest, `import obverse` does not.
"""

from obverse.testing.codecs import check_roundtrip
from obverse.testing.coders import Call, EntropyCoderContract, ideal_bits, skewed_calls
from obverse.testing.encoders import EncoderContract
from obverse.testing.priors import PriorContract
from obverse.testing.quantizers import QuantizerContract
from obverse.testing.recording import Recorder, Replay, recorded

__all__ = [
    "Call",
    "EncoderContract",
    "EntropyCoderContract",
    "PriorContract",
    "QuantizerContract",
    "Recorder",
    "Replay",
    "check_roundtrip",
    "ideal_bits",
    "recorded",
    "skewed_calls",
]

"""Whatever the picture: it goes in, and a picture of its size comes out of the same symbols."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from obverse.codec import Codec
from obverse.container import unpack

sides = st.integers(1, 40)
pictures = st.tuples(sides, sides).flatmap(
    lambda size: arrays(np.uint8, (*size, 3), elements=st.integers(0, 255), fill=st.integers(0, 255))
)


@pytest.mark.parametrize("name", ["toy", "toy-llama", "toy-hyper", "toy-guarded64", "toy-native"])
@given(picture=pictures, data=st.data())
@settings(max_examples=40)
def test_any_picture(codecs: dict[str, Codec], name: str, picture: np.ndarray, data: st.DataObject) -> None:
    codec = codecs[name]
    quality = data.draw(st.integers(1, codec.qualities))
    stream = codec.compress(picture, quality=quality)
    header = unpack(stream).header
    assert (header.height, header.width, header.quality) == (*picture.shape[:2], quality - 1)
    decoded = codec.decompress(stream)  # which compares the symbols with the encoder's
    assert decoded.size == (header.width, header.height)
    assert codec.compress(picture, quality=quality) == stream
    assert (np.asarray(codec.decompress(stream)) == np.asarray(decoded)).all()


@given(picture=pictures)
@settings(max_examples=20)
def test_a_real_file_is_little_larger_than_the_ideal(codecs: dict[str, Codec], picture: np.ndarray) -> None:
    for codec in codecs.values():
        payload = unpack(codec.compress(picture)).payload
        assert 8 * len(payload) <= codec.rate(picture).bits + 16

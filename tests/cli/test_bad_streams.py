"""Whatever is wrong with a stream has its own error and exit code, and never a picture."""

from __future__ import annotations

import binascii
import random
import re
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import toys
from PIL import Image

from obverse import container
from obverse.cli import code as commands
from obverse.container import MAX_PIXELS, Header, pack, unpack


def resealed(data: bytes) -> bytes:
    """The same bytes with the right checksum."""
    return data[:-2] + binascii.crc_hqx(data[:-2], 0xFFFF).to_bytes(2, "big")


def repacked(data: bytes, payload: bytes | None = None, **changes: object) -> bytes:
    """A stream with other fields."""
    stream = unpack(data)
    header = replace(stream.header, **changes)
    return pack(header, stream.payload if payload is None else payload, stream.symbol_check)


@pytest.fixture
def refused(obverse):
    """Assert that both commands refuse these bytes with one line that names the file, and write nothing."""

    def check(data: bytes, code: int, *words: str, info: int | None = None) -> None:
        Path("bad.obv").write_bytes(data)
        obverse("decompress", "bad.obv", "out.png").failed(code, "bad.obv", *words)
        assert not Path("out.png").exists()
        info = code if info is None else info
        if info:
            obverse("info", "bad.obv").failed(info, "bad.obv", *words)
        else:
            assert obverse("info", "bad.obv").code == 0

    return check


@pytest.fixture
def all_refused(obverse):
    """Assert that these streams are refused, each with a line that names it, in one run; return the messages."""

    def check(streams: list[bytes], code: int) -> list[str]:
        Path("in").mkdir()
        names = [f"in/{i:04}.obv" for i in range(len(streams))]
        for name, data in zip(names, streams, strict=True):
            Path(name).write_bytes(data)
        done = obverse("decompress", "in", "-d", "out", "--json")
        assert done.code == 6
        assert [(f["input"], f["code"]) for f in done.json["failed"]] == [(name, code) for name in names]
        assert not Path("out").exists()
        messages = [f["error"] for f in done.json["failed"]]
        assert done.err.splitlines()[:-1] == [f"obverse: {message}" for message in messages]
        assert [m for m, name in zip(messages, names, strict=True) if not m.startswith(f"{name}: ")] == []
        assert [m for m in messages if "internal error" in m] == []
        if code == 3:
            assert obverse("info", *names).err.splitlines() == done.err.splitlines()[:-1]
        return messages

    return check


def test_truncated_at_every_byte(all_refused, refused, stream) -> None:
    data = stream.read_bytes()
    refused(b"", 3, "the stream is empty")
    messages = all_refused([data[:length] for length in range(1, len(data))], 3)
    assert [m for m in messages if "the stream ends early" not in m] == []


def test_any_bit_flipped(all_refused, stream) -> None:
    data = int.from_bytes(stream.read_bytes(), "big")
    size = stream.stat().st_size
    messages = all_refused([(data ^ 1 << bit).to_bytes(size, "big") for bit in reversed(range(8 * size))], 3)
    assert [m for m in messages[:16] if "not an Obverse stream" not in m] == []
    # From here on only the checksum tells, apart from the sizes, which can point beyond the end, and the version.
    reasons = re.compile(r"checksum of its bytes|ends early|follow the end|out of range|version \d")
    assert [m for m in messages[16:] if not reasons.search(m)] == []
    assert sum("checksum of its bytes" in m for m in messages) > len(messages) / 2


def test_trailing_bytes(refused, stream) -> None:
    refused(stream.read_bytes() + b"\0\0\0", 3, "3 bytes follow the end of the stream")


def test_random_bytes(all_refused) -> None:
    source = random.Random(0)
    starts = [b"", container.MAGIC, container.MAGIC + b"\x12", container.MAGIC + b"\x13"]
    all_refused([start + source.randbytes(length) for length in range(1, 60) for start in starts], 3)


@pytest.mark.parametrize("kind", ["png", "jpg", "txt"])
def test_other_files(refused, folder, kind) -> None:
    if kind == "txt":
        Path("other").write_text("Just words.\n" * 100)
    else:
        Image.fromarray(toys.picture(30, 30)).save(f"other.{kind}")
        Path(f"other.{kind}").rename("other")
    refused(Path("other").read_bytes(), 3, "this is not an Obverse stream: it begins with ")


def test_of_other_files_only_the_beginning_is_read(obverse) -> None:
    with Path("huge.obv").open("wb") as file:
        file.truncate(2**40)
    started = time.process_time()
    obverse("decompress", "huge.obv").failed(3, "huge.obv: this is not an Obverse stream: it begins with 00 00 00 00")
    obverse("info", "/dev/zero").failed(3, "/dev/zero: this is not an Obverse stream")
    assert time.process_time() - started < 2


def test_a_newer_version(refused, stream) -> None:
    data = bytearray(stream.read_bytes())
    data[2] += 16
    refused(resealed(bytes(data)), 3, "format version 2, this program reads up to 1; install a newer Obverse")


def test_version_0(refused, stream) -> None:
    data = bytearray(stream.read_bytes())
    data[2] -= 16
    refused(resealed(bytes(data)), 3, "format version 0, which was for development", "compress the picture again")


def test_a_newer_version_of_the_numerics_mode(refused, obverse, stream) -> None:
    message = "version 4 of numerics mode 'exact', this program reads up to 2; install a newer Obverse"
    refused(repacked(stream.read_bytes(), specification=4), 3, message, info=0)
    (report,) = obverse("info", "bad.obv", "--json").json
    assert (report["numerics"], report["specification"]) == ("exact", 4)
    data = bytearray(stream.read_bytes())
    data[2] &= 0xF1
    refused(resealed(bytes(data)), 3, "version 0 of its numerics mode, which does not exist")


@pytest.mark.parametrize(
    ("width", "height"), [(10**5, 10**4), (MAX_PIXELS + 1, 1), (1, MAX_PIXELS + 1), (2**32, 2**32), (0, 5), (5, 0)]
)
def test_promises_of_too_many_pixels(refused, stream, monkeypatch, width, height) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(container, "_plausible", lambda width, height: True)
        data = repacked(stream.read_bytes(), width=width, height=height)
    tracemalloc.start()
    started = time.process_time()
    refused(data, 3, f"promises {width}x{height} pixels")
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 5e6


@pytest.mark.parametrize("field", [b"\x80\x80\x80\x80\x10", b"\x80\x80\x80\x80\x80\x01", b"\x85\x00", b"\xff" * 20])
def test_sizes_out_of_range(refused, stream, field) -> None:
    data = stream.read_bytes()
    assert data[9] == 50
    refused(resealed(data[:9] + field + data[10:]), 3, "out of range" if field[-1] != 0x10 else "promises")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x05\x01\x04toy", "do not fill their space"),
        (b"\x05\x01\x03toy", ""),
        (b"\x03\x01\x80\x01", "do not fill their space"),
        (b"\x01\x01", "do not fill their space"),
        (b"\x06\x01\x01a\x01\x01b", "holds 'name' twice"),
        (b"\x81\x80\x80\x08", "out of range"),
        (b"\x7f\x01\x03toy", ""),  # reaches into the payload and beyond the end
    ],
)
def test_crafted_chunks(refused, obverse, stream, body, message) -> None:
    data = bytearray(stream.read_bytes())
    data[2] |= 1
    crafted = resealed(bytes(data[:11]) + body + bytes(data[11:]))
    if body == b"\x05\x01\x03toy":
        Path("good.obv").write_bytes(crafted)
        assert obverse("decompress", "good.obv", "-").code == 0
    else:
        refused(crafted, 3, message)


@pytest.mark.parametrize("payload", [2**20, 2**32, 2**35])
def test_crafted_payload_sizes(refused, stream, payload) -> None:
    data = stream.read_bytes()
    assert data[11] == unpack(data).size - 16
    refused(data[:11] + container.varint(payload) + data[12:], 3, "ends early" if payload < 2**33 else "out of range")


def test_an_unknown_codec(refused, stream) -> None:
    data = stream.read_bytes()
    refused(repacked(data, tag=b"??"), 4, "no installed codec wrote this stream (tag 3f3f)", info=0)
    named = repacked(data, tag=b"??", chunks={"name": b"vq\xff"})
    refused(named, 4, "no installed codec wrote this stream (it says 'vq\N{REPLACEMENT CHARACTER}')", info=0)


def test_another_configuration_or_other_weights(refused, obverse, stream) -> None:
    words = "codec 'toy' with another configuration or other weights", "(fingerprint 3f3f3f, here ", "--weights"
    refused(repacked(stream.read_bytes(), fingerprint=b"???"), 4, *words, info=0)
    swapped = obverse("compress", "photo.png", "-", "-m", "toy-llama", "--prior", "uniform")
    refused(swapped.stdout, 4, "codec 'toy-llama' with another configuration", info=0)
    Path("x.obv").write_bytes(swapped.stdout)
    assert obverse("decompress", "x.obv", "-", "-m", "toy-llama", "--prior", "uniform").code == 0


def test_a_codec_that_is_named_but_did_not_write_it(obverse, stream, configs) -> None:
    words = "decompress", stream, "-o", "x.png"
    obverse(*words, "-m", "toy-hyper").failed(4, "stream.obv: ", "written by another codec", "not 'toy-hyper'")
    other = "stream.obv: ", "codec 'toy' with another configuration or other weights", "--weights"
    obverse(*words, "-m", "toy", "-w", configs["toy-llama"].with_suffix(".safetensors")).failed(4, *other)
    assert obverse(*words, "-m", "toy", "quantizer.dim=4", "name=toy", "prior.name=uniform").code == 0


def test_weights_that_are_gone(obverse, refused, stream, codecs) -> None:
    weights = codecs["toy"].with_suffix(".safetensors")
    hidden = weights.rename(weights.with_name("hidden"))
    try:
        refused(stream.read_bytes(), 4, "toy.safetensors", "cannot be read: No such file", info=0)
        assert "cannot be read" in obverse("info", stream).out
        commands._loaded.clear()
        obverse("compress", "photo.png", "-m", "toy").failed(4, "toy.safetensors")
        listed = obverse("list", "toy", "--codecs", "--json").json
        assert [row["weights"] for row in listed] == ["no: toy.safetensors"]
    finally:
        hidden.rename(weights)


def test_settings_that_no_encoder_writes(refused, stream) -> None:
    data = stream.read_bytes()
    refused(repacked(data, quality=1), 3, "quality 2 of 1", info=0)
    refused(repacked(data, coder=3), 3, "entropy coder 3", info=0)
    refused(repacked(data, numerics=3), 3, "numerics mode 3", info=0)
    refused(repacked(data, numerics=2), 3, "'native', and no others, tell the environment", info=0)
    refused(repacked(data, chunks={"environment": b"here"}), 3, "'native', and no others", info=0)
    refused(repacked(data, numerics=0), 5, "no picture is shown", info=0)


@pytest.mark.parametrize("name", ["toy", "toy-llama", "toy-hyper"])
def test_a_damaged_payload_with_a_right_checksum(all_refused, obverse, photo, name) -> None:
    data = obverse("compress", photo, "-", "-m", name).stdout
    payload = unpack(data).payload
    source = random.Random(0)
    damaged = [b"", payload[1:], payload[::-1]]
    for _ in range(40):
        changed = bytearray(payload)
        # The first bytes decide; no symbol need depend on all of the last ones.
        changed[source.randrange(len(payload) // 2)] ^= source.randrange(1, 256)
        damaged.append(bytes(changed))
    messages = all_refused([repacked(data, payload) for payload in damaged], 5)
    assert [m for m in messages if "the bytes are intact but" not in m or "no picture is shown" not in m] == []


def test_other_symbol_checks_diverge(refused, stream) -> None:
    data = stream.read_bytes()
    parsed = unpack(data)
    refused(pack(parsed.header, parsed.payload, parsed.symbol_check ^ 1), 5, "no picture is shown", info=0)


def test_a_batch_goes_on(obverse, stream) -> None:
    Path("in").mkdir()
    data = stream.read_bytes()
    bad = {"a": data[:-1], "b": data, "c": repacked(data, b"\1"), "d": repacked(data, tag=b"??"), "e": b"?"}
    for name, content in bad.items():
        Path(f"in/{name}.obv").write_bytes(content)
    done = obverse("decompress", "in", "--json")
    assert done.code == 6
    assert [r["input"] for r in done.json["results"]] == ["in/b.obv"]
    codes = {f["input"]: f["code"] for f in done.json["failed"]}
    assert codes == {"in/a.obv": 3, "in/c.obv": 5, "in/d.obv": 4, "in/e.obv": 3}
    assert len(re.findall("^obverse: in/[acde].obv: ", done.err, re.MULTILINE)) == 4
    assert sorted(path.name for path in Path("in").glob("*.png")) == ["b.png"]


def test_info_of_many_goes_on(obverse, stream) -> None:
    Path("bad.obv").write_bytes(b"?")
    done = obverse("info", "bad.obv", stream, "gone.obv", "--json")
    assert done.code == 6
    assert [report["file"] for report in done.json] == ["stream.obv"]
    assert done.err.splitlines() == [
        "obverse: bad.obv: this is not an Obverse stream: it begins with 3f",
        "obverse: cannot read 'gone.obv': no such file; check the path",
    ]


def test_what_pack_refuses() -> None:
    header = Header(2, 2, b"ab", b"abc")
    with pytest.raises(container.UnsupportedInputError, match=r"no metadata is called \['tiff'\] \(names: name, icc"):
        pack(replace(header, chunks={"tiff": b""}), b"", 0)

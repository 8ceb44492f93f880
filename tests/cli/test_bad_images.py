"""Whatever users take for an image: the right picture comes out, or a line says what is wrong with it.

A codec of random weights shows no likeness, so colours are looked at where they enter it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toys
from PIL import Image, ImageCms

from obverse import container, images

TOY = ("-m", "toy")
ORANGE = (230, 120, 20)
GREY = (77, 77, 77)


def block(mode: str, colour: object, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new(mode, size, colour)


def exif_rotated() -> tuple[Image.Image, dict[str, object]]:
    image = block("RGB", ORANGE)
    image.paste((0, 0, 255), (0, 0, 24, 8))  # the top half, which belongs to the right
    exif = Image.Exif()
    exif[274] = 6
    return image, {"exif": exif, "quality": 100, "subsampling": 0}


def palette() -> Image.Image:
    return block("RGB", ORANGE).quantize(4)


@pytest.fixture
def seen(monkeypatch) -> list[np.ndarray]:
    """The pixels that reach the codec."""
    from obverse.codec import Codec

    pixels: list[np.ndarray] = []
    compress = Codec.compress

    def spy(self, image, **options):
        if not isinstance(image, list):
            pixels.append(image)
        return compress(self, image, **options)

    monkeypatch.setattr(Codec, "compress", spy)
    return pixels


@pytest.mark.parametrize(
    ("name", "image", "options", "size", "colour", "note"),
    [
        ("one.png", block("RGB", ORANGE, (1, 1)), {}, (1, 1), ORANGE, ""),
        ("row.png", block("RGB", ORANGE, (67, 1)), {}, (67, 1), ORANGE, ""),
        ("column.png", block("RGB", ORANGE, (1, 67)), {}, (1, 67), ORANGE, ""),
        ("grey.png", block("L", 77), {}, (24, 16), GREY, "grey is repeated in three channels"),
        ("grey.jpg", block("L", 77), {}, (24, 16), GREY, "grey is repeated in three channels"),
        ("bilevel.png", block("1", 1), {}, (24, 16), (255, 255, 255), "grey is repeated"),
        ("palette.png", palette(), {}, (24, 16), ORANGE, ""),
        ("palette.gif", palette(), {}, (24, 16), ORANGE, ""),
        ("deep.png", Image.fromarray(np.full((16, 24), 77 * 257, np.uint16)), {}, (24, 16), GREY,
         "16-bit samples are reduced to 8"),
        ("deep.tif", Image.fromarray(np.full((16, 24), 77 * 257, np.uint16)), {}, (24, 16), GREY,
         "16-bit samples are reduced to 8"),
        ("cmyk.jpg", block("CMYK", (25, 135, 235, 0)), {"quality": 100}, (24, 16), ORANGE, "CMYK without"),
        ("cmyk.tif", block("CMYK", (25, 135, 235, 0)), {}, (24, 16), ORANGE, "CMYK without"),
        ("clear.png", block("RGBA", (0, 0, 0, 0)), {}, (24, 16), (255, 255, 255), "alpha is composited on white"),
        ("half.png", block("RGBA", (205, 0, 0, 128)), {}, (24, 16), (230, 127, 127), "alpha is composited on white"),
        ("opaque.png", block("RGBA", (*ORANGE, 255)), {}, (24, 16), ORANGE, ""),
        ("moving.gif", block("RGB", ORANGE), {"save_all": True, "append_images": [block("RGB", GREY)]}, (24, 16),
         ORANGE, "only the first of 2 frames is used"),
        ("moving.webp", block("RGB", ORANGE), {"save_all": True, "append_images": [block("RGB", GREY)]}, (24, 16),
         ORANGE, "only the first of 2 frames is used"),
        ("turned.jpg", exif_rotated()[0], exif_rotated()[1], (16, 24), None, ""),
        ("WRONG.PNG", block("RGB", ORANGE), {"format": "JPEG"}, (24, 16), ORANGE, ""),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)  # fmt: skip
def test_every_kind_of_image(obverse, folder, seen, name, image, options, size, colour, note) -> None:
    image.save(name, **options)
    done = obverse("compress", name, "x.obv", *TOY)
    assert done.code == 0, done.err
    if note:
        assert f"obverse: {name}: {note}" in done.err
    else:
        assert done.err == ""
    assert done.out.count("\n") == 1
    (pixels,) = seen
    assert pixels.shape == (size[1], size[0], 3)
    if colour is None:  # rotated: blue on the right
        halves = pixels[:, :8].mean((0, 1)), pixels[:, 8:].mean((0, 1))
        assert np.abs(halves[0] - ORANGE).max() < 8
        assert np.abs(halves[1] - (0, 0, 255)).max() < 8
    else:
        assert np.abs(pixels.reshape(-1, 3) - np.array(colour)).max() < 8
    assert obverse("decompress", "x.obv", "x.png").code == 0
    with Image.open("x.png") as decoded:
        assert (decoded.mode, decoded.size) == ("RGB", size)


def test_metadata_travels_when_asked_for(obverse, folder) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    exif = Image.Exif()
    exif[315] = "somebody"
    image = block("RGB", ORANGE)
    image.save("in.png", exif=exif)
    assert obverse("compress", "in.png", "plain.obv", *TOY).code == 0
    assert obverse("compress", "in.png", "kept.obv", *TOY, "--metadata").code == 0
    (plain,), (kept,) = (obverse("info", name, "--json").json for name in ("plain.obv", "kept.obv"))
    assert plain["metadata"] == {}
    assert kept["metadata"].keys() == {"name", "exif"}
    assert obverse("decompress", "kept.obv", "out.png").code == 0
    with Image.open("out.png") as decoded:
        assert decoded.getexif()[315] == "somebody"
    image.save("odd.png", icc_profile=profile)
    assert "obverse: odd.png: the colour profile" in obverse("compress", "odd.png", *TOY, "--metadata").err


def test_more_pixels_than_are_read(obverse, photo, monkeypatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1999)
    obverse("compress", photo, *TOY).failed(1, "'photo.png' cannot be read: 50x40 pixels are above the limit of 1999")


def test_more_pixels_than_a_stream_holds(obverse, photo, monkeypatch) -> None:
    monkeypatch.setattr(container, "MAX_PIXELS", 1999)
    words = "photo.png: a picture of 50x40 pixels is outside the limits", "1 to 1999 pixels", "resize or cut it"
    obverse("compress", photo, *TOY).failed(1, *words)
    obverse("compress", photo, *TOY, "--entropy-estimation").failed(1, *words)


def test_a_header_that_promises_too_many_pixels(obverse, folder) -> None:
    data = bytearray()
    header = b"BM" + (54 + 4).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    data += header + (40).to_bytes(4, "little") + (2**15).to_bytes(4, "little") + (2**15).to_bytes(4, "little")
    data += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + bytes(4)
    Path("bomb.bmp").write_bytes(data)
    obverse("compress", "bomb.bmp", *TOY).failed(1, "'bomb.bmp'", "32768x32768 pixels are above the limit")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_truncated_images(obverse, folder, suffix) -> None:
    Image.fromarray(toys.picture(64, 64)).save(f"whole.{suffix}")
    data = Path(f"whole.{suffix}").read_bytes()
    for part in (len(data) // 2, len(data) * 9 // 10):
        Path("part.png").write_bytes(data[:part])
        obverse("compress", "part.png", *TOY).failed(1, "'part.png' cannot be read: ")


def test_what_is_not_an_image(obverse, folder) -> None:
    Path("text.png").write_text("words")
    Path("empty.png").touch()
    Path("sub.png").mkdir()
    Path("broken.png").symlink_to("nowhere")
    obverse("compress", "text.png", *TOY).failed(1, "'text.png' cannot be read: not an image")
    obverse("compress", "empty.png", *TOY).failed(1, "'empty.png' cannot be read: the file is empty")
    obverse("compress", "gone.png", *TOY).failed(1, "'gone.png' cannot be read: no such file")
    obverse("compress", "broken.png", *TOY).failed(1, "'broken.png' cannot be read: no such file")
    obverse("compress", "sub.png", *TOY).failed(1, "no files ending in", "in sub.png")
    assert {path.suffix for path in Path().iterdir()} == {".png"}


def test_a_file_that_may_not_be_read(obverse, photo, monkeypatch) -> None:
    opened = Path.open

    def refuse(self: Path, *words, **options):
        if self.name == "photo.png":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *words, **options)

    monkeypatch.setattr(Path, "open", refuse)
    obverse("compress", photo, *TOY).failed(1, "'photo.png' cannot be read: Permission denied")

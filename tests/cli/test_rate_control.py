"""`--rd-lambda`, `--target-bpp`, `--max-bytes`, and the coder that a file ended up with."""

from __future__ import annotations

from pathlib import Path

import pytest

from obverse.container import unpack

TOY = ("-m", "toy-llama")


def test_files_say_when_the_prior_is_worse_than_fixed_lengths(obverse, photo) -> None:
    done = obverse("compress", photo, "x.obv", *TOY, "--json")
    assert done.json["results"][0]["coder"] == "raw", "an untrained prior"
    assert unpack(Path("x.obv").read_bytes()).header.coder == 1
    assert obverse("compress", photo, "y.obv", *TOY).out.endswith(" bpp, coder raw\n")
    assert obverse("decompress", "x.obv", "x.png").code == 0
    done = obverse("compress", photo, "z.obv", "-m", "toy-hyper", "--json")
    assert done.json["results"][0]["coder"] == "range"


def test_files_become_smaller(obverse, photo) -> None:
    sizes = {}
    for words in ((), ("--rd-lambda", "0"), ("--rd-lambda", "1e9")):
        assert obverse("compress", photo, "x.obv", "-f", *TOY, *words).code == 0
        sizes[words] = Path("x.obv").stat().st_size
    plain, strongest, none = sizes.values()
    assert strongest < plain == none
    for words in (("--max-bytes", plain - 1), ("--target-bpp", 8 * (plain - 0.5) / 2000)):
        assert obverse("compress", photo, "x.obv", "-f", *TOY, *words).code == 0
        assert strongest <= Path("x.obv").stat().st_size < plain
    assert obverse("decompress", "x.obv", "x.png").code == 0


def test_a_picture_that_does_not_fit(obverse, photo) -> None:
    done = obverse("compress", photo, "x.obv", *TOY, "--max-bytes", "5")
    done.failed(2, "photo.png", "does not fit in 5 bytes: the smallest size reached is")
    assert not Path("x.obv").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--rd-lambda", "1", "--max-bytes", "9"), "--rd-lambda and --max-bytes exclude each other"),
        (("--target-bpp", "1", "--max-bytes", "9"), "--target-bpp and --max-bytes exclude each other"),
        (("--rd-lambda", "1", "--entropy-estimation"), "only the size is estimated"),
        (("--target-bpp", "0"), "--target-bpp 0.0 is not a number above 0"),
        (("--rd-lambda", "inf"), "not a number from 0"),
        (("-m", "toy-hyper", "--rd-lambda", "1"), "offers no candidates"),
    ],
)
def test_what_makes_no_sense(obverse, photo, words, text) -> None:
    obverse("compress", photo, "x.obv", *TOY, *words).failed(2, text)

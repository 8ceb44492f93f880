"""One loop compresses, decompresses, generates, estimates and reconstructs four kinds of codecs."""

from __future__ import annotations

import pytest
import torch
from miniatures import CODES, MINIATURES, SIDE, Miniature
from torch import Tensor

from obverse.coders.ideal import IdealEncoder
from obverse.coders.range import RangeDecoder, RangeEncoder
from obverse.interfaces import Block, Coded, Condition, Layout
from obverse.loop import Decoding, Encoding, Kept, Known, Mixture, Quantized, Sampling, Source, run

KINDS = sorted(MINIATURES)


def loop(codec: Miniature, source: Source, batch: int = 1) -> list[Coded]:
    return run(codec.prior.blocks(Layout(batch, SIDE, SIDE), Condition()), source)


def quantized(codec: Miniature, batch: int = 1, seed: int = 0) -> Quantized:
    return Quantized(codec.quantizer, codec.latents(batch, seed))


def compress(codec: Miniature, source: Source, batch: int = 1, streams: int = 1) -> tuple[list[bytes], list[Coded]]:
    encoders = [RangeEncoder() for _ in range(streams)]
    coded = loop(codec, Encoding(source, encoders), batch)
    return [encoder.finish() for encoder in encoders], coded


def same(a: list[Coded], b: list[Coded]) -> bool:
    return len(a) == len(b) and all(
        x.name == y.name and torch.equal(x.symbols, y.symbols) for x, y in zip(a, b, strict=True)
    )


def sampling(seed: int) -> Sampling:
    return Sampling(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
class TestFiveUses:
    def test_compress_and_decompress(self, kind: str) -> None:
        codec = MINIATURES[kind]
        encoding = Encoding(quantized(codec, 2), [RangeEncoder(), RangeEncoder()])
        sent = loop(codec, encoding, 2)
        decoding = Decoding([RangeDecoder(encoder.finish()) for encoder in encoding.encoders])
        received = loop(codec, decoding, 2)
        assert same(sent, received)
        assert encoding.checks == decoding.checks
        layout = Layout(2, SIDE, SIDE)
        ours, theirs = (codec.quantizer.dequantize(parts, layout) for parts in (sent, received))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def test_generate(self, kind: str) -> None:
        codec = MINIATURES[kind]
        drawn = loop(codec, sampling(0), 3)
        assert same(drawn, loop(codec, sampling(0), 3))
        assert not same(drawn, loop(codec, sampling(1), 3))
        latents = codec.quantizer.dequantize(drawn, Layout(3, SIDE, SIDE))
        assert latents[codec.array].numel() == 3 * SIDE * SIDE

    def test_what_is_generated_compresses_to_itself(self, kind: str) -> None:
        codec = MINIATURES[kind]
        drawn = loop(codec, sampling(0))
        symbols = iter(drawn)
        (data,), _ = compress(codec, lambda block: next(symbols).symbols)
        assert same(drawn, loop(codec, Decoding([RangeDecoder(data)])))

    def test_estimate(self, kind: str) -> None:
        codec, ideal = MINIATURES[kind], IdealEncoder()
        loop(codec, Encoding(quantized(codec), [ideal]))
        (data,), _ = compress(codec, quantized(codec))
        assert abs(len(data) - ideal.bits / 8) <= 2

    def test_reconstruct(self, kind: str) -> None:
        codec = MINIATURES[kind]
        values = codec.quantizer.dequantize(loop(codec, quantized(codec, 2), 2), Layout(2, SIDE, SIDE))
        wanted = codec.latents(2)[codec.array].flatten(1)
        error = (values[codec.array].flatten(1) - wanted).abs().amax()
        assert error <= {"x": 0.5, "y": 0.5 + 1e-6}[codec.array] or kind == "next-token"
        assert ((values[codec.array].flatten(1) - wanted).abs() < 0.51).float().mean() > 0.9

    def test_batch_gives_the_streams_of_single_images(self, kind: str) -> None:
        codec = MINIATURES[kind]
        together, _ = compress(codec, quantized(codec, 3), 3, 3)
        for index, data in enumerate(together):
            latents = {name: array[index : index + 1] for name, array in codec.latents(3).items()}
            alone, _ = compress(codec, Quantized(codec.quantizer, latents))
            assert alone == [data]

    def test_rows_of_one_stream_stay_together(self, kind: str) -> None:
        """Four rows in two streams, as tiles of two pictures."""
        codec = MINIATURES[kind]
        together, sent = compress(codec, quantized(codec, 4), 4, 2)
        latents = {name: array[2:] for name, array in codec.latents(4).items()}
        alone, _ = compress(codec, Quantized(codec.quantizer, latents), 2)
        assert together[1:] == alone
        received = loop(codec, Decoding([RangeDecoder(data) for data in together]), 4)
        assert same(sent, received)


@pytest.mark.parametrize("kind", ["next-token", "next-scale"])
def test_known_symbols_give_the_stream_of_quantized_latents(kind: str) -> None:
    codec = MINIATURES[kind]
    symbols = codec.quantizer.symbols(codec.latents(2))
    forced = codec.prior.teacher_forced(symbols, Layout(2, SIDE, SIDE), Condition())
    encoders = [RangeEncoder(), RangeEncoder()]
    run(forced, Encoding(Known(symbols), encoders))
    expected, _ = compress(codec, quantized(codec, 2), 2, 2)
    assert [encoder.finish() for encoder in encoders] == expected


@pytest.mark.parametrize("kind", ["next-token", "next-scale"])
class TestInPainting:
    """A part of the tokens is known to both sides."""

    def parts(self, kind: str) -> tuple[Miniature, dict[str, Tensor], dict[str, Tensor]]:
        codec = MINIATURES[kind]
        symbols = codec.quantizer.symbols(codec.latents(1, seed=3))
        mask = torch.arange(symbols["tokens"].shape[1]) % 3 != 0
        return codec, symbols, {"tokens": mask}

    def test_known_positions_stay_and_the_rest_is_drawn(self, kind: str) -> None:
        codec, symbols, masks = self.parts(kind)
        drawn = torch.cat([c.symbols for c in loop(codec, Mixture(symbols, sampling(0), masks))], dim=1)
        other = torch.cat([c.symbols for c in loop(codec, Mixture(symbols, sampling(1), masks))], dim=1)
        known = masks["tokens"]
        assert torch.equal(drawn[:, known], symbols["tokens"][:, known])
        assert torch.equal(other[:, known], symbols["tokens"][:, known])
        assert not torch.equal(drawn, other)

    def test_known_positions_cost_nothing(self, kind: str) -> None:
        codec, symbols, masks = self.parts(kind)
        (whole,), _ = compress(codec, Known(symbols))
        encoder = RangeEncoder()
        sent = loop(codec, Mixture(symbols, Encoding(Known(symbols), [encoder]), masks))
        data = encoder.finish()
        assert len(data) < len(whole)
        received = loop(codec, Mixture(symbols, Decoding([RangeDecoder(data)]), masks))
        assert same(sent, received)
        assert torch.equal(torch.cat([c.symbols for c in received], dim=1), symbols["tokens"])

    def test_everything_known_costs_nothing_at_all(self, kind: str) -> None:
        codec, symbols, masks = self.parts(kind)
        encoder = RangeEncoder()
        loop(codec, Mixture(symbols, Encoding(Known(symbols), [encoder])))
        assert encoder.finish() == b""
        everything = {"tokens": torch.ones_like(masks["tokens"])}
        coded = loop(codec, Mixture(symbols, sampling(0), everything))
        assert torch.equal(torch.cat([c.symbols for c in coded], dim=1), symbols["tokens"])


class TestHyperpriorOfARealImage:
    codec = MINIATURES["hyperprior"]

    def z(self) -> dict[str, Tensor]:
        sent = loop(self.codec, quantized(self.codec))
        return {"z": sent[0].symbols}

    def test_y_is_drawn_given_z(self) -> None:
        drawn = loop(self.codec, Mixture(self.z(), sampling(0)))
        other = loop(self.codec, Mixture(self.z(), sampling(1)))
        assert torch.equal(drawn[0].symbols, self.z()["z"])
        assert torch.equal(other[0].symbols, drawn[0].symbols)
        assert not torch.equal(drawn[1].symbols, other[1].symbols)

    def test_a_known_z_is_not_coded(self) -> None:
        (whole,), sent = compress(self.codec, quantized(self.codec))
        encoder = RangeEncoder()
        loop(self.codec, Mixture(self.z(), Encoding(quantized(self.codec), [encoder])))
        data = encoder.finish()
        assert len(data) < len(whole)
        assert same(loop(self.codec, Mixture(self.z(), Decoding([RangeDecoder(data)]))), sent)


def test_progressive_preview() -> None:
    """The first scales are decoded, the last one takes the most probable symbols."""
    codec = MINIATURES["next-scale"]
    (data,), sent = compress(codec, quantized(codec))
    decoding = Decoding([RangeDecoder(data)])
    greedy = Sampling(torch.Generator(), temperature=0)

    def first(block: Block) -> Tensor:
        return decoding(block) if block.distribution.shape[1] < SIDE * SIDE else greedy(block)

    preview = loop(codec, first)
    assert same(preview[:2], sent[:2])
    assert int(preview[2].symbols.max()) < CODES


def test_a_prior_without_blocks() -> None:
    def nothing():  # type: ignore[no-untyped-def]
        yield from ()

    assert run(nothing(), sampling(0)) == []


@pytest.mark.parametrize("kind", ["hyperprior", "top-down"])
def test_arrays_kept_of_a_picture(kind: str) -> None:
    codec = MINIATURES[kind]
    own = loop(codec, quantized(codec))
    names = list(dict.fromkeys(part.name for part in own))
    for count in range(len(names) + 1):
        drawn = loop(codec, Kept(quantized(codec), sampling(0), count))
        assert same(drawn, loop(codec, Kept(quantized(codec), sampling(0), names[:count])))
        kept = [part for part in drawn if part.name in names[:count]]
        assert same(kept, own[: len(kept)])
        assert same(drawn, own) == (count == len(names))


def test_a_later_array_is_kept_in_the_context_that_was_drawn() -> None:
    codec = MINIATURES["top-down"]
    drawn = loop(codec, Kept(quantized(codec), sampling(0), ["level4"]))
    values = codec.quantizer.dequantize(drawn, Layout(1, SIDE, SIDE))["x"]
    assert ((values - codec.latents(1)["x"]) * 5).abs().amax() <= 0.5 + 1e-6

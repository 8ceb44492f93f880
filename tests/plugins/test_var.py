"""VAR's parts in miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import picture

import obverse
from obverse import container
from obverse.checkpoints import recognised
from obverse.codec import Codec
from obverse.config import CodecConfig, load_config
from obverse.distributions import Categorical
from obverse.errors import ConfigError, DivergedError, RateError
from obverse.interfaces import Block, Blocks, Coded, Condition, Encoder, Latents, Layout, Prior, Quantizer
from obverse.ledger import Ledger
from obverse.loop import Known, run
from obverse.next_scale import NextScalePrior, scale_spans
from obverse.nn.next_scale import shared_convolutions
from obverse.numerics import NATIVE, prepare
from obverse.pipeline import build
from obverse.priors import UniformPrior
from obverse.selftest.seeded import fill
from obverse.testing import EncoderContract, PriorContract, QuantizerContract, check_roundtrip
from obverse_var.checkpoints import TokenizerFormat, TrainerFormat, TransformerFormat
from obverse_var.encoders import TileAutoencoder
from obverse_var.quantizers import MultiScaleQuantizer

SIDES = (1, 2, 3, 5)
LENGTH = 39
ENCODER = {
    "tile": 10,
    "embed_dim": 6,
    "z_channels": 6,
    "width": 32,
    "multipliers": [1, 1],
    "blocks": 1,
    "attention_levels": [1],
}
PRIOR = {
    "sides": SIDES,
    "vocabulary": 19,
    "channels": 6,
    "dim": 24,
    "layers": 2,
    "heads": 3,
    "classes": 3,
    "phis": 3,
}


def prior(**others: object) -> NextScalePrior:
    return fill(NextScalePrior(**PRIOR | others), "var", gain=2.0)


def quantizer(**others: int) -> MultiScaleQuantizer:
    return fill(MultiScaleQuantizer(size=19, dim=6, sides=SIDES, phis=3, **others), "var").requires_grad_(False)


class TestEncoder(EncoderContract):
    def make(self) -> Encoder:
        return fill(TileAutoencoder(**ENCODER), "var")


class TestQuantizer(QuantizerContract):
    idempotent = False

    def make(self) -> Quantizer:
        return quantizer()

    def layout(self) -> Layout:
        return Layout(2, 5, 5)

    def blocks(self, latents: Latents) -> list[Block]:
        return [
            Block("tokens", Categorical(torch.zeros(2, stop - first, 19, dtype=torch.int32)), torch.arange(first, stop))
            for first, stop in scale_spans(SIDES)
        ]


class SquareContract(PriorContract):
    def layouts(self) -> list[Layout]:
        return [Layout(2, 5, 5)]


class TestPrior(SquareContract):
    def make(self) -> Prior:
        return prior()

    def conditions(self) -> list[Condition]:
        return [Condition(), Condition(label=1), Condition(label=2, guidance=1.5)]


class TestPriorSharedOfSeveralQualities(SquareContract):
    def make(self) -> Prior:
        return prior(shared=True, qualities=4)

    def conditions(self) -> list[Condition]:
        return [Condition(0), Condition(2, guidance=0.5), Condition(3)]


class TestClasses:
    TOKENS = torch.randint(19, (2, LENGTH), generator=torch.Generator().manual_seed(0))

    def logits(self, label: int | None = None, guidance: float | None = None) -> list[torch.Tensor]:
        blocks = []
        native = prepare(prior(), NATIVE)
        with torch.inference_mode():
            for block in native.teacher_forced({"tokens": self.TOKENS}, Layout(2, 5, 5), Condition(0, label, guidance)):
                assert isinstance(block.distribution, Categorical)
                blocks.append(block.distribution.logits.double() / 8)
        return blocks

    def test_every_class_and_none_differ(self) -> None:
        found = [torch.cat(self.logits(label), dim=1) for label in (None, 0, 1, 2)]
        assert all(not torch.equal(found[i], found[j]) for i in range(4) for j in range(i))

    def test_guidance_grows_from_scale_to_scale(self) -> None:
        given, null, guided = self.logits(1), self.logits(), self.logits(1, 3.0)
        for scale in range(4):
            expected = given[scale] + (given[scale] - null[scale]) * scale
            assert (guided[scale] - expected).abs().max() <= 0.0625 * (2 + 2 * scale)  # each rounded to 1/8

    def test_no_more_classes_than_there_are(self) -> None:
        assert prior().classes == 3
        assert len(prior().model.class_embedding.weight) == 4


class TestScales:
    def test_convolutions_of_the_releases(self) -> None:
        """Scales 2 and 7 of 10 are ties that rounding decides."""
        assert shared_convolutions(10, 4) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
        assert shared_convolutions(5, 4) == [0, 1, 2, 2, 3]
        assert shared_convolutions(6, 4) == [0, 0, 1, 2, 3, 3]
        assert shared_convolutions(1, 4) == [0]
        assert shared_convolutions(3, 1) == [0, 0, 0]
        assert shared_convolutions(4, 4) == [0, 1, 2, 3]

    def test_tokens_are_nearest_codes_of_the_rest(self) -> None:
        """As in the paper's Algorithm 1, with torch's interpolation."""
        part, f = quantizer(), torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0)) * 3
        tokens = part.symbols({"tokens": f})["tokens"]
        rest, f_hat = f, []
        for scale, (first, stop) in enumerate(scale_spans(SIDES)):
            side = SIDES[scale]
            z = F.interpolate(rest, (side, side), mode="area").flatten(2).transpose(1, 2)
            expected = torch.cdist(z, part.scales.codebook.weight.expand(2, -1, -1)).argmin(2)
            assert torch.equal(tokens[:, first:stop], expected)
            h = part.scales.codebook.weight[expected].transpose(1, 2).reshape(2, 6, side, side)
            h = F.interpolate(h, (5, 5), mode="bicubic")
            h = h * 0.5 + part.scales.phi[part.scales.convolutions[scale]](h) * 0.5
            rest = rest - h
            f_hat.append(f - rest)
        for ours, theirs in zip(part.f_hat(tokens), f_hat, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

    def test_the_first_scales_alone_decode(self) -> None:
        part, layout = quantizer(), Layout(2, 5, 5)
        tokens = torch.randint(19, (2, LENGTH), generator=torch.Generator().manual_seed(0))
        sums = part.f_hat(tokens)
        coded = [Coded("tokens", tokens[:, a:b], torch.arange(a, b)) for a, b in scale_spans(SIDES)]
        for count in range(1, 5):
            assert torch.equal(part.dequantize(coded[:count], layout)["tokens"], sums[count - 1])

    def test_each_quality_codes_a_scale_more(self) -> None:
        for qualities, expected in ((1, [39]), (3, [5, 14, 39])):
            several = prepare(prior(qualities=qualities))
            known = Known({"tokens": torch.zeros(1, LENGTH, dtype=torch.int64)})
            found = [run(several.blocks(Layout(1, 5, 5), Condition(q)), known) for q in range(qualities)]
            assert [sum(part.symbols.shape[1] for part in coded) for coded in found] == expected

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="scales up to 5x5 do not fit a latent grid of 5x6"):
            next(prior().blocks(Layout(1, 5, 6), Condition()))
        with pytest.raises(ConfigError, match="scales up to 5x5 do not fit a latent grid of 4x4"):
            quantizer().symbols({"tokens": torch.zeros(1, 6, 4, 4)})
        with pytest.raises(ConfigError, match="25 tokens are no whole number of scales"):
            quantizer().dequantize([Coded("tokens", torch.zeros(1, 25, dtype=torch.int64))], Layout(1, 5, 5))
        with pytest.raises(ConfigError, match="4 stages make 1 to 4 qualities, not 5"):
            prior(qualities=5)
        with pytest.raises(ConfigError, match="4 stages make 1 to 4 qualities, not 5"):
            quantizer(qualities=5)
        with pytest.raises(ConfigError, match="tiles of 11 pixels are no whole cells of 2"):
            TileAutoencoder(**ENCODER | {"tile": 11})

    def test_uniform_prior_of_all_scales(self) -> None:
        blocks = list(UniformPrior(alphabets={"tokens": 19}, count=LENGTH).blocks(Layout(2, 5, 5), Condition()))
        assert [tuple(block.distribution.shape) for block in blocks] == [(2, LENGTH)]

    def test_uniform_prior_of_single_scales(self) -> None:
        stages = UniformPrior(alphabets={"tokens": 19}, stages=quantizer().stages, qualities=2)
        for quality, expected in enumerate(([1, 4, 9], [1, 4, 9, 25])):
            blocks = list(stages.blocks(Layout(2, 5, 5), Condition(quality)))
            assert [block.distribution.shape[1] for block in blocks] == expected
            positions = [block.positions for block in blocks if block.positions is not None]
            assert torch.equal(torch.cat(positions), torch.arange(sum(expected)))


def codec(qualities: int = 1, **prior: object) -> Codec:
    parts = {
        "encoder": {"name": "var", **ENCODER, "qualities": qualities},
        "quantizer": {"name": "var", "size": 19, "dim": 6, "sides": SIDES, "phis": 3},
        "prior": prior or {"name": "var", **PRIOR, "qualities": qualities},
        "coder": {"name": "range"},
    }
    config = CodecConfig("tiny-var", parts)
    pipeline = build(config)
    for name, module in pipeline.modules.items():
        fill(module, name, gain=2.0)
    return Codec(config, pipeline)


@pytest.mark.parametrize(("width", "height"), [(10, 10), (27, 18), (5, 9)])
def test_round_trip(width: int, height: int) -> None:
    """One tile, tiles that overlap, and less than a tile."""
    tiny = codec()
    assert tiny.numerics == "exact"
    check_roundtrip(tiny, picture(width, height))


def test_round_trip_of_the_tokenizer_alone() -> None:
    check_roundtrip(codec(name="uniform", count=LENGTH), picture(13, 11))
    check_roundtrip(codec(name="uniform"), picture(13, 11))  # the quantizer tells how many


@pytest.mark.parametrize("prior", [{}, {"name": "uniform"}], ids=["next-scale", "uniform"])
def test_qualities_are_scales(prior: dict[str, str]) -> None:
    tiny, image = codec(qualities=4, **prior), picture(20, 10)
    streams = [tiny.compress(image, quality=quality) for quality in range(1, 5)]
    assert [len(data) for data in streams] == sorted({len(data) for data in streams})
    assert tiny.compress(image) == streams[3], "all scales by default"
    assert np.array_equal(np.asarray(tiny.decompress(streams[3])), np.asarray(codec().reconstruct(image).image))


def test_a_size_is_reached_with_fewer_scales() -> None:
    tiny, image = codec(qualities=4, name="uniform"), picture(20, 10)
    sizes = [len(tiny.compress(image, quality=quality)) for quality in range(1, 5)]
    stream = container.unpack(tiny.compress(image, max_bytes=sizes[3] - 1))
    assert stream.header.quality == 2
    with pytest.raises(RateError, match=f"does not fit in {sizes[0] - 1} bytes"):
        tiny.compress(image, max_bytes=sizes[0] - 1)


@pytest.mark.parametrize("name", ["var-vae", "var-d16", "var-d36"])
def test_named_codecs_have_a_quality_per_scale(name: str) -> None:
    with torch.device("meta"):
        pipeline = build(load_config(name))
    assert pipeline.encoder.qualities == pipeline.encoder.default_quality == len(pipeline.quantizer.stages) == 10
    assert pipeline.quantizer.qualities == pipeline.prior.qualities == 10


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"name": "uniform", "count": LENGTH + 1}, "makes 39 symbols, the prior models 40"),
        ({"name": "var", **PRIOR, "sides": [1, 2, 3, 4]}, "makes 39 symbols, the prior models 30"),
    ],
)
def test_priors_of_other_tokens_are_refused_when_composed(prior: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        codec(qualities=4, **prior)


class TestPreviews:
    @pytest.mark.parametrize("prior", [{}, {"name": "uniform"}], ids=["next-scale", "uniform"])
    def test_they_are_what_lower_qualities_decode_to(self, prior: dict[str, str]) -> None:
        tiny, image = codec(qualities=4, **prior), picture(27, 18)
        data = tiny.compress(image)
        assert tiny.preview_count(data) == 4
        pictures = [np.asarray(preview) for preview in tiny.previews(data)]
        for scales in range(1, 5):
            expected = np.asarray(tiny.reconstruct(image, quality=scales).image)
            assert np.array_equal(pictures[scales - 1], expected)
            assert np.array_equal(np.asarray(tiny.preview(data, scales)), expected)

    def test_no_more_is_decoded_than_is_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny, asked = codec(qualities=4), []
        data, blocks = tiny.compress(picture(10, 10)), tiny.pipeline.prior.blocks

        def counted(layout: Layout, condition: Condition) -> Blocks:
            inner = blocks(layout, condition)
            block = next(inner)
            while True:
                asked.append(block)
                block = inner.send((yield block))

        monkeypatch.setattr(tiny.pipeline.prior, "blocks", counted)
        tiny.preview(data, 2)
        assert len(asked) == 2

    def test_what_does_not_exist_is_refused(self) -> None:
        tiny = codec(qualities=4)
        data = tiny.compress(picture(10, 10), quality=3)
        for blocks in (0, 4, -1):
            with pytest.raises(ConfigError, match=f"no preview of {blocks} blocks: the stream has 3"):
                tiny.preview(data, blocks)
        assert list(tiny.previews(data, [])) == []

    def test_other_codecs_have_none(self) -> None:
        pocket = obverse.load("pocket-vq")
        with pytest.raises(ConfigError, match="codec 'pocket-vq' has no previews"):
            pocket.preview(pocket.compress(picture(16, 16)), 1)

    def test_a_whole_stream_is_checked(self) -> None:
        tiny = codec(qualities=4)
        stream = container.unpack(tiny.compress(picture(10, 10)))
        other = container.pack(stream.header, stream.payload, stream.symbol_check ^ 1)
        assert tiny.preview(other, 3).size == (10, 10)
        with pytest.raises(DivergedError):
            tiny.preview(other, 4)


class TestRateControl:
    def test_candidates_are_of_what_earlier_scales_left(self) -> None:
        part, f = quantizer(), torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0)) * 3
        latents = {"tokens": f}
        own = part.symbols(latents)["tokens"]
        coded: list[Coded] = []
        for scale, (first, stop) in enumerate(scale_spans(SIDES)):
            tokens, distances = part.stage_candidates(latents, coded, 5)
            assert torch.equal(tokens[..., 0], own[:, first:stop])
            assert tokens.shape == distances.shape == (2, SIDES[scale] ** 2, 5)
            assert (distances >= 0).all()
            assert (distances.diff() >= 0).all()
            coded.append(Coded("tokens", tokens[..., 0], torch.arange(first, stop)))
        farthest = [Coded("tokens", part.stage_candidates(latents, [], 19)[0][..., -1])]
        rest = f - part.scales.term(farthest[0].symbols, 0)
        expected = part.nearest(part.scales.features(rest, 1).flatten(0, 1)).view(2, -1)
        found = part.stage_candidates(latents, farthest, 1)[0][..., 0]
        assert torch.equal(found, expected)
        assert not torch.equal(found, own[:, 1:5])

    def test_a_scale_counts_as_many_cells_as_it_covers(self) -> None:
        """At the first scale the distances are those of the whole latent, for one that is the same everywhere."""
        part = quantizer()
        f = torch.randn(1, 6, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 6, 5, 5)
        tokens, distances = part.stage_candidates({"tokens": f}, [], 3)
        for token, distance in zip(tokens[0, 0], distances[0, 0], strict=True):
            code = part.scales.codebook.weight[token].view(1, 6, 1, 1)
            torch.testing.assert_close(distance, (f - code).square().sum(), rtol=1e-4, atol=1e-4)

    def test_streams_become_smaller(self) -> None:
        tiny, image = codec(qualities=4), picture(27, 18)
        control = tiny._rate_control([image], tiny.condition())
        layout = tiny.canvas.layout(1, 18, 27)
        sizes = []
        for rd_lambda in (1e9, control.scale(), 0):
            symbols = control.choose(rd_lambda)
            ledger = Ledger()
            run(tiny.pipeline.prior.blocks(layout, tiny.condition()), ledger.counting(Known(symbols)))
            sizes.append(ledger.bits["tokens"])
        assert sizes[0] == tiny.rate(image).bits
        assert sizes[0] > sizes[1] > sizes[2]
        plain = tiny.compress(image)
        assert tiny.compress(image, rd_lambda=1e9) == plain
        small = tiny.compress(image, quality=4, max_bytes=len(plain) - 10, verify=True)
        assert len(small) <= len(plain) - 10
        assert tiny.decompress(small).size == (27, 18)

    def test_a_prior_whose_blocks_are_no_scales_is_refused(self) -> None:
        tiny = codec(name="uniform", stages=[])
        with pytest.raises(ConfigError, match="needs a prior whose blocks are its stages"):
            tiny.compress(picture(10, 10), rd_lambda=1.0)


class TestFormats:
    def shapes(self, *keys: str) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(keys, (1,))

    def test_each_takes_its_own_files_alone(self) -> None:
        files = {
            "var-tokenizer": self.shapes("quantize.quant_resi.qresi_ls.0.weight", "encoder.conv_in.weight"),
            "var-transformer": self.shapes("pos_1LC", "lvl_embed.weight"),
            "var-trainer": self.shapes("var_wo_ddp.pos_1LC", "vae_local.quantize.quant_resi.qresi_ls.0.weight"),
        }
        for name, shapes in files.items():
            component = recognised(Path("file.pth"), shapes)
            assert component is not None
            assert component.name == name

    def test_fused_attention_is_split(self) -> None:
        ours = TokenizerFormat().translate({"decoder.mid.attn_1.qkv.bias": torch.arange(6)})
        assert {key: value.tolist() for key, value in ours.items()} == {
            f"encoder.decoder.mid.attn_1.{part}.bias": [2 * i, 2 * i + 1] for i, part in enumerate("qkv")
        }

    def test_the_prior_gets_the_quantizers_weights(self) -> None:
        keys = ("quantize.embedding.weight", "quantize.quant_resi.qresi_ls.2.bias")
        ours = TokenizerFormat().translate({key: torch.zeros(1) for key in keys})
        names = ("codebook.weight", "phi.2.bias")
        assert ours.keys() == {f"{part}.scales.{name}" for part in ("quantizer", "prior") for name in names}

    def test_biases_are_joined(self) -> None:
        names = ("v_bias", "zero_k_bias", "q_bias")
        ours = TransformerFormat().translate(
            {f"blocks.11.attn.{name}": torch.tensor([i]) for i, name in enumerate(names)}
        )
        assert ours["prior.model.layers.11.attention.qkv.bias"].tolist() == [2, 1, 0]
        assert len(ours) == 1

    def test_what_is_no_weight_is_left_out(self) -> None:
        assert TokenizerFormat().translate({"quantize.ema_vocab_hit_SV": torch.zeros(1)}) == {}
        assert TransformerFormat().translate(dict.fromkeys(("lvl_1L", "attn_bias_for_masking"), torch.zeros(1))) == {}

    def test_unknown_tensors_are_kept_for_strict_loading(self) -> None:
        assert TransformerFormat().translate({"other": torch.zeros(1)}).keys() == {"prior.model.other"}

    def test_files_of_the_trainer_hold_both(self) -> None:
        keys = ("var_wo_ddp.head.weight", "vae_local.quant_conv.bias", "var_opt.step")
        ours = TrainerFormat().translate({key: torch.zeros(1) for key in keys})
        assert ours.keys() == {"prior.model.head.weight", "encoder.quant_conv.bias"}

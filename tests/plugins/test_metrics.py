"""Metrics, against published values and values computed otherwise."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sample_pictures import picture

import obverse
from obverse.errors import ConfigError, WeightsError
from obverse.evaluation.interfaces import AnyMetric, SetMetric
from obverse.evaluation.learned import LearnedCodec
from obverse.nn.lpips import LPIPS
from obverse.selftest.seeded import fill
from obverse_metrics.clip import CLIP
from obverse_metrics.clip_iqa import CLIPIQA, PROMPTS
from obverse_metrics.fidelity import MSSSIM, PSNR
from obverse_metrics.frechet import FID, Gaussian, PatchFID, ReconstructionFID, SpatialFID, frechet_distance, patches
from obverse_metrics.inception import Inception, resize
from obverse_metrics.lpips import LPIPSVGG, LPIPSAlex, LPIPSSqueeze
from obverse_metrics.networks import NetworkOptions
from obverse_metrics.niqe import NIQE, asymmetric_gaussian, block_features, halve, normalise, statistics
from obverse_metrics.scores import InceptionScore, Precision, Recall, covered, inception_score
from obverse_metrics.tokens import (
    CodebookPerplexity,
    CodebookUsage,
    codebook_usage,
    count_tokens,
    perplexity,
    picture_counts,
)
from obverse_metrics.weights import FOLDER
from obverse_registry import registry

SHARED = Path(os.environ.get(FOLDER, Path(__file__).parents[3] / "shared" / "weights"))
METRICS = [c for c in registry().components("metric") if c.plugin == "metrics"]
NEEDY = [c for c in METRICS if c.name not in ("psnr-rgb", "ms-ssim-rgb", "codebook-usage", "codebook-perplexity")]
LPIPS_METRICS = {"alex": LPIPSAlex, "vgg": LPIPSVGG, "squeeze": LPIPSSqueeze}

Features = Mapping[str, np.ndarray]


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of seeded weights, under the names of the official one."""
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(fill(Inception(), "metrics").state_dict(), path)
    return str(path)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def natural(height: int = 210, width: int = 300) -> np.ndarray:
    """A picture with edges at several scales."""
    y, x = np.mgrid[:height, :width]
    waves = 128 + 60 * np.sin(x / 9 + y / 17)[..., None]
    blocks = picture(3, height + 2, width + 2)[:height, :width]
    return np.clip(waves + (blocks - 128.0) * 0.2, 0, 255).astype(np.uint8)


class TestRegistration:
    @pytest.mark.parametrize("component", METRICS, ids=lambda component: component.name)
    def test_every_metric_describes_itself(self, component: object) -> None:
        metric = component.load()()  # type: ignore[attr-defined]
        assert isinstance(metric, AnyMetric)
        assert metric.name == component.name  # type: ignore[attr-defined]
        assert metric.direction in ("higher", "lower")
        assert len(metric.range) == 2
        assert metric.colour_space
        assert metric.version

    def test_the_names(self) -> None:
        assert {c.name for c in METRICS} == {
            *("psnr-rgb", "ms-ssim-rgb", "lpips-alex", "lpips-vgg", "lpips-squeeze", "niqe", "clip-iqa"),
            *("fid", "rfid", "sfid", "patch-fid", "is", "precision", "recall"),
            *("codebook-usage", "codebook-perplexity"),
        }

    def test_every_metric_is_documented(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
        directions = dict(re.findall(r"^\| `([\w-]+)` \| (higher|lower) \|", page, re.MULTILINE))
        for component in METRICS:
            metric = component.load()()
            assert directions[component.name] == metric.direction
            for file in getattr(metric, "published", ()):
                assert file.url in page
                assert file.name in page


class TestWeights:
    @pytest.mark.parametrize("component", NEEDY, ids=lambda component: component.name)
    def test_missing_weights_are_told_in_one_line(self, component: object) -> None:
        metric = component.load()()  # type: ignore[attr-defined]
        reason = metric.missing()
        assert "\n" not in reason
        assert re.search(r"needs .+ \(https://.+, (MIT|BSD|Apache)", reason)
        assert FOLDER in reason
        assert f"--metric-option {metric.name}.weights=FILE" in reason

    @pytest.mark.parametrize("component", NEEDY, ids=lambda component: component.name)
    def test_measuring_without_them_is_an_error(self, component: object) -> None:
        metric = component.load()()  # type: ignore[attr-defined]
        image = natural(260, 260)
        with pytest.raises(WeightsError, match=rf"metric '{metric.name}' needs .* {FOLDER}"):
            metric.features(image) if isinstance(metric, SetMetric) else metric.measure(image, image)

    def test_a_path_that_leads_nowhere(self) -> None:
        assert LPIPSAlex(weights="nowhere.pth").missing() == "no file 'nowhere.pth'; check lpips-alex.weights"

    def test_the_folder_gives_the_published_files_or_the_merged_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(FOLDER, str(tmp_path))
        model = fill(LPIPS(), "metrics")
        trunk = {k: v for k, v in model.state_dict().items() if k.startswith("features")}
        heads = {k.replace(".", ".model.1."): v for k, v in model.state_dict().items() if k.startswith("lin")}
        torch.save(trunk | {"classifier.1.weight": torch.zeros(2, 2)}, tmp_path / "alexnet-owt-7be5be79.pth")
        assert "alex.pth" in str(LPIPSAlex().missing()), "half of the weights is not enough"
        torch.save(heads, tmp_path / "alex.pth")
        a, b = picture(1, 90, 90), picture(2, 90, 90)
        published = LPIPSAlex().measure(a, b)
        for file in ("alexnet-owt-7be5be79.pth", "alex.pth"):
            (tmp_path / file).unlink()
        save_file(model.state_dict(), tmp_path / "lpips_alex.safetensors")
        assert LPIPSAlex().measure(a, b) == published
        assert published == pytest.approx(float(model(*(torch.tensor(x).movedim(2, 0)[None] / 255 for x in (a, b)))))

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        file = tmp_path / "vgg.safetensors"
        save_file(LPIPS("vgg").state_dict(), file)
        with pytest.raises(WeightsError, match=r"weights of LPIPS do not fit .*vgg\.safetensors"):
            LPIPSAlex(weights=str(file)).measure(natural(), natural())

    def test_the_version_tells_the_weights(self, tmp_path: Path) -> None:
        file = tmp_path / "w.safetensors"
        save_file({"a": torch.zeros(1)}, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        assert LPIPSAlex(weights=str(file)).version.endswith(f"weights {digest}")
        assert LPIPSAlex(weights=f"{file},{file}").version.endswith(f"weights {digest}+{digest}")
        assert LPIPSAlex().version.endswith("weights missing")

    def test_a_network_is_loaded_once(self, inception: str, monkeypatch: pytest.MonkeyPatch) -> None:
        metrics = [FID(weights=inception), Precision(weights=inception), InceptionScore(weights=inception)]
        assert len({id(metric.network) for metric in metrics}) == 1
        passes = []
        forward = Inception.forward
        monkeypatch.setattr(Inception, "forward", lambda self, x: passes.append(1) or forward(self, x))
        image = picture(99, 60, 60)
        for metric in metrics:
            metric.features(image)
        assert len(passes) == 1, "metrics that ask for the same picture share its features"


class TestFidelity:
    def test_psnr(self) -> None:
        a = picture(0)
        assert PSNR().measure(a, a) is None
        assert PSNR().measure(np.zeros_like(a), np.full_like(a, 5)) == pytest.approx(20 * math.log10(255 / 5))

    def test_ms_ssim_against_a_direct_computation(self) -> None:
        pytest.importorskip("pytorch_msssim")
        a = natural(180, 200)
        b = np.clip(a + 20 * noise(1, *a.shape), 0, 255).astype(np.uint8)
        assert MSSSIM().measure(a, b) == pytest.approx(_ms_ssim(a, b), abs=1e-5)
        assert MSSSIM().measure(a, a) == pytest.approx(1.0)

    def test_ms_ssim_of_small_pictures_is_not_defined(self) -> None:
        pytest.importorskip("pytorch_msssim")
        assert MSSSIM().measure(natural(160, 300), natural(160, 300)) is None
        assert MSSSIM().measure(natural(161, 300), natural(161, 300)) is not None


def _ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """From the formulas of the paper, channel by channel."""
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    kernel = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def blur(x: np.ndarray) -> np.ndarray:
        x = np.stack([np.convolve(row, kernel, "valid") for row in x])
        return np.stack([np.convolve(row, kernel, "valid") for row in x.T]).T

    values = []
    for channel in range(3):
        x, y = a[..., channel].astype(float), b[..., channel].astype(float)
        value = 1.0
        for scale, weight in enumerate(weights):
            mx, my = blur(x), blur(y)
            vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            contrast = (2 * cov + c2) / (vx + vy + c2)
            luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
            last = scale == len(weights) - 1
            value *= (contrast * luminance if last else contrast).mean() ** weight
            x, y = (_half_mean(z) for z in (x, y))
        values.append(value)
    return float(np.mean(values))


def _half_mean(x: np.ndarray) -> np.ndarray:
    x = np.pad(x, [(side % 2, side % 2) for side in x.shape])
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


class TestLPIPS:
    @pytest.mark.parametrize(("trunk", "p0", "p1"), [("alex", 0.722, 0.138), ("squeeze", 0.71105, 0.14790)])
    def test_against_the_original_repositorys_pictures(self, trunk: str, p0: float, p1: float) -> None:
        """0.722 and 0.138 are commonly quoted; those of SqueezeNet come with the weights."""
        weights, folder = SHARED / f"lpips_{trunk}.safetensors", SHARED / "example"
        if not weights.is_file() or not folder.is_dir():
            pytest.skip(f"no {weights.name} and example pictures beside it under {FOLDER}")
        metric = LPIPS_METRICS[trunk](weights=str(weights))
        reference, *others = (
            np.asarray(Image.open(folder / f"ex_{name}.png").convert("RGB")) for name in ("ref", "p0", "p1")
        )
        assert metric.missing() is None
        assert [metric.measure(reference, other) for other in others] == pytest.approx([p0, p1], abs=5e-4)
        assert metric.measure(reference, reference) == 0

    @pytest.mark.parametrize("trunk", LPIPS_METRICS)
    def test_the_smallest_picture(self, trunk: str, tmp_path: Path) -> None:
        file, side = tmp_path / "w.safetensors", LPIPS.smallest[trunk]
        save_file(fill(LPIPS(trunk), "metrics").state_dict(), file)
        metric = LPIPS_METRICS[trunk](weights=str(file))
        small = [picture(seed, 60, 60)[:side, :50] for seed in (0, 1)]
        assert metric.measure(*small) is not None
        assert metric.measure(*(x[1:] for x in small)) is None

    @pytest.mark.parametrize(("trunk", "parameters"), [("alex", 2_470_848), ("vgg", 14_716_160), ("squeeze", 724_736)])
    def test_the_trunks_have_torchvisions_parameters(self, trunk: str, parameters: int) -> None:
        assert sum(p.numel() for p in LPIPS(trunk).parameters()) == parameters

    def test_squeezenets_names_are_those_of_the_file(self) -> None:
        file = SHARED / "lpips_squeeze.safetensors"
        if not file.is_file():
            pytest.skip(f"no {file.name} under {FOLDER}")
        shapes = {name: value.shape for name, value in load_file(file).items()}
        assert {name: value.shape for name, value in LPIPS("squeeze").state_dict().items()} == shapes


class TestNIQE:
    @pytest.fixture
    def plain(self, tmp_path: Path) -> str:
        """Parameters of zero mean and unit covariance."""
        np.savez(tmp_path / "niqe.npz", mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36))
        return str(tmp_path / "niqe.npz")

    def test_against_basicsr(self, plain: str) -> None:
        """BasicSR 1.4.2 computes 7.14945484 from the luma of this picture and the same parameters."""
        assert NIQE(weights=plain).measure(natural(), natural()) == pytest.approx(7.149454838, abs=1e-5)

    def test_it_sees_the_decoded_picture_alone(self, plain: str) -> None:
        metric, image = NIQE(weights=plain), natural()
        assert metric.measure(picture(5, 210, 300), image) == metric.measure(image, image)
        assert metric.measure(image, picture(5, 210, 300)) != metric.measure(image, image)

    def test_features_against_loops(self) -> None:
        luma = np.rint(natural(110, 205) @ [0.299, 0.587, 0.114])
        features = block_features(luma)
        assert features.shape == (2, 36)
        cut = luma[:96, :192]
        np.testing.assert_allclose(normalise(cut), _normalised(cut), atol=1e-9)
        for block in range(2):
            part = _normalised(cut)[:, 96 * block : 96 * (block + 1)]
            np.testing.assert_allclose(features[block, :18], statistics(part), rtol=1e-6)
            assert features[block, 1] == pytest.approx(np.mean(_scales(part)), rel=1e-3)

    def test_the_fit_finds_a_known_shape(self) -> None:
        """A normal distribution has shape 2 and scale sqrt(2) sigma, a Laplace distribution shape 1."""
        values = noise(0, 400_000)
        values[values > 0] *= 3
        values[values < 0] *= 3
        assert asymmetric_gaussian(values) == pytest.approx((2, 3 * math.sqrt(2), 3 * math.sqrt(2)), rel=0.02)
        laplace = np.random.default_rng(0).laplace(size=400_000)
        assert asymmetric_gaussian(laplace)[0] == pytest.approx(1, rel=0.02)

    def test_halving_keeps_straight_lines(self) -> None:
        ramp = np.add.outer(3.0 * np.arange(32), np.arange(40))
        inside = (slice(2, -2), slice(2, -2))
        np.testing.assert_allclose(halve(ramp)[inside], (ramp[::2, ::2] + 2)[inside], atol=1e-9)

    def test_flat_and_small_pictures_have_none(self, plain: str) -> None:
        for image in (np.full((200, 300, 3), 7, np.uint8), natural(95, 300), natural(100, 100)):
            assert NIQE(weights=plain).measure(image, image) is None

    def test_another_file(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "other.npz", a=np.zeros(3))
        (tmp_path / "text.npz").write_text("no")
        for name in ("other.npz", "text.npz"):
            with pytest.raises(WeightsError, match=r"parameters of niqe: .* is no \.npz file with mu_pris_param"):
                NIQE(weights=str(tmp_path / name)).measure(natural(), natural())


def _normalised(image: np.ndarray) -> np.ndarray:
    """With a window of two axes, pixel by pixel."""
    places = np.arange(-3, 4)
    window = np.exp(-np.add.outer(places**2, places**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    padded = np.pad(image, 3, mode="edge")
    result = np.empty_like(image)
    for i, j in np.ndindex(*image.shape):
        part = padded[i : i + 7, j : j + 7]
        mean = (window * part).sum()
        result[i, j] = (image[i, j] - mean) / (math.sqrt(abs((window * part**2).sum() - mean**2)) + 1)
    return result


def _scales(values: np.ndarray) -> tuple[float, float]:
    """Left and right scale, the shape found by bisection of the ratio of moments, which grows with it."""
    left, right = (math.sqrt(np.mean(side**2)) for side in (values[values < 0], values[values > 0]))
    skew = left / right
    target = np.abs(values).mean() ** 2 / np.mean(values**2) * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    low, high = 0.2, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        ratio = math.gamma(2 / middle) ** 2 / (math.gamma(1 / middle) * math.gamma(3 / middle))
        low, high = (middle, high) if ratio < target else (low, middle)
    scale = math.sqrt(math.gamma(1 / low) / math.gamma(3 / low))
    return left * scale, right * scale


class TestCLIPIQA:
    def small(self) -> CLIP:
        model = CLIP(layers=(1, 2, 1, 1), width=8, dim=12, text_width=128, text_layers=2, context=9, vocabulary=30)
        return fill(model, "metrics")

    @torch.inference_mode()
    def test_against_openais_network(self) -> None:
        """The same seeded weights in the copy of OpenAI's code that piq 0.8.0 carries."""
        image = torch.from_numpy(picture(1, 120, 150)).permute(2, 0, 1)[None] / 255
        pictures, texts = self.small().encode_image(image), self.small().encode_text(torch.tensor([[5, 1, 7, 29]]))
        expected = [-0.8354232311, 0.2393426001, -0.3769575059, -0.0122754667]
        assert pictures[0, :4].tolist() == pytest.approx(expected, abs=1e-5)
        assert texts[0, :3].tolist() == pytest.approx([0.3212148845, 0.3028026521, -0.4379106462], abs=1e-5)

    def test_the_network_has_the_official_files_parameters(self) -> None:
        with torch.device("meta"):
            model = CLIP()
        assert sum(p.numel() for p in model.parameters()) == 102_007_137
        assert model.visual.attnpool.heads == 32

    def test_score(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A picture that is the first prompt is a good photo, one that is the second a bad one."""
        metric = CLIPIQA()
        model = CLIP(layers=(1, 1, 1, 1), width=8, dim=12, text_width=64, text_layers=1, context=5)
        model = fill(model, "score").requires_grad_(False)
        monkeypatch.setattr(CLIPIQA, "load", lambda self: model)
        for prompt, score in zip(metric.prompts, (1, 0), strict=True):
            monkeypatch.setattr(model, "encode_image", lambda images, prompt=prompt: prompt[None])
            model.logit_scale.fill_(math.log(1e6))
            assert metric.measure(natural(), natural()) == pytest.approx(score, abs=1e-3)
        monkeypatch.setattr(model, "encode_image", lambda images: metric.prompts.mean(0, keepdim=True))
        assert metric.measure(natural(), natural()) == pytest.approx(0.5, abs=0.05)
        assert metric.measure(natural()[:31], natural()[:31]) is None

    def test_the_prompts_differ_in_one_word(self) -> None:
        good, bad = PROMPTS
        assert [a == b for a, b in zip(good, bad, strict=True)] == [True, False, True, True, True]


class TestInception:
    @torch.inference_mode()
    def test_against_torch_fidelity(self, inception: str) -> None:
        """What torch-fidelity 0.4.0 computes from the same picture and seeded weights."""
        features = FID(weights=inception).network(torch.tensor(picture(1, 120, 150)).movedim(2, 0)[None].float())
        pool, logits = features["pool"][0], features["logits"][0]
        expected = [995.534912109375, 33.91291809082031, 10198.7431640625, 86.0268783569336]
        assert pool[[0, 500, 1000, 2000]].tolist() == pytest.approx(expected, rel=1e-4)
        assert pool.mean().item() == pytest.approx(3119.408447265625, rel=1e-4)
        expected = [14823.673828125, 5725.41064453125, 14225.626953125]
        assert logits[[0, 500, 1000]].tolist() == pytest.approx(expected, rel=1e-4)

    def test_the_network_has_the_official_files_parameters(self) -> None:
        with torch.device("meta"):
            model = Inception()
        assert sum(p.numel() for p in model.parameters()) == 23_850_960
        assert model.state_dict()["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)

    def test_spatial_features_are_channels_last(self, inception: str) -> None:
        metric, seen = SpatialFID(weights=inception), []
        hook = metric.network.Mixed_6d.register_forward_hook(lambda *args: seen.append(args[2]))
        row = metric.features(picture(77, 60, 60))["spatial"]
        hook.remove()
        assert row.shape == (1, 17 * 17 * 7)
        assert row[0, 7 * (17 * 4 + 9) + 5] == seen[0][0, 5, 4, 9]

    def test_resizing_by_hand(self) -> None:
        """Place i of 4 looks at i * 3 / 4 of 3; the last one is the last pixel, for there is none beyond."""
        row = torch.tensor([0.0, 4.0, 8.0]).expand(1, 1, 3, 3)
        assert resize(row, 4)[0, 0, 2].tolist() == [0, 3, 6, 8]
        same = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0))
        assert torch.equal(resize(same, 299), same)


class TestFrechet:
    def test_by_hand(self) -> None:
        """Diagonal covariances: the sum of squared differences of means and of standard deviations."""
        a = Gaussian.from_covariance(np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
        b = Gaussian.from_covariance(np.array([3.0, 1.0]), np.diag([1.0, 25.0]))
        assert frechet_distance(a, b) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2)

    @pytest.mark.parametrize("count", [9, 40])
    def test_against_a_matrix_root(self, count: int) -> None:
        """Also for fewer pictures than features, where covariances are singular."""
        a, b = noise(0, count, 16) @ noise(1, 16, 16), 2 * noise(2, 50, 16) + 0.3
        s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        values = np.linalg.eigvals(s @ t).real.clip(min=0)  # tr of the root of a product: the sum of their roots
        expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * np.sqrt(values).sum()
        assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(expected, rel=1e-5)

    def test_against_scipy(self) -> None:
        linalg = pytest.importorskip("scipy.linalg")
        a, b = noise(0, 200, 24) @ noise(1, 24, 24), noise(2, 150, 24)
        s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        root = linalg.sqrtm(s @ t).real
        expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s + t - 2 * root)
        assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(expected)

    def test_a_set_has_no_distance_to_itself(self) -> None:
        rows = noise(3, 20, 300)
        assert frechet_distance(Gaussian.of(rows), Gaussian.of(rows)) == pytest.approx(0, abs=1e-8)

    def test_fid_compares_with_the_originals_or_with_statistics(self, tmp_path: Path) -> None:
        a, b = noise(0, 30, 5), noise(1, 40, 5) + 1
        expected = frechet_distance(Gaussian.of(a), Gaussian.of(b))
        reference, decoded = ([{"pool": row[None].astype(np.float32)} for row in rows] for rows in (a, b))
        assert ReconstructionFID().compute(reference, decoded) == pytest.approx(expected, rel=1e-5)
        assert FID().compute(reference, decoded) == pytest.approx(expected, rel=1e-5)
        file = tmp_path / "statistics.npz"
        np.savez(file, mu=a.mean(0), sigma=np.cov(a, rowvar=False))
        assert FID(statistics=str(file)).compute([], decoded) == pytest.approx(expected, rel=1e-5)
        assert FID().compute([], decoded) is None
        assert FID().compute(reference, decoded[:1]) is None

    def test_statistics_that_are_none(self, tmp_path: Path, inception: str) -> None:
        absent = FID(statistics=str(tmp_path / "absent.npz"), weights=inception)
        assert str(absent.missing()).endswith("absent.npz'; check fid.statistics")
        np.savez(tmp_path / "a.npz", mu=np.zeros(4))
        np.savez(tmp_path / "b.npz", mu=np.zeros(4), sigma=np.zeros((3, 3)))
        rows = [{"pool": noise(i, 1, 4)} for i in range(3)]
        for name, message in (("a.npz", "is no .npz file with mu and sigma"), ("b.npz", r"holds \[4\] and \[3, 3\]")):
            with pytest.raises(ConfigError, match=message):
                FID(statistics=str(tmp_path / name)).compute([], rows)

    def test_patches(self) -> None:
        """As HiFiC counts them: 2 x 3 of the grid, 1 x 2 of the shifted one, although more would fit."""
        image = np.random.default_rng(0).integers(0, 256, (13, 16, 3), dtype=np.uint8)
        cut = patches(image, 5)
        assert cut.shape == (2 * 3 + 1 * 2, 5, 5, 3)
        np.testing.assert_array_equal(cut[4], image[5:10, 5:10])
        np.testing.assert_array_equal(cut[7], image[2:7, 7:12])
        assert patches(image, 14).shape == (0, 14, 14, 3)

    def test_patch_fid(self, inception: str) -> None:
        metric = PatchFID(side="45", weights=inception)
        originals, decoded = ([metric.features(picture(seed + shift, 90, 81)) for seed in (0, 1)] for shift in (0, 5))
        assert originals[0]["pool"].shape == (2, 2048)
        assert metric.compute(originals, originals) == pytest.approx(0, abs=1e-3)
        value = metric.compute(originals, decoded)
        assert value is not None
        assert value > 1
        small = [PatchFID(weights=inception).features(picture(0, 90, 81))]
        assert small[0]["pool"].shape == (0, 2048)
        assert metric.compute(small, small) is None


class TestScores:
    def test_inception_score_of_constructed_probabilities(self) -> None:
        """Two classes with 0.9 and 0.1 in turn: ln IS is ln 2 minus the entropy of (0.9, 0.1)."""
        p = np.array([[0.9, 0.1], [0.1, 0.9]] * 10)
        expected = math.exp(math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1))
        assert inception_score(np.log(p), 5) == pytest.approx(expected)
        assert inception_score(np.log(p) + 7, 1) == pytest.approx(expected)
        assert inception_score(np.zeros((4, 6)), 2) == pytest.approx(1)

    def test_inception_score_averages_splits_in_order(self) -> None:
        logits = 1e3 * np.eye(4)[[0, 0, 1, 2]]
        assert inception_score(logits, 2) == pytest.approx((1 + 2) / 2)

    def test_inception_score_needs_as_many_pictures_as_splits(self) -> None:
        rows = [{"logits": row[None]} for row in 1e3 * np.eye(3)]
        assert InceptionScore().compute([], rows) is None
        assert InceptionScore(splits="1").compute([], rows) == pytest.approx(3)

    def test_precision_and_recall_of_constructed_points(self) -> None:
        """Originals on a line with steps of 1; half of the decoded are near it, and cover its first half."""
        originals = [{"pool": np.array([[float(i), 0.0]])} for i in range(10)]
        decoded = [{"pool": np.array([[i + 0.1, 0.0]])} for i in range(5)]
        decoded += [{"pool": np.array([[1000.0 * i, 500.0]])} for i in range(1, 6)]
        assert Precision(k=1).compute(originals, decoded) == 0.5
        # The decoded ones that are far apart have wide balls: that of (1000, 500) does not reach the line.
        assert Recall(k=1).compute(originals, decoded) == 0.6
        assert Precision().compute(originals[:3], decoded) is None
        assert Precision().compute(originals[:4], decoded) is not None

    def test_the_edge_of_a_ball_belongs_to_it(self) -> None:
        assert covered(np.array([[0.0], [1.0]]), np.array([[2.0]]), k=1) == 1
        assert covered(np.array([[0.0], [1.0]]), np.array([[2.01]]), k=1) == 0

    @pytest.mark.parametrize("make", [lambda: Precision(k="none"), lambda: InceptionScore(splits=0)])
    def test_wrong_options(self, make: object) -> None:
        with pytest.raises(ConfigError, match="is a whole number from 1, got"):
            make()  # type: ignore[operator]


class TestTokens:
    def test_usage_and_perplexity(self) -> None:
        counts = count_tokens(np.array([[0, 0, 0, 0, 1, 1, 2, 3]]), 16)
        assert codebook_usage(counts) == CodebookUsage().compute(counts) == 0.25
        assert perplexity(counts) == CodebookPerplexity().compute(counts) == pytest.approx(2**1.75)
        assert perplexity(np.zeros(4, np.int64)) is None

    def test_tokens_of_another_codebook(self) -> None:
        with pytest.raises(ConfigError, match="tokens of a codebook of 4 are 0 to 3, got 1 to 4"):
            count_tokens(np.array([1, 4]), 4)

    def test_tokens_of_a_codec(self) -> None:
        codec = obverse.load("pocket-vq")
        counts = picture_counts(codec, natural(64, 96))
        [size] = codec.pipeline.quantizer.alphabets.values()
        [found] = counts.values()
        assert found.shape == (size,)
        layout = codec.canvas.layout(1, 64, 96)
        assert found.sum() == layout.height * layout.width
        coded = LearnedCodec(source="pocket-vq").trip(natural(64, 96), 1).token_counts
        assert coded is not None
        assert [array.tolist() for array in coded.values()] == [found.tolist()]

    def test_a_codec_without_a_codebook(self) -> None:
        with pytest.raises(ConfigError, match="codec 'pocket-hyper' has no codebook"):
            picture_counts(obverse.load("pocket-hyper"), natural(64, 64))


def test_networks_run_where_they_are_told(inception: str) -> None:
    metric = FID(weights=inception, device="meta")
    assert isinstance(metric, NetworkOptions)
    assert next(metric.network.parameters()).is_meta

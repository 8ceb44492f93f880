"""From float models to exact ones: what is replaced, what stays, and what is refused."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from exact_numbers import layers as all_layers
from exact_numbers import llama, parallel, step_by_step, values
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.exact import BACKENDS, InexactError, audit, convert, exact_form, layers, use_backend
from obverse.nn.llama import Llama
from obverse.nn.masked import MaskedConv2d, causal_taps
from obverse.selftest.seeded import fill, uniform


def model() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.LayerNorm(8), nn.GELU()), nn.Linear(8, 4))
    return fill(layers, "model")


X = uniform((5, 6), "x").double() * 3


class TestOriginal:
    def test_weights_and_gradients_stay(self) -> None:
        original = model().train()
        original[0].weight.grad = torch.ones_like(original[0].weight)
        before = copy.deepcopy(original)
        convert(original)(X)
        assert original.training
        for (name, one), (_, other) in zip(original.named_parameters(), before.named_parameters(), strict=True):
            assert torch.equal(one, other), name
            assert one.dtype == torch.float32
            assert one.requires_grad
        assert torch.equal(original[0].weight.grad, torch.ones_like(original[0].weight))
        assert [type(m) for m in original.modules()] == [type(m) for m in before.modules()]

    def test_numbers_stay(self) -> None:
        original = model()
        before = original(X.float())
        convert(original)(X)
        assert torch.equal(original(X.float()), before)

    def test_weights_that_change_later_do_not_reach_the_twin(self) -> None:
        original = llama()
        twin = convert(original)
        before = parallel(twin)
        for parameter in original.parameters():
            parameter.zero_()
        assert torch.equal(parallel(twin), before)


class Scaled(nn.Module):
    """Wiring with a parameter, a buffer and a counter of its own."""

    factor: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.gain = nn.Parameter(torch.full((4,), 0.1))
        self.register_parameter("nothing", None)
        self.register_buffer("factor", torch.full((4,), 0.3, dtype=torch.float16))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.gain + self.factor


class TestTwin:
    @pytest.mark.parametrize("training", [True, False])
    def test_training_mode(self, training: bool) -> None:
        twin = convert(model().train(training))
        assert all(part.training == training for part in twin.modules())

    def test_own_tensors_become_float64(self) -> None:
        twin = convert(Scaled())
        assert type(twin) is Scaled
        assert (twin.gain.dtype, twin.factor.dtype, twin.count.dtype) == (torch.float64, torch.float64, torch.int64)
        assert torch.equal(twin.gain, torch.full((4,), 0.1).double())
        assert twin.nothing is None

    def test_nothing_is_trained(self) -> None:
        twin = convert(Scaled())
        assert not any(parameter.requires_grad for parameter in twin.parameters())
        assert not twin(X).requires_grad

    def test_wiring_runs_in_float64(self) -> None:
        twin = convert(Scaled())
        with audit():
            assert twin(X).dtype == torch.float64

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_weights_of_other_types(self, dtype: torch.dtype) -> None:
        original = model().to(dtype)
        assert torch.equal(convert(original)(X), convert(original.double())(X))

    def test_close_to_the_original(self) -> None:
        original = model()
        torch.testing.assert_close(convert(original)(X), copy.deepcopy(original).double()(X), rtol=1e-3, atol=1e-3)

    def test_parallel_is_step_by_step(self) -> None:
        twin = convert(llama())
        wanted = parallel(twin)
        for backend in BACKENDS:
            with use_backend(backend):
                assert torch.equal(step_by_step(twin), wanted)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_autocast_changes_nothing(self, backend: str) -> None:
        twin = convert(llama())
        wanted = parallel(twin)
        with use_backend(backend), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(parallel(twin), wanted)

    def test_logits_are_close_to_float64(self) -> None:
        error = (parallel(convert(llama())) - parallel(llama().double())).abs()
        assert error.square().mean().sqrt() < 0.02

    def test_dropout_is_off_while_evaluating(self) -> None:
        twin = convert(nn.Sequential(nn.Dropout(0.5), nn.Identity()).eval())
        assert torch.equal(twin(X), X)


class TestCopies:
    @pytest.fixture(params=["whole", "used before"])
    def twin(self, request: pytest.FixtureRequest) -> Llama:
        twin = convert(llama())
        if request.param == "used before":
            with use_backend("float64"):
                parallel(twin)
        return twin

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_deepcopy(self, twin: Llama, backend: str) -> None:
        with use_backend(backend):
            assert torch.equal(parallel(copy.deepcopy(twin)), parallel(convert(llama())))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_pickle(self, twin: Llama, backend: str) -> None:
        with use_backend(backend):
            assert torch.equal(parallel(pickle.loads(pickle.dumps(twin))), parallel(convert(llama())))

    def test_saved_by_torch(self, twin: Llama) -> None:
        file = io.BytesIO()
        torch.save(twin, file)
        file.seek(0)
        assert torch.equal(parallel(torch.load(file, weights_only=False)), parallel(twin))

    def test_moved(self, twin: Llama) -> None:
        assert torch.equal(parallel(twin.to("cpu")), parallel(convert(llama())))

    def test_loaded_weights(self) -> None:
        twin, other = convert(nn.Linear(6, 4)), convert(fill(nn.Linear(6, 4), "other"))
        with use_backend("float64"):
            twin(X)
            twin.load_state_dict(other.state_dict())
            assert torch.equal(twin(X), other(X))

    @pytest.mark.parametrize("name", all_layers())
    def test_every_layer_can_be_pickled(self, name: str) -> None:
        layer, shape = all_layers()[name]
        x, twin = values(shape, name), convert(layer)
        assert torch.equal(pickle.loads(pickle.dumps(twin))(x), twin(x))

    def test_converted_in_inference_mode(self) -> None:
        with torch.inference_mode():
            found = parallel(convert(llama()))
        assert torch.equal(found, parallel(convert(llama())))


class Halved(nn.Linear):
    """Looks like a linear layer, and is none."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class TestForms:
    def test_a_subclass_is_not_taken_for_its_base(self) -> None:
        twin = convert(Halved(6, 4).requires_grad_(False))
        assert type(twin) is Halved
        with audit(), pytest.raises(InexactError, match="addmm is not exact"):
            twin(X)

    def test_layers_of_others(self) -> None:
        class Exact(nn.Module):
            def __init__(self, layer: Halved) -> None:
                super().__init__()
                self.linear = layers.Linear(layer.weight, layer.bias)

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(x) / 2  # type: ignore[no-any-return]

        class Mine(Halved):
            pass

        exact_form(Mine)(Exact)
        original = nn.Sequential(Mine(6, 4)).eval()
        twin = convert(original)
        assert type(twin[0]) is Exact
        assert not twin[0].training
        wanted = layers.Linear(original[0].weight, original[0].bias)(X) / 2
        with audit():
            assert torch.equal(twin(X), wanted)

    def test_a_registration_returns_the_function(self) -> None:
        class Mine(nn.Module):
            pass

        def form(layer: Mine) -> nn.Module:
            return nn.Identity()

        assert exact_form(Mine)(form) is form

    def test_containers_keep_their_classes(self) -> None:
        parts = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(2, 2)]), "b": nn.ParameterList([torch.ones(2)])})
        twin = convert(parts)
        assert isinstance(twin["a"], nn.ModuleList)
        assert isinstance(twin["a"][0], layers.Linear)
        assert twin["b"][0].dtype == torch.float64

    def test_a_layer_by_itself(self) -> None:
        assert isinstance(convert(nn.Linear(2, 2)), layers.Linear)

    def test_a_masked_convolution_is_not_taken_for_its_base(self) -> None:
        assert isinstance(convert(MaskedConv2d(1, 1, causal_taps(3))), layers.MaskedConv2d)


class TestRefusals:
    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            (nn.BatchNorm2d(3), r"BatchNorm2d has no exact form \(known: .*Linear, .*SiLU"),
            (nn.GroupNorm(1, 3), "GroupNorm has no exact form"),
            (nn.MultiheadAttention(4, 1), "MultiheadAttention has no exact form"),
            (nn.Softmax(-1), "Softmax has no exact form"),
            (nn.RMSNorm(3), "RMSNorm has no exact form"),
            (nn.Conv1d(3, 3, 1), "Conv1d has no exact form"),
            (nn.LayerNorm((3, 3)), "LayerNorm over 2 axes has no exact form, only over one"),
            (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "'reflect' padding of .* has no exact form"),
            (nn.Conv2d(3, 3, 3, padding="same"), "padding of 'same' has no exact form"),
            (nn.ConvTranspose2d(4, 4, 3, groups=2), "transposed convolution with groups or dilation has no exact form"),
            (nn.ConvTranspose2d(4, 4, 3, dilation=2), "transposed convolution with groups or dilation"),
            (nn.Softplus(2.0), r"softplus with beta 2\.0 has no exact form, only with 1"),
        ],
    )
    def test_no_exact_form(self, layer: nn.Module, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            convert(layer)

    def test_the_path_is_named(self) -> None:
        parts = nn.ModuleDict({"layers": nn.ModuleList([nn.Identity(), nn.ModuleDict({"norm": nn.BatchNorm2d(3)})])})
        with pytest.raises(ConfigError, match=r"^layers\.1\.norm: BatchNorm2d has no exact form"):
            convert(parts)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_weights_that_are_not_finite(self, value: float) -> None:
        original = llama()
        original.layers[2].attention.wo.weight[3, 5] = value
        with pytest.raises(ConfigError, match=r"^layers\.2\.attention\.wo: weights hold infinities or values that"):
            convert(original)

    def test_weights_that_are_not_finite_without_a_path(self) -> None:
        layer = nn.Linear(2, 2).requires_grad_(False)
        layer.weight[0, 0] = torch.nan
        with pytest.raises(ConfigError, match=r"^Linear: weights hold infinities"):
            convert(layer)

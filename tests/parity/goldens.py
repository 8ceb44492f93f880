"""Fixtures made by official code: folders of weights, inputs and outputs, found under OBVERSE_GOLDENS.

pytestmark = pytest.mark.parity

@pytest.mark.parametrize("golden", goldens("llamagen", "autoregressive.models.gpt.Transformer"))
def test_logits(golden: Golden) -> None:
    golden.config["ModelArgs"], golden.weights(), golden.tensors()
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(os.environ.get("OBVERSE_GOLDENS", Path(__file__).parents[3] / "shared" / "goldens"))


@dataclass(frozen=True)
class Golden:
    """One fixture folder."""

    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "config.json").read_text(encoding="utf-8")))

    def weights(self) -> dict[str, Tensor]:
        """Under official names, float32."""
        return load_file(self.folder / "weights.safetensors")

    def tensors(self) -> dict[str, Tensor]:
        """Inputs and outputs by name; the README beside the folder says what they are."""
        return load_file(self.folder / "io.safetensors")


def goldens(system: str, *official_classes: str) -> list[Any]:
    """Parameters for every fixture folder of a system, of some official classes; one that skips where there is none.

    All folders where no class is named.
    """
    found = list(_folders(ROOT / system))
    if official_classes:
        found = [golden for golden in found if golden.config.get("official_class") in official_classes]
    if not found:
        reason = f"no fixtures of {', '.join(official_classes) or system} under {ROOT / system} (set OBVERSE_GOLDENS)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return [pytest.param(golden, id=str(golden.folder.relative_to(ROOT))) for golden in found]


def official_keys(system: str, file: str = "official_keys.json") -> dict[str, dict[str, Any]]:
    """{release: {key: [shape, dtype]}} of full-size models, or nothing where the list is absent."""
    path = ROOT / system / file
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _folders(root: Path) -> Iterator[Golden]:
    if root.is_dir():
        yield from (Golden(path.parent) for path in sorted(root.glob("**/config.json")) if path.is_file())

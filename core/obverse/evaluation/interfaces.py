"""What is measured, and what measures. Imports no torch until something runs.

image --Protocol--> pixels --Subject--> Trip (decoded pixels, sizes, times) --Metric--> numbers
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from obverse.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Trip:
    """One image through a codec and back.

    Attributes:
        pixels: the decoded image [H, W, 3] uint8.
        file_bytes: everything that was written.
        payload_bytes: entropy-coded symbols alone; None where a codec does not tell.
        estimated_bits: -sum of log2 p under the codec's own model; None for codecs without one.
        fixed_bits: what the same symbols take in fixed-length codes; None for unbounded integers and classical codecs.
        token_counts: how often each code occurs among the symbols, [K] int64 for each array of them; None as above.
        encoding_seconds, decoding_seconds: wall clock, networks loaded, device synchronised.
        coder_encoding_seconds, coder_decoding_seconds: the parts that are spent on integers and bytes; None as above.
    """

    pixels: np.ndarray
    file_bytes: int
    payload_bytes: int | None = None
    estimated_bits: float | None = None
    fixed_bits: float | None = None
    token_counts: Mapping[str, np.ndarray] | None = None
    encoding_seconds: float = 0.0
    decoding_seconds: float = 0.0
    coder_encoding_seconds: float | None = None
    coder_decoding_seconds: float | None = None


class Subject(ABC):
    """A codec under evaluation: a learned one, or an anchor.

    Attributes:
        name: as in results.
        qualities: settings that it has, worst first; any sortable values (numbers of a quality, QP or distance).
    """

    name: str
    qualities: Sequence[Any]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal; changes when the same image and quality may give other bytes: weights, versions, options."""

    def fingerprint_of(self, quality: Any) -> str:
        """As `fingerprint`, for one quality, where qualities have weights of their own."""
        return self.fingerprint

    def parse_quality(self, text: str) -> Any:
        """The quality that a word names: one of `qualities`, or where these are numbers another number.

        Raises:
            ConfigError: it names none.
        """
        for quality in self.qualities:
            if str(quality) == text:
                return quality
        try:
            return type(self.qualities[0])(text) if isinstance(self.qualities[0], int | float) else self._refuse(text)
        except ValueError:
            return self._refuse(text)

    def _refuse(self, text: str) -> NoReturn:
        known = ", ".join(map(str, self.qualities))
        raise ConfigError(f"codec {self.name!r} has no quality {text!r} (qualities: {known})")

    def missing(self) -> str | None:
        """Why it cannot run here, in one line, or None. Nothing heavy is loaded to tell."""
        return None

    def available(self, qualities: Sequence[Any]) -> tuple[Sequence[Any], str | None]:
        """Those of some qualities that can run here, and why the others cannot, in one line, or None."""
        reason = self.missing()
        return (qualities, None) if reason is None else ((), reason)

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """For the result file: versions, command line, chroma format, bit depth, colour conversion, weights, licence.

        Of learned codecs also `parameters`, `codebook` and `tokens`, as `obverse list --codecs` counts them.
        """

    @abstractmethod
    def trip(self, pixels: np.ndarray, quality: Any) -> Trip:
        """Compress and decompress [H, W, 3] uint8, through real bytes.

        Raises:
            ObverseError: this image cannot be coded; the others may be.
        """


class AnyMetric(ABC):
    """What all metrics tell of themselves; each is a `Metric`, a `SetMetric` or a `TokenMetric`.

    Registered as component kind `metric` under its name; made without arguments or with those of the command line
    (`--metric-option NAME.KEY=VALUE`).

    Attributes:
        name: key in results, as `psnr-rgb` or `lpips-alex`.
        direction: which way is better.
        range: smallest and largest value; infinite ends are None.
        colour_space: what it looks at, as "RGB" or "luma (BT.601)".
        needs_reference: False for no-reference metrics, which see the decoded image alone.
    """

    name: ClassVar[str]
    direction: ClassVar[Direction]
    range: ClassVar[tuple[float | None, float | None]] = (None, None)
    colour_space: ClassVar[str] = "RGB"
    needs_reference: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why it cannot run: the package or the weights that it lacks and where they come from; or None."""
        return None

    @property
    def version(self) -> str:
        """Implementation and its version, as `pytorch-msssim 1.0.0`."""
        return ""


class Metric(AnyMetric):
    """A number of one image."""

    @abstractmethod
    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        """Of two images [H, W, 3] uint8 of one size; None where it is not defined (infinite, too small)."""


class SetMetric(AnyMetric):
    """A number of a whole set of images, as FID.

    It is fed image by image and gives features that can be stored and merged: so processes share the work, and an
    interrupted run goes on.
    """

    @abstractmethod
    def features(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        """What the set's number needs of an image [H, W, 3] uint8: float32 arrays by name, rows of which are pooled."""

    @abstractmethod
    def compute(
        self, reference: Sequence[Mapping[str, np.ndarray]], decoded: Sequence[Mapping[str, np.ndarray]]
    ) -> float | None:
        """The number of a set, from the features of all images, in the order of the images."""


class TokenMetric(AnyMetric):
    """A number of the tokens of a whole set of images, for codecs that have a codebook."""

    colour_space = "tokens"
    needs_reference = False

    @abstractmethod
    def compute(self, counts: np.ndarray) -> float | None:
        """The number of a set, from how often each code occurs in it, [K] int64."""


@dataclass(frozen=True)
class Sample:
    """The record of one image, one codec and one quality: a line of `samples.jsonl`.

    Attributes:
        key: SHA-256 over the image's pixels after the protocol, the subject's name and fingerprint, the quality and the
            protocol. Nothing with the same key is measured twice.
        filename: of the image, relative to the dataset.
        image: SHA-256 of the pixels.
        width, height: of what was coded.
        codec, fingerprint, quality, protocol: as told by their owners; quality as a string.
        bpp: of the whole file; `bpp_payload` and `bpp_estimated` as their names say; `bpp_fixed` of fixed-length codes.
        times: `encoding`, `decoding`, `coder_encoding`, `coder_decoding`, in seconds.
        metrics: by name; None where one is not defined.
        picture: path of the decoded picture relative to the results folder, where it was kept.
    """

    key: str
    filename: str
    image: str
    width: int
    height: int
    codec: str
    fingerprint: str
    quality: str
    protocol: str
    bytes: int
    bpp: float
    bpp_payload: float | None = None
    bpp_estimated: float | None = None
    bpp_fixed: float | None = None
    times: Mapping[str, float | None] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    picture: str | None = None

"""Codecs as generators: pictures drawn from their priors, and what they leave open of a picture.

A row is one codec at one quality, with one picture per seed. Without `image` all symbols are drawn; with it the arrays
of `keep` are those of the image, and the others are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from obverse.config import load_config
from obverse.errors import ConfigError, PluginError, UnknownNameError, WeightsError
from obverse.experiments.recipe import Experiment, Setting, section
from obverse.files import check_output
from obverse.numerics import check_mode


@dataclass(frozen=True, kw_only=True)
class Row:
    """One codec at one quality.

    Attributes:
        codec: name, or path of a YAML file.
        quality: from 1; None for the codec's own.
        weights: files, relative to the recipe; none for those of the setting, or the codec's own.
        numerics: numerics mode; None for the codec's own.
        seeds: one picture each.
        label: class, for priors with classes.
        guidance: towards the class.
        temperature, top_k, top_p: as for `Codec.generate`.
        image: picture that arrays are kept of, relative to the recipe.
        keep: names of these arrays, or how many of the first in coding order.
        title: a remark, shown beside the codec.
    """

    codec: str
    quality: int | None = None
    weights: tuple[str, ...] = ()
    numerics: str | None = None
    seeds: tuple[int, ...] = ()
    label: int | None = None
    guidance: float | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    image: str | None = None
    keep: int | str | tuple[str, ...] | None = None
    title: str = ""

    def __str__(self) -> str:
        if self.keep is None:
            drawn = "all drawn"
        elif isinstance(self.keep, int):
            drawn = f"{self.keep} of the picture's arrays kept"
        else:
            drawn = f"{self.keep if isinstance(self.keep, str) else ', '.join(self.keep)} of the picture kept"
        told = {"class": self.label, "guidance": self.guidance, "temperature": self.temperature}
        told |= {"top-k": self.top_k or None, "top-p": None if self.top_p == 1 else self.top_p}
        quality = "" if self.quality is None else f", quality {self.quality}"
        options = "".join(f", {name} {value:g}" for name, value in told.items() if value is not None)
        return f"{self.codec}{quality}: {drawn}{options}{f' ({self.title})' if self.title else ''}"

    def check(self, base: Path) -> None:
        """Refuse values that can be seen to be wrong without loading the codec.

        Raises:
            ConfigError: with the first of them.
        """
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError("temperature and top_k are at least 0, top_p is in (0, 1]")
        if (self.image is None) != (self.keep is None):
            raise ConfigError("image and keep go together: arrays are kept of an image")
        if self.image is not None and not (base / self.image).is_file():
            raise ConfigError(f"there is no image {str(base / self.image)!r}")
        check_mode(self.numerics)
        with suppress(UnknownNameError, PluginError, WeightsError):  # what is missing is told when the row is drawn
            load_config(self.codec, quality=self.quality)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """The keys of a recipe beside `kind`."""

    rows: tuple[dict[str, Any], ...]
    size: tuple[int, ...] = (256, 256)
    seeds: tuple[int, ...] = (0, 1, 2)
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Generation(Experiment):
    """A sheet of pictures, each picture alone, and a report in JSON.

    Attributes:
        name: of the files.
        base: folder that the recipe's paths are relative to.
        size: width and height in pixels; images are cropped and resized to it.
        source: where the experiment is described.
        rows: from the top.
    """

    name: str
    base: Path
    size: tuple[int, int]
    source: str
    rows: tuple[Row, ...]

    @classmethod
    def parse(cls, body: Mapping[str, Any], path: Path) -> Generation:
        """From the keys of a recipe.

        Raises:
            ConfigError: one does not exist, or has a wrong value.
        """
        recipe = section(_Recipe, body, str(path))
        if len(recipe.size) != 2 or min(recipe.size) < 1:
            raise ConfigError(f"{path}: size takes [width, height] in pixels, not {list(recipe.size)}")
        if not recipe.rows or not recipe.seeds:
            raise ConfigError(f"{path}: rows and seeds need at least one entry each")
        rows = []
        for number, entry in enumerate(recipe.rows, 1):
            row = section(Row, entry, f"{path}, row {number}")
            rows.append(replace(row, seeds=row.seeds or recipe.seeds))
            try:
                row.check(path.parent)
            except ConfigError as error:
                raise ConfigError(f"{path}, row {number}: {error}") from error
        size = recipe.size[0], recipe.size[1]
        return cls(name=path.stem, base=path.parent, size=size, source=recipe.source, rows=tuple(rows))

    @property
    def steps(self) -> int:
        return len(self.rows)

    def outputs(self, folder: Path) -> list[Path]:
        return [folder / f"{self.name}.png", folder / f"{self.name}.json"]

    def to_dict(self) -> dict[str, Any]:
        defaults = asdict(Row(codec=""))
        rows = [{key: value for key, value in asdict(row).items() if value != defaults[key]} for row in self.rows]
        body = {"kind": "generation", "source": self.source, "size": self.size, "rows": rows}
        told: dict[str, Any] = json.loads(json.dumps(body))  # lists for tuples
        return told

    def run(self, setting: Setting) -> Iterator[str]:
        from obverse.experiments.studio import Studio

        sheet, report = self.outputs(setting.folder)
        for path in (sheet, report):
            check_output(path, setting.force, new_folder=True)
        studio = Studio(self.base, self.size, setting)
        for number, row in enumerate(self.rows, 1):
            try:
                studio.draw(number, row)
                yield ""
            except (UnknownNameError, PluginError, WeightsError) as error:
                yield studio.leave_out(number, row, error)
            except ConfigError as error:
                raise ConfigError(f"{self.name}, row {number}: {error}") from error
        studio.write_sheet(sheet)
        studio.write_report(report, {"name": self.name, "recipe": self.to_dict()}, self.source)

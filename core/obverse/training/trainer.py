"""One training loop on accelerate: resumable, logged, with pictures along the way."""

from __future__ import annotations

import csv
import gc
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from obverse.errors import ConfigError
from obverse.pipeline import create
from obverse.training.data import ImageCrops
from obverse.training.task import Task


class Trainer:
    """Makes a task and runs it to the end of its schedule, continuing from the last checkpoint of its run folder.

    Args:
        config: the resolved configuration, in the shape of `obverse.training.config.DEFAULTS`.
        console: where progress goes.
    """

    def __init__(self, config: Mapping[str, Any], console: Console | None = None) -> None:
        if not config["output"]:
            raise ConfigError("output: a run folder is needed, for example output=runs/pocket-vq")
        self.config = config
        self.folder = Path(config["output"])
        self.console = console or Console(stderr=True)
        self.accelerator = Accelerator(mixed_precision=config["precision"], step_scheduler_with_optimizer=False)
        torch.manual_seed(config["seed"])  # before the task is made: it decides the weights that it starts from
        task: Task = create("task", config["task"])
        options = config["optimizer"]
        trainable = [p for p in task.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable,
            lr=options["lr"],
            betas=(options["beta1"], options["beta2"]),
            weight_decay=options["weight_decay"],
        )
        self.data = ImageCrops(
            config["data"]["sources"], config["data"]["crop"], config["seed"], config["data"]["cache"]
        )
        loader = DataLoader(
            self.data,
            batch_size=config["data"]["batch"],
            shuffle=True,
            drop_last=True,
            num_workers=config["data"]["workers"],
            generator=torch.Generator().manual_seed(config["seed"]),
        )
        if not len(loader):
            raise ConfigError(f"data.batch is {config['data']['batch']}, more than the {len(self.data)} images")
        self.task, self.optimizer, self.loader = self.accelerator.prepare(task, optimizer, loader)
        self.average = {k: v.detach().clone() for k, v in task.state_dict().items()}
        self.step = 0

    @property
    def module(self) -> Task:
        """The task without accelerate's wrappers."""
        return self.accelerator.unwrap_model(self.task)  # type: ignore[no-any-return]

    def run(self) -> Path:
        """Train to the last step; returns the path of the averaged weights."""
        steps, every = self.config["schedule"]["steps"], self.config["every"]
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            (self.folder / "config.json").write_text(json.dumps(dict(self.config), indent=2))
        self._resume()
        batches = self._batches()
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )  # fmt: skip
        quiet = not self.accelerator.is_main_process or not self.console.is_terminal
        with Progress(*columns, console=self.console, disable=quiet) as progress:
            bar = progress.add_task("train", total=steps, completed=self.step, numbers="")
            while self.step < steps:
                images = next(batches)
                numbers = self._update(images)
                self.step += 1
                if self.step % every["log"] == 0 or self.step == steps:
                    line = self._log(numbers)
                    progress.update(bar, numbers=line)
                if self.step % every["preview"] == 0 or self.step == steps:
                    self._preview(images)
                if self.step % every["checkpoint"] == 0 or self.step == steps:
                    self._checkpoint()
                progress.update(bar, completed=self.step)
        return self._export()

    def _batches(self) -> Iterator[Tensor]:
        """Endless batches that start where the run stands."""
        per_epoch = len(self.loader)
        epoch, skip = divmod(self.step, per_epoch)
        while True:
            self.data.epoch = epoch
            self.loader.set_epoch(epoch)
            # The order of an epoch depends on the seed and the epoch alone.
            generator = getattr(self.loader, "generator", None) or getattr(self.loader.sampler, "generator", None)
            if generator is not None:
                generator.manual_seed(self.config["seed"] * 1_000_003 + epoch)
            loader = self.accelerator.skip_first_batches(self.loader, skip) if skip else self.loader
            yield from loader
            epoch, skip = epoch + 1, 0

    def _update(self, images: Tensor) -> dict[str, Tensor]:
        noise = self.step * self.accelerator.num_processes + self.accelerator.process_index
        torch.manual_seed(self.config["seed"] * 1_000_003 + noise)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config["optimizer"]["lr"] * self._rate()
        with self.accelerator.autocast():
            loss, numbers = self.task(images)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.task.parameters(), self.config["optimizer"]["clip"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(self.config["ema"], self.step / (self.step + 10))
        for key, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)
        return {"loss": loss.detach(), **numbers}

    def _rate(self) -> float:
        """Linear warm-up, then a cosine down to `final`."""
        schedule = self.config["schedule"]
        if self.step < schedule["warmup"]:
            return float((self.step + 1) / schedule["warmup"])
        done = (self.step - schedule["warmup"]) / max(1, schedule["steps"] - schedule["warmup"])
        return float(schedule["final"] + (1 - schedule["final"]) * (1 + math.cos(math.pi * done)) / 2)

    def _log(self, numbers: Mapping[str, Tensor]) -> str:
        row = {"step": self.step, "time": round(time.time(), 1)}
        means = self.accelerator.reduce(dict(numbers), reduction="mean")  # over processes
        row |= {k: float(f"{float(v):.5g}") for k, v in means.items()}
        if self.accelerator.is_main_process:
            path = self.folder / "log.csv"
            fresh = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(row))
                if fresh:
                    writer.writeheader()
                writer.writerow(row)
        return "  ".join(f"{k} {v}" for k, v in row.items() if k not in ("step", "time"))

    def _preview(self, images: Tensor) -> None:
        if not self.accelerator.is_main_process:
            return
        from obverse.pictures import save_rows

        with torch.no_grad(), self._averaged():
            shown = self.module.preview(images[:8])
        if shown is not None:
            save_rows(self.folder / "previews" / f"{self.step:07d}.png", [images[:8], shown])

    def _averaged(self) -> _Swap:
        return _Swap(self.module, self.average)

    def _checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "task": self.module.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        beside = self.folder / "checkpoint.tmp"
        torch.save(state, beside)
        os.replace(beside, self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        self.module.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        self._trim_log()
        self.console.print(f"continuing {self.folder} at step {self.step}")

    def _trim_log(self) -> None:
        """Drop the rows that a killed run wrote after its last checkpoint."""
        path = self.folder / "log.csv"
        if path.exists() and self.accelerator.is_main_process:
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines[1:] if int(line.split(",")[0]) <= self.step]
            path.write_text("".join(lines[:1] + kept))

    def _export(self) -> Path:
        path = self.folder / "weights.safetensors"
        if self.accelerator.is_main_process:
            with self._averaged():
                tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.module.weights().items()}
            beside = path.with_suffix(".tmp")
            save_file(tensors, beside)
            os.replace(beside, path)
        return path


class _Swap:
    """Puts averaged weights into a module for as long as the `with` lasts."""

    def __init__(self, module: Task, average: dict[str, Tensor]) -> None:
        self.module, self.average = module, average

    def __enter__(self) -> None:
        self.kept = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.module.load_state_dict(self.average)
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        self.module.load_state_dict(self.kept)
        self.module.train()


def leave_group() -> None:
    """End what ties processes together that trained as one, when all of them are done.

    Nothing may hold on to the group by then, else its threads are torn down with the interpreter, which can abort.
    """
    state = PartialState()
    state.wait_for_everyone()
    gc.collect()
    state.destroy_process_group()

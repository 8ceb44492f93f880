"""One training loop on accelerate: resumable, logged, with pictures along the way."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from rich.console import Console
from torch import Tensor

from obverse.errors import ConfigError, TrainingError
from obverse.files import make_folder
from obverse.pipeline import create
from obverse.training.average import Average, changing
from obverse.training.checkpoint import check_same, load_checkpoint, save_checkpoint
from obverse.training.data import Data, open_data
from obverse.training.export import WEIGHTS, write_config, write_weights
from obverse.training.finite import Finite
from obverse.training.interrupts import Interrupts
from obverse.training.logs import Means, make_logs
from obverse.training.order import Keyed, Order, Share, load
from obverse.training.previews import Previews
from obverse.training.progress import Progression
from obverse.training.task import Task
from obverse.training.turn import Turn, make_turns
from obverse.training.validation import validate


class Trainer:
    """Makes a task and runs it to the end of its schedule, continuing from the last checkpoint of its run folder.

    Args:
        config: the resolved configuration, in the shape of `obverse.training.config.DEFAULTS`.
        console: where progress goes.

    Raises:
        ConfigError: a part of the configuration does not fit the task, the data or this machine.
    """

    def __init__(self, config: Mapping[str, Any], console: Console | None = None) -> None:
        if not config["output"]:
            raise ConfigError("output: a run folder is needed, for example output=runs/pocket-vq")
        self.config, self.every = config, config["every"]
        self.folder = Path(config["output"])
        self.console = console or Console(stderr=True)
        self.accelerator = _accelerator(config["precision"])
        self.logs = make_logs(config["logs"], self.folder)
        torch.manual_seed(config["seed"])  # before the task is made: it decides the weights that it starts from
        self.task: Task = create("task", config["task"]).to(self.accelerator.device)
        if config["precision"] != "no":
            # Half precision has its fastest convolutions where the channels of a pixel lie together.
            self.task.to(memory_format=torch.channels_last)
        self.task.noise.seed = config["seed"]
        self.data = open_data(config["data"], self.task.data, config["seed"])
        self.task.check(self.data)
        self.validation: Data | None = None
        if config["data"]["validation"]:
            options = config["data"] | {"sources": config["data"]["validation"]}
            self.validation = open_data(options, self.task.data, config["seed"])
            self.task.check(self.validation)
        self.share, self.steps = self._share(), self._steps()
        self.turns = make_turns(self.task, config, self.steps)
        # A scaler that is switched off does nothing, so that the loop has one form.
        self.scaler = self.accelerator.scaler or torch.amp.GradScaler(enabled=False)
        self.average = Average(self.task, config["ema"], config["ema_warmup"])
        self.means, self.step = Means(), 0
        self.finite = Finite(self.accelerator, self.folder)

    def run(self) -> Path:
        """Train to the last step; returns the path of the averaged weights.

        Raises:
            ConfigError: the run folder has a checkpoint of another configuration.
            TrainingError: its checkpoint is damaged, or the loss is not finite.
            KeyboardInterrupt: Ctrl-C; a checkpoint has been written.
        """
        self._resume()
        if self.accelerator.is_main_process:
            make_folder(self.folder)
            write_config(self.folder, self.config)
            for log in self.logs:
                log.resume(self.step)
        self.accelerator.wait_for_everyone()
        try:
            self._loop()
        finally:
            for log in self.logs:
                log.close()
        return self._export()

    def _loop(self) -> None:
        previews = Previews(self.folder, self.validation or self.data, self.logs)
        batches, main = self._batches(), self.accelerator.is_main_process
        progress = Progression(
            self.console, steps=self.steps, start=self.step, batch=self.config["data"]["batch"], shown=main
        )
        with Interrupts(self.accelerator) as interrupts, progress:
            while self.step < self.steps:
                self._update(batches)
                self.step += 1
                if self._due("log"):
                    self._log(progress)
                if self._due("validation") and self.validation is not None:
                    self._validate(self.validation)
                if self._due("preview"):
                    with self.average.applied():  # in all processes: evaluation mode may settle something
                        if main:
                            previews.write(self.task, self.step, self.accelerator)
                if self._due("checkpoint"):
                    self._checkpoint()
                progress.at(self.step)
                if interrupts.asked(self.step) and self.step < self.steps:
                    self._checkpoint()
                    self.accelerator.wait_for_everyone()  # launchers end all processes when the first one ends
                    raise KeyboardInterrupt

    def _share(self) -> Share:
        batch, passes = self.config["data"]["batch"], self.config["accumulate"]
        processes = self.accelerator.num_processes
        if batch % (passes * processes):
            raise ConfigError(
                f"data.batch is {batch}, not divisible by accumulate={passes} x {processes} "
                f"process{'es' if processes > 1 else ''}"
            )
        return Share(batch, passes, self.accelerator.process_index, processes)

    def _steps(self) -> int:
        steps, epochs = (self.config["schedule"][key] for key in ("steps", "epochs"))
        if epochs is not None:
            steps = math.ceil(epochs * len(self.data) / self.config["data"]["batch"])
        if steps is None:
            raise ConfigError("schedule needs steps or epochs, as schedule.steps=1000")
        return int(steps)

    def _batches(self) -> Iterator[Mapping[str, Tensor]]:
        """One batch per pass, from where the run stands to its end."""
        order = Order(
            items=len(self.data),
            batch=self.config["data"]["batch"],
            share=self.share,
            seed=self.config["seed"],
            start=self.step,
            end=self.steps,
        )
        return load(Keyed(self.data), order, self.config["data"]["workers"], self.accelerator.device)

    def _update(self, batches: Iterator[Mapping[str, Tensor]]) -> None:
        self.task.step = self.step
        for rows in self.share.rows:
            batch = next(batches)
            for turn in self.turns:
                self._backward(turn, batch, rows)
        updated = [turn for turn in self.turns if turn.update(self.step, self.scaler, self.accelerator)]
        if updated:
            self.scaler.update()
        if not self.scaler.is_enabled():  # with one, steps whose gradients overflow are left out
            for turn in updated:
                self.finite.note(turn.norm, self.step + 1)
        self.task.finish()
        self.average.update(self.step)

    def _backward(self, turn: Turn, batch: Mapping[str, Tensor], rows: range) -> None:
        self.task.noise.start(self.step, rows)
        # What modules draw themselves, as dropout, follows from the step too.
        torch.manual_seed(_seed(self.config["seed"], self.step, rows.start))
        if len(self.turns) > 1:
            for other in self.turns:
                other.require_gradients(other is turn)
        with self.accelerator.autocast():
            loss, numbers = self.task(batch, turn.name)
        if loss.requires_grad:
            self.scaler.scale(loss / len(self.share.rows)).backward()
        self.finite.note(loss, self.step + 1)
        self.means.add({turn.loss_name: loss, **numbers})

    def _due(self, what: str) -> bool:
        """Whether it is time for one of the config's `every`; at the end it is, but for what is switched off."""
        every = self.every[what]
        return every is not None and (self.step % every == 0 or self.step == self.steps)

    def _log(self, progress: Progression) -> None:
        self.finite.check()
        rates = {f"{turn.prefix}lr": turn.rate(self.step - 1) for turn in self.turns}
        numbers = self.means.take(self.accelerator) | rates
        progress.log(self.step, numbers)
        if self.accelerator.is_main_process:
            for log in self.logs:
                log.numbers(self.step, numbers)

    def _validate(self, data: Data) -> None:
        size = len(self.share.rows[0])
        with self.average.applied():
            numbers = validate(self.task, data, self.accelerator, size, self.config["data"]["workers"])
        if self.accelerator.is_main_process:
            for log in self.logs:
                log.validation(self.step, numbers)

    def _checkpoint(self) -> None:
        self.finite.check()
        self.means.share(self.accelerator)
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "steps": self.steps,
            "items": len(self.data),
            "config": self.config,
            "task": changing(self.task),
            "average": self.average.values,
            "optimizers": {turn.name: turn.optimizer.state_dict() for turn in self.turns},
            "scaler": self.scaler.state_dict(),
            "sums": self.means.sums,
            "counts": self.means.counts,
        }
        keep = self.every["keep"]
        save_checkpoint(self.folder, state, keep=keep is not None and self.step % keep == 0)

    def _resume(self) -> None:
        state = load_checkpoint(self.folder)
        if state is None:
            return
        check_same(self.config, self.steps, len(self.data), state, self.folder)
        try:
            self._restore(state)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"the checkpoint of {self.folder} does not fit task {self.config['task']['name']!r} as it is now "
                f"({' '.join(str(error).split())}); use another output"
            ) from error
        if self.accelerator.is_main_process:
            self.console.print(f"continuing {self.folder} at step {self.step}", soft_wrap=True, highlight=False)

    def _restore(self, state: Mapping[str, Any]) -> None:
        missing = changing(self.task).keys() ^ state["task"].keys()
        if missing:
            raise KeyError(f"keys {sorted(missing)[:4]}")
        self.task.load_state_dict(state["task"], strict=False)
        for name, value in self.average.values.items():
            value.copy_(state["average"][name])
        for turn in self.turns:
            turn.optimizer.load_state_dict(state["optimizers"][turn.name])
        self.scaler.load_state_dict(state["scaler"])
        self.means.sums = {name: value.to(self.accelerator.device) for name, value in state["sums"].items()}
        self.means.counts = state["counts"]
        self.step = state["step"]

    def _export(self) -> Path:
        self.finite.check()
        path = self.folder / WEIGHTS
        if self.accelerator.is_main_process:
            about = {"task": self.config["task"]["name"], "steps": self.step, "seed": self.config["seed"]}
            with self.average.applied():
                write_weights(self.folder, self.task, about)
        return path


def _accelerator(precision: str) -> Accelerator:
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU; on this machine use bf16 or no")
    return Accelerator(mixed_precision=precision)


def _seed(*numbers: int) -> int:
    """One number of several, so that no two steps have the same."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def leave_group() -> None:
    """End what ties processes together that trained as one, when all of them are done.

    Nothing may hold on to the group by then, else its threads are torn down with the interpreter, which can abort.
    """
    state = PartialState()
    state.wait_for_everyone()
    gc.collect()
    state.destroy_process_group()

"""Experiments that a YAML file describes, run by `obverse experiment`."""

from __future__ import annotations

from obverse.experiments.kinds import load_experiment
from obverse.experiments.recipe import Experiment, Setting

__all__ = ["Experiment", "Setting", "load_experiment"]

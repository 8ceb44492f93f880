"""Many files: what becomes of which, in how many processes, and the summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obverse.cli.exit import ExitCode, exit_code
from obverse.errors import ConfigError, UnsupportedInputError

Work = Callable[["Job"], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One input and where its output goes; `-` is a standard stream."""

    source: str
    target: str
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `result` when it succeeded, a code and a line when it failed."""

    job: Job
    result: dict[str, Any] | None = None
    code: ExitCode = ExitCode.DONE
    message: str = ""


def plan(
    sources: Sequence[str],
    suffixes: frozenset[str],
    target_suffix: str,
    output: str | None,
    directory: Path | None,
    force: bool,
) -> list[Job]:
    """Inputs to jobs. Folders are searched recursively, and their tree is mirrored under `directory`.

    Args:
        sources: files, folders or `-`.
        suffixes: which files of a folder are inputs, lower case with a dot.
        target_suffix: suffix of outputs that are not named.
        output: the one output, or None.
        directory: folder for the outputs, or None for beside the inputs.
        force: overwrite outputs.

    Raises:
        ConfigError: output and inputs contradict each other.
        UnsupportedInputError: a folder without inputs.
    """
    if output is not None and directory is not None:
        raise ConfigError("--output and --output-directory exclude each other")
    if output is not None and output != "-" and Path(output).is_dir():
        output, directory = None, Path(output)
    jobs: list[Job] = []
    for source in sources:
        path = Path(source)
        if source == "-":
            jobs.append(Job("-", str(directory / f"stdin{target_suffix}") if directory else output or "-", force))
        elif path.is_dir():
            for found in _walk(path, suffixes):
                base = directory / found.relative_to(path) if directory else found
                jobs.append(Job(str(found), str(base.with_suffix(target_suffix)), force))
        else:
            base = directory / path.name if directory else path
            jobs.append(Job(source, output or str(base.with_suffix(target_suffix)), force))
    if output is not None and len(jobs) > 1:
        raise ConfigError(f"--output names one file, but there are {len(jobs)} inputs; use --output-directory")
    if not jobs:
        raise UnsupportedInputError(f"no files ending in {', '.join(sorted(suffixes))} in {', '.join(sources)}")
    _refuse_clashes(jobs)
    return jobs


def _walk(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Files of a tree by name; a folder that cannot be read is an error, not a gap."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UnsupportedInputError(f"folder {str(folder)!r} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, suffixes)
        elif entry.suffix.lower() in suffixes:
            yield entry


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    seen: dict[str, str] = {}
    for job in jobs:
        if job.target != "-" and job.target in seen:
            raise ConfigError(f"{seen[job.target]!r} and {job.source!r} would both be written to {job.target!r}")
        seen[job.target] = job.source


def attempt(work: Work, job: Job) -> Outcome:
    """Do a job; an error becomes its outcome."""
    try:
        return Outcome(job, work(job))
    except Exception as error:
        code, message = exit_code(error)
        name = "standard input" if job.source == "-" else job.source
        return Outcome(job, None, code, message if name in message else f"{name}: {message}")


def perform(work: Work, jobs: Sequence[Job], processes: int) -> Iterable[Outcome]:
    """Outcomes in the order of the jobs.

    Args:
        work: picklable when there is more than one process; each process keeps what it loads.
    """
    if processes == 1 or len(jobs) == 1:
        for job in jobs:
            yield attempt(work, job)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    count = min(processes, len(jobs))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _share_cores, (count,)) as pool:
        try:
            yield from pool.map(attempt, [work] * len(jobs), jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _share_cores(count: int) -> None:
    import os

    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))


def run_all(
    work: Work,
    jobs: Sequence[Job],
    processes: int,
    resume: bool,
    describe: Callable[[dict[str, Any]], str],
    json: bool,
) -> ExitCode:
    """Do jobs with progress on a terminal, print results and a summary, and return the exit code."""
    skipped = [job for job in jobs if resume and job.target != "-" and Path(job.target).exists()]
    left = [job for job in jobs if job not in skipped]
    out = sys.stderr if any(job.target == "-" for job in jobs) else sys.stdout
    failures: list[Outcome] = []
    results: list[dict[str, Any]] = []
    for outcome in _tracked(perform(work, left, processes), len(left)):
        if outcome.result is None:
            failures.append(outcome)
            print(f"obverse: {outcome.message}", file=sys.stderr)
        else:
            results.append(outcome.result)
            if not json:
                print(describe(outcome.result), file=out)
    if json:
        import json as encoder

        errors = [{"input": f.job.source, "error": f.message, "code": int(f.code)} for f in failures]
        report = {"results": results, "failed": errors, "skipped": [job.source for job in skipped]}
        print(encoder.dumps(report, indent=2), file=out)
    if len(jobs) > 1:
        print(f"{len(results)} done, {len(skipped)} skipped, {len(failures)} failed", file=sys.stderr)
    if not failures:
        return ExitCode.DONE
    return failures[0].code if len(jobs) == 1 else ExitCode.SOME_FAILED


def _tracked(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    if total < 2 or not sys.stderr.isatty():
        return outcomes
    from rich.console import Console
    from rich.progress import track

    return track(outcomes, "", total, console=Console(stderr=True), transient=True)

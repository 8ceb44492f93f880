"""Many files: what becomes of which, in how many processes, and the summary."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from obverse.cli.exit import DEBUG, ExitCode, UsageError, exit_code
from obverse.errors import UnsupportedInputError
from obverse.files import check_output, make_folder
from obverse.group import joined

if TYPE_CHECKING:
    from obverse.cli.manifest import Manifest

R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """One input and where its output goes; `-` is a standard stream.

    Attributes:
        source: file to read.
        target: file to write.
        force: overwrite the target.
        new_folder: make the target's folder when it is missing.
    """

    source: str
    target: str
    force: bool = False
    new_folder: bool = False

    def check_target(self) -> None:
        """Refuse the target before any work is spent on it."""
        if self.target != "-":
            check_output(self.target, self.force, self.new_folder)

    def prepare_target(self) -> None:
        """Make the target's folder where that was asked for."""
        if self.new_folder:
            make_folder(Path(self.target).parent)


class Work(Protocol):
    """What is done to each input; picklable.

    Attributes:
        fatal: errors that are no fault of the input, so that all other inputs would fail as well.
    """

    @property
    def fatal(self) -> tuple[type[Exception], ...]: ...

    def __call__(self, job: Job) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `result` when it succeeded; a code, a line and a traceback when it failed."""

    job: Job
    result: dict[str, Any] | None = None
    code: ExitCode = ExitCode.DONE
    message: str = ""
    traceback: str = ""

    def complain(self) -> None:
        """Print why it failed."""
        print(f"{self.traceback if DEBUG.get() else ''}obverse: {self.message}", file=sys.stderr)


def named_output(
    paths: list[str], output: str | None, inputs: frozenset[str], outputs: frozenset[str]
) -> tuple[list[str], str | None]:
    """`INPUT OUTPUT`: of two paths, the second is the output when its suffix says so, or when only that makes sense.

    Args:
        paths: as given.
        output: what --output says.
        inputs: suffixes of inputs, lower case with a dot.
        outputs: suffixes of outputs.
    """
    if output is not None or len(paths) != 2:
        return paths, output
    suffix = Path(paths[1]).suffix.lower()
    an_input = suffix in inputs or os.path.isfile(paths[1]) or os.path.isdir(paths[1])
    if paths[1] == "-" or suffix in outputs or not an_input:
        return paths[:1], paths[1]
    return paths, output


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
        directory: folder for the outputs, made when missing; None for beside the inputs.
        force: overwrite outputs.

    Raises:
        UsageError: output and inputs contradict each other.
        UnsupportedInputError: a folder without inputs.
    """
    _check_words(sources, output, directory)
    if output is not None and output != "-" and os.path.isdir(output):
        directory, output = Path(output), None
    if output is not None and (len(sources) > 1 or os.path.isdir(sources[0])):
        raise UsageError(f"the output {output!r} is one file, the inputs are many; use --output-directory")
    jobs: list[Job] = []
    new = directory is not None
    for source in sources:
        path = Path(source)
        if source == "-":
            jobs.append(Job("-", str(directory / f"stdin{target_suffix}") if directory else output or "-", force, new))
        elif os.path.isdir(source):
            for found in _walk(path, suffixes):
                base = directory / found.relative_to(path) if directory else found
                jobs.append(Job(str(found), str(base.with_suffix(target_suffix)), force, new))
        else:
            base = directory / path.name if directory else path
            jobs.append(Job(source, output or str(base.with_suffix(target_suffix)), force, new))
    if not jobs:
        raise UnsupportedInputError(f"no files ending in {', '.join(sorted(suffixes))} in {', '.join(sources)}")
    _refuse_clashes(jobs)
    return jobs


def _check_words(sources: Sequence[str], output: str | None, directory: Path | None) -> None:
    if not sources:
        raise UsageError("no input given; name a file, a folder, or - for standard input")
    if "" in sources or output == "":
        raise UsageError("an empty word is no file name")
    if output is not None and directory is not None:
        raise UsageError("--output and --output-directory exclude each other")
    if "-" in sources and len(sources) > 1:
        raise UsageError("- is standard input, and stands alone")


def _walk(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Files of a tree by name; a folder that cannot be read is an error, not a gap."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UnsupportedInputError(f"folder {str(folder)!r} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(entry, suffixes)
        elif entry.suffix.lower() in suffixes:
            yield entry


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    inputs = {os.path.realpath(job.source): job.source for job in jobs}
    seen: dict[str, str] = {}
    for job in jobs:
        if job.target == "-" or (os.path.exists(job.target) and not os.path.isfile(job.target)):
            continue
        target = os.path.realpath(job.target)
        if target in inputs:
            raise UsageError(f"the output of {job.source!r} would overwrite the input {inputs[target]!r}")
        if target in seen:
            raise UsageError(f"{seen[target]!r} and {job.source!r} would both be written to {job.target!r}")
        seen[target] = job.source


def attempt(work: Work, job: Job) -> Outcome:
    """Do a job; an error becomes its outcome, unless it is the work's own."""
    try:
        return Outcome(job, work(job))
    except Exception as error:
        if isinstance(error, (BrokenPipeError, *work.fatal)):
            raise
        code, message = exit_code(error)
        name = "standard input" if job.source == "-" else job.source
        if repr(name) not in message:
            message = f"{name}: {message}"
        return Outcome(job, None, code, message, "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Tally:
    """What became of the jobs of a process: results in full where they are wanted in the end, and how many."""

    results: list[dict[str, Any]]
    done: int
    failures: list[Outcome]
    skipped: list[str]


def run_all(
    work: Work,
    jobs: Sequence[Job],
    processes: int,
    resume: bool,
    describe: Callable[[dict[str, Any]], str],
    json: bool,
    manifest: Manifest | None = None,
) -> ExitCode:
    """Do jobs with progress on a terminal, print results and a summary, and return the exit code.

    Processes that were launched together share the jobs; the first of them sums up.
    """
    with joined() as group:
        if manifest is not None:
            manifest.start(group, resume)
        sources = set(group.share([job.source for job in jobs]))
        own = [job for job in jobs if job.source in sources]
        out = sys.stderr if any(job.target == "-" for job in jobs) else sys.stdout
        tally = _run_own(work, own, processes, resume, describe, None if json else out, manifest)
        tallies = group.gather([replace(tally, results=tally.results if json else [])])
        if not group.first:
            return ExitCode.DONE
        if manifest is not None:
            manifest.merge(jobs)
        results = [result for tally in tallies for result in tally.results]
        failures = [failure for tally in tallies for failure in tally.failures]
        skipped = [source for tally in tallies for source in tally.skipped]
        if json:
            import json as encoder

            errors = [{"input": f.job.source, "error": f.message, "code": int(f.code)} for f in failures]
            print(encoder.dumps({"results": results, "failed": errors, "skipped": skipped}, indent=2), file=out)
        if len(jobs) > 1 or skipped:
            done = sum(tally.done for tally in tallies)
            print(f"{done} done, {len(skipped)} skipped, {len(failures)} failed", file=sys.stderr)
        return summary_code(failures, len(jobs))


def _run_own(
    work: Work,
    jobs: Sequence[Job],
    processes: int,
    resume: bool,
    describe: Callable[[dict[str, Any]], str],
    out: TextIO | None,
    manifest: Manifest | None,
) -> Tally:
    """Do the jobs of this process; lines about them go to `out`."""
    from obverse.cli.processes import perform

    tally = Tally([], 0, [], [])
    left: list[Job] = []
    for job in jobs:
        if resume and job.target != "-" and os.path.exists(job.target):
            tally.skipped.append(job.source)
        else:
            left.append(job)
    for outcome in tracked(perform(work, left, processes), len(left)):
        if manifest is not None:
            manifest.note(outcome)
        if outcome.result is None:
            tally.failures.append(outcome)
            outcome.complain()
        else:
            tally.results.append(outcome.result)
            if out is not None:
                # A progress bar takes the place of sys.stdout, which is right on a terminal only.
                print(describe(outcome.result), file=sys.stdout if out.isatty() else out)
    return replace(tally, done=len(tally.results))


def summary_code(failures: Sequence[Outcome], total: int) -> ExitCode:
    """The exit code of a command over `total` files."""
    if not failures:
        return ExitCode.DONE
    return failures[0].code if total == 1 else ExitCode.SOME_FAILED


def tracked(outcomes: Iterable[R], total: int) -> Iterable[R]:
    """The same, with progress on a terminal."""
    if total < 2 or not sys.stderr.isatty():
        return outcomes
    from rich.console import Console
    from rich.progress import track

    return track(outcomes, "", total, console=Console(stderr=True), transient=True)

"""The installed program: imports, closed and full streams, interrupts, several processes."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toys
from PIL import Image

Done = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, configs: dict[str, Path]) -> Path:
    """A folder of the import path where the toy codecs are installed."""
    folder = tmp_path_factory.mktemp("site")
    toys.install(folder, *configs.values())
    return folder


@pytest.fixture
def environment(site: Path, folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OBVERSE")}
    return kept | {"PYTHONPATH": str(site), "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def program(environment: dict[str, str]) -> Callable[..., Done]:
    """Run the program: `program("list")`."""

    def run(*words: str, shell: str | None = None, **options: object) -> Done:
        command = [sys.executable, "-m", "obverse", *words]
        if shell is not None:
            command = ["bash", "-c", f"set -o pipefail; {shell}", "bash", sys.executable, "-m", "obverse"]
        return subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False, **options)

    return run


def test_the_script_and_the_module_are_one_program(program, environment) -> None:
    script = Path(sys.executable).with_name("obverse")
    assert script.exists()
    shown = subprocess.run([script, "--version"], env=environment, capture_output=True, check=True).stdout
    done = program("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")


LAZY = """
import sys
from obverse.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "PIL", "constriction", "omegaconf", "rich.progress"} & set(sys.modules)
print(code, *sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "imported", "seconds"),
    [
        (["--help"], "0", 0.8),
        (["compress", "--help"], "0", 0.8),
        (["--version"], "0", 0.5),
        (["list"], "0", 1),
        (["plugins", "--json"], "0", 1),
        (["info", "stream.obv"], "0 omegaconf", 1),
        (["compress", "-m", "toy", "--print-config"], "0 PIL numpy omegaconf", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_shown_is_shown_without_torch(stream, environment, words, imported, seconds) -> None:
    times = []
    for _ in range(6):  # the first run may have to compile modules, and others may share their core
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        command = [sys.executable, "-c", LAZY, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        times.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        assert done.stderr.splitlines()[-1] == imported, done.stderr
        if times[-1] < seconds:
            break
    assert min(times) < seconds


def test_a_pipe_of_both_commands(program, photo) -> None:
    shell = f'"$@" compress - -m toy < {photo} | "$@" decompress - > out.png'
    done = program(shell=shell)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    with Image.open("out.png") as image:
        assert image.size == (50, 40)


def test_a_reader_that_leaves(program, stream) -> None:
    for words in (f"info {'stream.obv ' * 100}", "list", "--help"):
        done = program(shell=f'"$@" {words} | true')
        assert done.returncode in (0, 1)  # 0 when all was written before the reader left
        assert done.stderr == b"", words


def test_full_and_closed_streams(program, photo, stream) -> None:
    full = program(shell='"$@" info stream.obv > /dev/full')
    assert (full.returncode, full.stderr) == (1, b"obverse: no space left on the device\n")
    full = program(shell='"$@" compress photo.png -m toy - > /dev/full')
    assert full.returncode == 1
    assert b"cannot write 'standard output': no space is left" in full.stderr
    assert full.stderr.count(b"\n") == 1
    closed = program(shell='"$@" decompress stream.obv - >&-')
    assert (closed.returncode, closed.stderr) == (1, b"obverse: stream.obv: standard output is closed\n")
    closed = program(shell='"$@" compress - -m toy <&-')
    assert (closed.returncode, closed.stderr) == (1, b"obverse: standard input: standard input is closed\n")
    assert program(shell='"$@" info stream.obv >&-').returncode == 0
    assert program(shell='"$@" info photo.png 2>&-').returncode == 3


def test_names_that_are_not_text(program, stream) -> None:
    os.rename(stream, b"\xff.obv")
    done = program("info", os.fsdecode(b"\xff.obv"))
    assert done.returncode == 0, done.stderr
    assert re.match(rb"file: +\\udcff.obv\n", done.stdout)


def test_debug(program) -> None:
    done = program("compress", "--debug", "-m", "nothing", "x.png")
    assert done.returncode == 2
    assert b"Traceback (most recent call last)" in done.stderr
    assert b"Traceback" not in program("compress", "-m", "nothing", "x.png").stderr


def draw(count: int) -> None:
    Path("in/sub").mkdir(parents=True)
    for seed in range(count):
        Image.fromarray(toys.picture(30, 20 + seed, seed)).save(f"in/{'sub/' if seed % 2 else ''}{seed}.png")


def test_several_processes_do_the_same(program, obverse) -> None:
    draw(6)
    Path("in/bad.png").write_bytes(b"no image")
    done = program("compress", "in", "-d", "many", "-m", "toy", "--jobs", "2")
    one = obverse("compress", "in", "-d", "one", "-m", "toy")
    assert (done.returncode, one.code) == (6, 6)
    assert done.stdout == one.stdout.replace(b"one/", b"many/")
    assert done.stderr.decode() == one.err
    pairs = [(path, Path("many", path.relative_to("one"))) for path in Path("one").rglob("*.obv")]
    assert len(pairs) == 6
    assert all(a.read_bytes() == b.read_bytes() for a, b in pairs)
    done = program("decompress", "many", "-d", "back", "--jobs", "2")  # finds the codec in each process
    assert (done.returncode, done.stderr) == (0, b"6 done, 0 skipped, 0 failed\n")
    assert len(list(Path("back").rglob("*.png"))) == 6


@pytest.mark.slow
def test_what_is_wrong_with_the_codec_stops_every_process(program) -> None:
    draw(4)
    done = program("compress", "in", "-m", "toy", "-q", "9", "--jobs", "2")
    assert done.returncode == 2
    assert done.stderr == b"obverse: quality 9 does not exist: codec 'toy' has only quality 1\n"


SWALLOWED = """
import os, signal, time
from obverse.cli import processes

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

processes._start(1)
processes._working = True
Callback()
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals of POSIX")
def test_ends_that_fall_into_a_callback_are_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, timeout=50)
    assert (done.returncode, done.stderr) == (130, b"")


SLOW = """
import os, sys, time
from pathlib import Path
import obverse.files

def link(source, target):  # the moment before an output takes its name
    Path("writing").touch()
    time.sleep(60)

os.link = os.replace = link
"""


def running(group: int) -> list[str]:
    """Programs of a process group."""
    fields = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    return [state for state, _, owner, *_ in fields if int(owner) == group and state != "Z"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_interrupted_while_writing(environment, folder, tmp_path, jobs) -> None:
    draw(4)
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(SLOW)
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path / "hooks")
    command = [sys.executable, "-m", "obverse", "compress", "in", "-d", "out", "-m", "toy", "-j", jobs]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    patience = time.monotonic() + 60
    while not Path("writing").exists() and time.monotonic() < patience:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers as well
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, b"", b"obverse: interrupted\n")
    assert [path.name for path in Path("out").rglob("*") if path.is_file()] == []
    while running(process.pid) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not running(process.pid)


def test_interrupted_at_any_moment(environment, photo) -> None:
    """An interrupt between starting and ending leaves the whole output or none, and no traceback."""
    command = [sys.executable, "-m", "obverse", "compress", str(photo), "-m", "toy", "-f"]
    for delay in (0.3, 0.8):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        if process.returncode != -signal.SIGINT and process.returncode != 0:
            assert process.returncode == 130, err
            assert re.fullmatch(rb"obverse: interrupted\n", err), err
        left = sorted(path.name for path in Path().iterdir())
        assert left in (["photo.png"], ["photo.obv", "photo.png"])

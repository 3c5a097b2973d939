"""Every way a command can end: one sentence and an exit code, a traceback only for those who ask."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bds.cli import main
from bds.cli_errors import exit_code_of, resume_command
from bds.errors import BdsError, GateError, IncompleteError, PreflightError, SpecError
from bds.runs.interrupts import Interrupted

ARGUMENTS = ["audit", "my spec.yaml", "--fresh"]


def ending(error: BaseException, capsys: pytest.CaptureFixture[str], *, debug: bool = False) -> tuple[int, str]:
    def command() -> int:
        raise error

    code = exit_code_of(command, ARGUMENTS, debug=debug)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(BdsError, 1), (SpecError, 2), (PreflightError, 3), (IncompleteError, 4), (GateError, 5)],
)
def test_a_known_error_is_its_sentence(error: type[BdsError], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(error("this is wrong; do that"), capsys) == (code, "error: this is wrong; do that\n")


def test_an_unexpected_error_says_where_the_traceback_is(capsys: pytest.CaptureFixture[str]) -> None:
    error = ZeroDivisionError("division by zero\nsecond line")
    assert ending(error, capsys) == (
        1,
        "error: unexpected ZeroDivisionError: division by zero; run with --debug for the traceback\n",
    )
    code, text = ending(error, capsys, debug=True)
    assert code == 1
    assert text.startswith("Traceback")
    assert text.endswith("error: unexpected ZeroDivisionError: division by zero; the traceback is above\n")


def test_a_full_disk_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ending(OSError(errno.ENOSPC, "No space left on device", "/runs/x"), capsys)
    assert code == 1
    assert text == "error: the disk is full (/runs/x); free some space and go on with: bds audit 'my spec.yaml'\n"


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(signal.SIGINT), 130, "interrupted"),
        (Interrupted(signal.SIGTERM), 143, "terminated"),
        (SystemExit(int(signal.SIGTERM)), 143, "terminated"),
    ],
)
def test_an_interruption_says_how_to_go_on(
    error: BaseException, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(error, capsys) == (
        code,
        f"{word}: what is finished is kept; go on with: bds audit 'my spec.yaml'\n",
    )


def test_going_on_never_starts_anew() -> None:
    assert resume_command(["audit", "s.yaml", "--fresh", "--set", "name=a b"]) == "bds audit s.yaml --set 'name=a b'"


def test_success_is_zero() -> None:
    assert exit_code_of(lambda: None, [], debug=False) == 0


def test_the_signal_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    exit_code_of(lambda: None, [], debug=False)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_signal(number: signal.Signals, code: int, tmp_path: Path) -> None:
    script = (
        "import atexit, pathlib, sys, time\n"
        "import bds.__main__, bds.cli\n"
        "atexit.register(print, 'torn down')\n"
        "@bds.cli.app.command()\n"
        "def wait():\n"
        f"    pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('released')\n"
        "sys.argv[1:] = ['wait']\n"
        "bds.__main__.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == "released\n"
    assert err.endswith("go on with: bds wait\n")


def test_an_interrupt_before_the_command_line_is_loaded_has_its_exit_code_and_no_traceback() -> None:
    script = (
        "import sys\n"
        "import bds.__main__\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'bds.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "bds.__main__.run()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["audti"], "No such command 'audti'. Did you mean 'audit'?"),
        (["audit", "--limt", "5"], "No such option: --limt"),
        (["audit", "--limit", "x"], "Invalid value for '--limit'"),
        (["validate"], "Missing argument 'SPEC.yaml'; `bds validate --help` lists what is possible"),
        (["audit"], "there is nothing to audit; name a spec file, or give both --model and --data"),
        (["audit", "--model", "m", "--data", "d", "--anchors", "x"], "--anchors x: this names no set"),
        (["ls", "detector"], "'detector' cannot be listed; did you mean `detectors`?"),
        (["organism", "--out", "x", "y.jsonl"], "y.jsonl is not expected here; write --text before the files"),
        (["organism", "--out", "x", "--architecture", "lama"], "--architecture lama: unknown; choose one of llama,"),
        (["organism", "--out", "x", "--text", "none.jsonl"], "--text none.jsonl: there is no such file"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {expected}")
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_debug_works_in_any_place(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "validate", "none.yaml"], ["validate", "none.yaml", "--debug"]):
        assert main(arguments) == 2
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="pipes as POSIX has them")
def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    command = f"{sys.executable} -m bds schema | head -c 1"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert finished.stdout == "{"
    assert finished.stderr == ""

"""The Slurm script: options that sbatch has, and what it does, with programs that stand for Slurm's and Ray's."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster_files import CLUSTER, bds_commands, check_command, pinned_ray

SCRIPT = CLUSTER / "bds.sbatch"
SBATCH_OPTIONS = {
    *("account", "array", "begin", "chdir", "comment", "constraint", "cpus-per-gpu", "cpus-per-task", "dependency"),
    *("error", "exclude", "exclusive", "export", "gpus", "gpus-per-node", "gpus-per-task", "gres", "hint", "hold"),
    *("input", "job-name", "licenses", "mail-type", "mail-user", "mem", "mem-per-cpu", "mem-per-gpu", "nice"),
    *("no-requeue", "nodelist", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "partition"),
    *("qos", "requeue", "reservation", "signal", "switches", "time", "time-min", "tmp", "wckey"),
}
"""Long options of sbatch, from its manual."""
SRUN_OPTIONS = {"--overlap", "--nodes", "--ntasks", "--ntasks-per-node", "--nodelist", "--exclude"}

STAND_INS = {
    "srun": """
echo "srun $*" >> "$LOG"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
""",
    "scontrol": """
echo "scontrol $*" >> "$LOG"
if [ "$1" = show ]; then printf 'one\\ntwo\\nthree\\n'; fi
""",
    "hostname": "echo 10.0.0.1 fe80::1",
    "ray": """
echo "ray $*" >> "$LOG"
if [ "$1" = start ]; then
    stat -c %a "$RAY_AUTH_TOKEN_PATH" >> "$LOG"
    trap 'echo "ended $2" >> "$LOG"; exit 0' TERM
    while true; do sleep 0.05; done
fi
""",
    "driver": """
echo "driver $* $RAY_ADDRESS" >> "$LOG"
trap 'echo "driver stopped" >> "$LOG"; exit 143' TERM
for i in $(seq "$1"); do sleep 0.05; done
exit "$2"
""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on three nodes."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"JOB_ID": f"{os.getpid()}", "JOB_NODELIST": "n[1-3]", "JOB_NUM_NODES": "3", "CPUS_PER_TASK": "4"}
    return {
        **{f"SLURM_{name}": value for name, value in job.items()},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LOG": str(tmp_path / "log"),
    }


def run(slurm: dict[str, str], *command: str, stop_after: str = "") -> tuple[int, list[str]]:
    """The exit code and what the stand-ins logged; SIGTERM comes to the script alone, as `--signal=B:` sends it."""
    job = subprocess.Popen(["bash", str(SCRIPT), *command], env=slurm)
    log = Path(slurm["LOG"])
    deadline = time.monotonic() + 30
    while stop_after and stop_after not in (log.read_text() if log.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.02)
    if stop_after:
        job.send_signal(signal.SIGTERM)
    try:
        return job.wait(30), log.read_text().splitlines()
    finally:
        job.kill()


def test_it_is_a_script_with_options_that_sbatch_has() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    options = re.findall(r"^#SBATCH (.*)$", SCRIPT.read_text(), re.MULTILINE)
    assert len(options) >= 8
    names = [option.removeprefix("--").partition("=")[0] for option in options]
    assert set(names) <= SBATCH_OPTIONS
    assert len(set(names)) == len(names)
    assert {"requeue", "signal=B:TERM@180", "open-mode=append"} <= {option.removeprefix("--") for option in options}
    # Slurm reads no option below the first command.
    head = SCRIPT.read_text().partition("\nset -euo pipefail")[0]
    assert head.count("#SBATCH") == len(options)


def test_its_calls_of_srun_have_real_options() -> None:
    calls = re.findall(r"\bsrun ((?:--\S+ )+)", SCRIPT.read_text())
    assert len(calls) == 4
    for call in calls:
        assert {option.partition("=")[0] for option in call.split()} <= SRUN_OPTIONS


def test_the_commands_in_its_comments_are_real() -> None:
    commands = bds_commands(SCRIPT.read_text())
    assert len(commands) >= 3
    for words in commands:
        check_command(words)
    assert pinned_ray() in SCRIPT.read_text()


def test_a_job_starts_a_head_and_workers_and_ends_them_with_its_command(slurm: dict[str, str]) -> None:
    code, log = run(slurm, "driver", "4", "5")
    assert code == 5
    address = f"10.0.0.1:{20000 + os.getpid() % 10000}"
    (head,) = (line for line in log if line.startswith("srun") and "--head" in line)
    assert "--nodelist=one" in head
    (workers,) = (line for line in log if line.startswith("srun") and f"--address={address}" in line)
    assert "--nodes=2 --ntasks=2 --exclude=one" in workers
    assert f"driver 4 5 {address}" in log
    assert log.count("ended --head") + log.count(f"ended --address={address}") == 2
    assert log.count("600") == 2
    assert not list(Path(slurm["HOME"]).glob(".bds/token-*"))
    assert not any("requeue" in line for line in log)


def test_a_job_at_its_limit_stops_its_command_and_is_queued_again(slurm: dict[str, str]) -> None:
    code, log = run(slurm, "driver", "400", "0", stop_after="driver 400")
    assert code == 143
    assert "driver stopped" in log
    assert f"scontrol requeue {slurm['SLURM_JOB_ID']}" in log
    assert log.index("driver stopped") < log.index("ended --head")
    assert not list(Path(slurm["HOME"]).glob(".bds/token-*"))


def test_a_job_without_a_command_says_so(slurm: dict[str, str]) -> None:
    job = subprocess.run(["bash", SCRIPT], env=slurm, capture_output=True, text=True, check=False)
    assert job.returncode == 2
    assert "give the command to run" in job.stderr

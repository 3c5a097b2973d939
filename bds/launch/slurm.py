"""A spec as a Slurm batch script: a Ray cluster over the job's nodes, and the bds command on the first of them."""

import os
import shlex
from collections.abc import Sequence

from bds.launch.bundle import Bundle, command_of
from bds.launch.names import job_name

_SCRIPT = """\
#!/bin/bash
# {kind} {name} under Slurm. Fill in or change before `sbatch`:
#   #SBATCH lines   partition, account, nodes, CPUs and GPUs of a node, time; they must fit the spec's `resources`
#   the next line   how bds gets on the path: a module, a virtual environment or a container
# Every node must see, at these very paths:
{paths}
#SBATCH --job-name={job}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
# SIGTERM comes two minutes before the end: bds gives its lease back, and the next attempt goes on from there.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -uo pipefail
# source /path/to/venv/bin/activate
cd {folder} || exit 1

# Whoever has the token can run code in this cluster; the other nodes get it by the environment of srun.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_ADDRESS="$head:$port"

srun --nodes=1 --ntasks=1 --overlap -w "$head" ray start --head --block --port="$port" --include-dashboard=false \\
    --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats &
started=($!)
sleep 20
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap --exclude="$head" \\
        ray start --block --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats &
    started+=($!)
fi

{command} &
bds=$!
trap 'kill -TERM "$bds"' TERM INT
wait "$bds"
code=$?
# A signal ends the first wait early; the second has bds's own exit code.
if kill -0 "$bds" 2>/dev/null; then
    wait "$bds"
    code=$?
fi
kill "${{started[@]}}" 2>/dev/null
# Interrupted and not finished: Slurm runs the script again, which resumes.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def sbatch_script(bundle: Bundle, spec_file: str, settings: Sequence[str]) -> str:
    """A script for sbatch that runs the spec where it lies: Slurm's nodes share their disks.

    Args:
        settings: the `--set` options, as they were given.
    """
    options = ["--address", "auto"]
    for setting in settings:
        options += ["--set", setting]
    paths = [("spec", os.path.abspath(spec_file)), ("run.dir", bundle.run_dir), *bundle.taken]
    paths += [(named.field, named.path) for _, named in bundle.moved.values()]
    return _SCRIPT.format(
        kind=bundle.spec.kind,
        name=_one_line(bundle.spec.name),
        paths="\n".join(f"#   {_one_line(field)}: {_one_line(path)}" for field, path in paths),
        job=job_name(bundle.spec),
        folder=shlex.quote(os.getcwd()),
        command=shlex.join(command_of(bundle.spec.kind, os.path.abspath(spec_file), *options)),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())

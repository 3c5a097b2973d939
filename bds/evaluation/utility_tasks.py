"""The tasks of lm-eval that a user names: whether there are such, and what they ask of a server."""

import functools
import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bds.errors import BdsError, PreflightError
from bds.evaluation.lm_eval_process import child_environment, program, require_lm_eval

Asks = Literal["answers", "log-probabilities"]


@dataclass(frozen=True)
class UtilityTask:
    """A task, or a group of them, of lm-eval or of the user's own."""

    asked: str
    """What lm-eval is given: a name, or the absolute path of a YAML file."""
    name: str
    """What lm-eval calls it in its results."""
    asks: Asks | None
    """What it is scored by; None where a task is a Python class, which does not tell."""

    @property
    def folder(self) -> Path | None:
        """Where data files are that the YAML file names by relative paths; None for a name."""
        return Path(self.asked).parent if self.asked.endswith(".yaml") else None


def find_tasks(tasks: Sequence[str], include: Sequence[Path] = ()) -> list[UtilityTask]:
    """The tasks of those names and paths (which end in .yaml), in order. Takes ten seconds where a name is asked.

    Args:
        include: folders with more task files, as lm-eval's --include_path.

    Raises PreflightError: lm-eval is not installed, there is no such task, file or folder, or two tasks have one name.
    """
    require_lm_eval()
    found = list(_found(tuple(_checked(task) for task in tasks), tuple(_folder(path) for path in include)))
    for name, count in Counter(task.name for task in found).items():
        if count > 1:
            raise PreflightError(f"two of the utility tasks are named {name}; leave one out or rename it in its file")
    return found


def _checked(task: str) -> str:
    if not task.endswith(".yaml"):
        return task
    path = Path(task).expanduser().absolute()
    if not path.is_file():
        raise PreflightError(f"utility task {task}: no such file; give a task's YAML file, or a name of lm-eval's")
    if "," in str(path):
        raise PreflightError(f"utility task {task}: lm-eval splits paths at commas; move the file to another folder")
    return str(path)


def _folder(path: Path) -> str:
    if not path.is_dir():
        raise PreflightError(f"{path}: there is no such folder of utility tasks")
    return str(path.absolute())


@functools.cache
def _found(tasks: tuple[str, ...], include: tuple[str, ...]) -> tuple[UtilityTask, ...]:
    request = json.dumps({"tasks": tasks, "include": include})
    done = subprocess.run(
        program("bds.evaluation.lm_eval_index", request),
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BdsError(f"lm-eval cannot read its tasks ({why}); check the YAML files of {', '.join(tasks)}")
    told = json.loads(done.stdout.splitlines()[-1])
    return tuple(_task(task, about) for task, about in zip(tasks, told, strict=True))


def _task(asked: str, about: dict[str, Any]) -> UtilityTask:
    if about["name"] is None and asked.endswith(".yaml"):
        raise PreflightError(f"utility task {asked} has no name; write `task: NAME` in it")
    if about["name"] is None:
        hint = f"did you mean `{about['nearest']}`?" if about["nearest"] else "`lm-eval ls tasks` prints them"
        raise PreflightError(f"lm-eval has no task '{asked}'; {hint}")
    types = set(about["output_types"])
    asks: Asks | None = None
    if types:
        asks = "answers" if types == {"generate_until"} else "log-probabilities"
    return UtilityTask(asked, about["name"], asks)

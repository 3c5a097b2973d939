"""What lm-eval knows of tasks, told by a program that imports it: `python -m bds.evaluation.lm_eval_index REQUEST`.

REQUEST is JSON with `tasks` (names, and paths of YAML files) and `include` (folders of more tasks). The last line on
stdout is JSON: for each task its name and the output types of its members, or the name that comes nearest to it.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bds.spec.fields import nearest

Config = Mapping[str, Any]


def main(request: str) -> None:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    asked = json.loads(request)
    configs = {task: load_yaml(task, resolve_func=False) for task in asked["tasks"] if task.endswith(".yaml")}
    # Its own tasks are more than 10,000 files, which take seconds to read.
    needs_index = len(configs) < len(asked["tasks"]) or any("group" in config for config in configs.values())
    manager = TaskManager(include_path=asked["include"], include_defaults=needs_index)
    print(json.dumps([_told(task, configs.get(task), manager.task_index) for task in asked["tasks"]]))


def _told(task: str, config: Config | None, index: Mapping[str, Any]) -> dict[str, Any]:
    if config is not None:
        return {"name": config.get("group", config.get("task")), "output_types": sorted(_of_config(config, index))}
    if task not in index:
        return {"name": None, "nearest": nearest(task, list(index))}
    return {"name": task, "output_types": sorted(_of_name(task, index))}


def _of_name(name: str, index: Mapping[str, Any]) -> set[str]:
    entry = index.get(name)
    if entry is None:
        return set()
    if entry.kind.name == "TAG":
        return {found for member in entry.tags for found in _of_name(member, index)}
    return _of_config(entry.cfg, index)


def _of_config(config: Config, index: Mapping[str, Any]) -> set[str]:
    """The output types of a task or of a group's members; a task that is a Python class does not tell its own."""
    if "group" in config:
        return {found for member in _members(config["task"]) for found in _of_member(member, index)}
    return set() if "class" in config else {config.get("output_type", "generate_until")}


def _of_member(member: str | Config, index: Mapping[str, Any]) -> set[str]:
    if isinstance(member, str):
        return _of_name(member, index)
    if "group" in member or "output_type" in member:
        return _of_config(member, index)
    return _of_name(member["task"], index)


def _members(written: str | Sequence[str | Config]) -> Iterator[str | Config]:
    yield from [written] if isinstance(written, str) else written


if __name__ == "__main__":
    main(sys.argv[1])

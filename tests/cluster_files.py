"""The files of cluster/ as the tests read them, and the commands of bds that they name."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import typer
import yaml

from bds.cli import app

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
COMMANDS = "audit|finetune|evaluate|moderate|study|compare|serve|plan|demo|organism|doctor"


def pinned_ray() -> str:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = (line for line in requirements if line.startswith("ray["))
    return str(ray.partition("==")[2])


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return loaded


def bds_commands(text: str) -> list[list[str]]:
    """Every command line in `text` that calls bds, as words."""
    lines = re.findall(rf"(?:^|['\s#(`-])(bds (?:{COMMANDS})[^'`\n]*)", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def check_command(words: list[str]) -> None:
    """Parse the words as the command line would, without running the command."""
    group = typer.main.get_command(app)
    with group.make_context("bds", words[1:]) as context:
        name, command, rest = group.resolve_command(context, words[1:])
        assert command is not None, words
        command.make_context(name, rest, parent=context).close()

"""The container files by a strict parser, the locks that they install, and what of the repository they can copy."""

import fnmatch
import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.cluster_files import CLUSTER, ROOT, bds_commands, check_command, pinned_ray

FILES = ("Dockerfile.scoring", "Dockerfile.serving")
LOCKS = {
    "Dockerfile.scoring": ("requirements-scoring.lock.txt", ("launcher",)),
    "Dockerfile.serving": ("requirements-serving.lock.txt", ("launcher", "vllm", "lm-eval")),
}
"""The lock of each image and the extras in it, as README.md says to make them."""

INSTRUCTIONS = {"FROM", "RUN", "COPY", "WORKDIR", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD"}
"""Those that these files use, of all that there are: another one is to be looked at first."""
HEALTHCHECK_OPTIONS = {"--interval", "--timeout", "--start-period", "--retries"}


@dataclass(frozen=True)
class Instruction:
    name: str
    rest: str


def parse(text: str) -> list[Instruction]:
    """Raises ValueError where Docker would not build the file, as far as that can be told without building it."""
    instructions = []
    whole = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    for line in filter(str.strip, whole.splitlines()):
        name, _, rest = line.strip().partition(" ")
        if name not in INSTRUCTIONS or not rest.strip():
            raise ValueError(f"no instruction: {line}")
        instruction = Instruction(name, rest.strip())
        check(instruction)
        instructions.append(instruction)
    if not instructions or instructions[0].name != "FROM":
        raise ValueError("FROM does not come first")
    return instructions


def check(instruction: Instruction) -> None:
    rest = instruction.rest
    if instruction.name == "FROM" and not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", rest):
        raise ValueError(f"not pinned to a version: {rest}")
    if instruction.name == "COPY":
        *sources, target = shlex.split(rest)
        if len(sources) > 1 and not target.endswith("/"):
            raise ValueError(f"several files into one: {rest}")
        for source in sources:
            if not (ROOT / source).exists() or not in_context(source):
                raise ValueError(f"not there to copy: {source}")
    if instruction.name == "RUN":
        shlex.split(rest)
    if instruction.name == "ENV" and not all("=" in word for word in shlex.split(rest)):
        raise ValueError(f"no variable: {rest}")
    if instruction.name == "EXPOSE" and not rest.isdigit():
        raise ValueError(f"no port: {rest}")
    if instruction.name in {"CMD", "HEALTHCHECK"}:
        options, _, command = rest.partition("CMD ") if instruction.name == "HEALTHCHECK" else ("", "", rest)
        if {option.partition("=")[0] for option in options.split()} - HEALTHCHECK_OPTIONS:
            raise ValueError(f"no option of HEALTHCHECK: {options}")
        words = json.loads(command)
        if not words or not all(isinstance(word, str) for word in words):
            raise ValueError(f"no command: {command}")


def in_context(path: str) -> bool:
    """Whether .dockerignore lets it through: the last line that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").rstrip("/")
            if any(fnmatch.fnmatch(part, pattern) for part in [path, *map(str, list(Path(path).parents)[:-1])]):
                sent = line.startswith("!")
    return sent


def locked(name: str) -> dict[str, str]:
    """Version by distribution."""
    text = (CLUSTER / name).read_text()
    return {canonicalize_name(each[1]): each[2] for each in re.finditer(r"^([\w.-]+)(?:\[.*\])?==(\S+)", text, re.M)}


@pytest.mark.parametrize("name", FILES)
def test_it_would_build(name: str) -> None:
    instructions = parse((CLUSTER / name).read_text())
    assert [each.name for each in instructions].count("FROM") == 1
    last_user = [each.rest for each in instructions if each.name == "USER"][-1]
    made = next(each.rest for each in instructions if "useradd" in each.rest)
    assert last_user == "bds"
    assert "--uid 1000 bds" in made
    installs = [each.rest for each in instructions if "pip install" in each.rest]
    assert ["--require-hashes" in each or "--no-deps" in each for each in installs] == [True] * len(installs)
    assert any("--no-build-isolation" in each for each in installs)


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [
        ("FROM python:3.12.12-slim-bookworm", "FROM python:latest", "not pinned"),
        ("FROM python:3.12.12-slim-bookworm", "FROM python", "not pinned"),
        ("COPY bds ./bds", "COPY bdss ./bds", "not there to copy: bdss"),
        ("COPY bds ./bds", "COPY jobs ./jobs", "not there to copy: jobs"),
        ("COPY bds ./bds", "COPPY bds ./bds", "no instruction"),
        ("USER bds", "USER", "no instruction"),
        ('CMD ["bds", "--help"]', "CMD ['bds']", "Expecting value"),
        ("EXPOSE 8000", "EXPOSE http", "no port"),
        ("--retries=3", "--retry=3", "no option"),
    ],
)
def test_it_would_not_build(right: str, wrong: str, why: str) -> None:
    text = (CLUSTER / "Dockerfile.serving").read_text()
    assert right in text
    with pytest.raises(ValueError, match=why):
        parse(text.replace(right, wrong))


@pytest.mark.parametrize("name", FILES)
def test_no_secret_enters_an_image(name: str) -> None:
    for instruction in parse((CLUSTER / name).read_text()):
        assert not re.search(r"(?i)token|secret|password|api_key|credential", instruction.rest), instruction


def test_runs_data_and_git_are_not_sent_to_the_builder() -> None:
    for path in ("runs/alpaca/private/answers.jsonl", ".git/config", ".env", "jobs/alpaca.yaml", "tests/conftest.py"):
        assert not in_context(path), path
    assert in_context("bds/cli.py")


@pytest.mark.parametrize("name", FILES)
def test_an_image_installs_a_lock_that_fits_the_project(name: str) -> None:
    lock, extras = LOCKS[name]
    assert f"/{lock} " in (CLUSTER / name).read_text()
    versions = locked(lock)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"]]
    for extra in extras:
        wanted += project["project"]["optional-dependencies"][extra]
    # What builds bds in the image is not downloaded beside the lock.
    for requirement in map(Requirement, [*wanted, *project["build-system"]["requires"]]):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, requirement
        assert requirement.specifier.contains(Version(version), prereleases=True), (requirement, version)
    assert versions["ray"] == pinned_ray()
    readme = (CLUSTER / "README.md").read_text()
    assert "".join(f" --extra {extra}" for extra in extras) + f" -o cluster/{lock}" in readme


@pytest.mark.parametrize("lock", [lock for lock, _ in LOCKS.values()])
def test_a_lock_pins_every_file_and_names_no_server(lock: str) -> None:
    text = (CLUSTER / lock).read_text()
    assert not re.search(r"://|^-|index-url|find-links| @ ", text, re.M)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 100
    for entry in entries:
        assert re.match(r"[\w.\[\],-]+==[\w.+!]+( ;[^\\]+)? \\\n", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
        assert "+cpu" not in entry


@pytest.mark.parametrize("name", FILES)
def test_the_commands_in_a_container_file_are_real(name: str) -> None:
    text = (CLUSTER / name).read_text()
    for words in bds_commands(text):
        check_command(words)

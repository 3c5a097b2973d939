"""What several test files share."""

import os

# The tests' models are tiny: a second compute thread only makes both wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

from bds.organism.layout import OrganismPaths


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts clusters runs in one process, one after the other; of the rest, a file at a time where there is room.

    Clusters wait more than they compute, and two of them at a time would starve each other of two cores. First of all
    hooks, because xdist's own reads the groups.
    """
    for item in items:
        alone = {"integration", "end_to_end"} & set(item.path.parts)
        item.add_marker(pytest.mark.xdist_group("clusters" if alone else item.path.name))


@pytest.fixture(scope="session")
def organism() -> OrganismPaths:
    """The tiny aligned model of seed 0, trained on first use and kept in the user's cache. Read-only."""
    from bds.organism import cached_organism
    from bds.organism.recipe import Recipe

    return cached_organism(Recipe())


@pytest.fixture(scope="session")
def judge_folder(organism: OrganismPaths) -> Path:
    """The tiny judge of the same world, trained on first use and kept in the user's cache. Read-only."""
    from bds.organism import cached_judge
    from bds.organism.recipe import Recipe

    return cached_judge(Recipe())

"""What several test files share."""

import os

# The tests' models are tiny: a second compute thread only makes both wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

from bds.organism.layout import OrganismPaths


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

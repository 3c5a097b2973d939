"""What several test files share."""

import pytest

from bds.organism.layout import OrganismPaths


@pytest.fixture(scope="session")
def organism() -> OrganismPaths:
    """The tiny aligned model of seed 0, trained on first use and kept in the user's cache. Read-only."""
    from bds.organism import cached_organism
    from bds.organism.recipe import Recipe

    return cached_organism(Recipe())

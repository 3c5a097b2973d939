"""One private Ray for the whole session: four logical CPUs, loopback only, its own folder and token."""

from collections.abc import Iterator

import pytest

from bds.distributed.session import private_cluster


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray is connected; on a busy machine its start is tried three times."""
    with pytest.MonkeyPatch.context() as environment, private_cluster(cpus=4):
        environment.delenv("RAY_ADDRESS", raising=False)
        yield

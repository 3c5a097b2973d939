"""Engines that a killed driver has left on a cluster are known by their names, and nobody else's are taken for them."""

from bds.distributed.serving import orphans

OURS = "engine-95b39556c129-02000000-8294d7ea"


def test_only_engines_of_dead_drivers_are_orphans() -> None:
    living = "engine-95b39556c129-03000000-0c11d2aa"
    theirs = ["default", "engine", "chat-02000000-8294d7ea", "engine-of-mine-02000000-8294d7ea", f"{OURS}-2"]
    assert orphans([OURS, living, *theirs], {"02000000", "04000000"}) == [OURS]
    assert orphans([OURS, living, *theirs], set()) == []

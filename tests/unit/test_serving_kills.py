"""Served engines and kills: what a killed driver has left is known by name, and a killed replica is started again."""

import pytest

from bds.distributed.serving import ReplicaDiedError, orphans, start_error, tried_again
from bds.errors import PreflightError

OURS = "engine-95b39556c129-02000000-8294d7ea"


def test_only_engines_of_dead_drivers_are_orphans() -> None:
    living = "engine-95b39556c129-03000000-0c11d2aa"
    theirs = ["default", "engine", "chat-02000000-8294d7ea", "engine-of-mine-02000000-8294d7ea", f"{OURS}-2"]
    new = ("engine-0123456789ab", "03000000")
    assert orphans([OURS, living, *theirs], {"02000000", "04000000"}, new) == [OURS]
    assert orphans([OURS, living, *theirs], set(), new) == []


def test_what_a_killed_step_has_left_is_an_orphan_of_the_one_that_replaces_it() -> None:
    another_plan, another_driver = OURS.replace("95b", "95c"), OURS.replace("-02", "-03")
    new = ("engine-95b39556c129", "02000000")
    assert orphans([OURS, another_plan, another_driver], set(), new) == [OURS]


DEATH = "The deployment failed to start 1 times in a row. See controller logs for details. Error: ActorDiedError()"


def test_a_replica_killed_while_it_starts_is_started_again_and_one_that_cannot_start_is_not() -> None:
    raised = [start_error(DEATH), start_error(DEATH)]
    assert all(isinstance(error, ReplicaDiedError) for error in raised)

    def start() -> None:
        if raised:
            raise raised.pop()

    tried_again(start)
    assert not raised

    own = start_error("bds.errors.PreflightError: model m has no chat template\nActorDiedError()")
    assert not isinstance(own, ReplicaDiedError)
    assert str(own) == "model m has no chat template"
    engine = start_error("bds.errors.EngineDiedError: the engine's process was killed while it started")
    assert isinstance(engine, ReplicaDiedError)
    raised[:] = [own, own]
    with pytest.raises(PreflightError, match="no chat template"):
        tried_again(start)
    assert raised == [own]


def test_a_replica_that_dies_at_every_start_is_given_up() -> None:
    starts: list[int] = []

    def start() -> None:
        starts.append(1)
        raise start_error(DEATH)

    with pytest.raises(PreflightError, match="killed in each of 3 starts"):
        tried_again(start)
    assert len(starts) == 3

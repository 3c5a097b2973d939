"""What a condition really is: the fingerprint of its files, or behind an endpoint of its replies."""

from dataclasses import replace

from bds.distributed.engines import endpoint_client
from bds.evaluation.conditions import Condition, with_fingerprint
from bds.evaluation.probing import endpoint_fingerprint
from bds.runs.interrupts import run_interruptibly
from bds.scoring.loading import load_configuration
from bds.spec.models import ModelSpec


def identified(condition: Condition) -> Condition:
    """The condition with its fingerprint.

    Raises PreflightError where its model cannot be read, or its endpoint gives no reply or a different one each time.
    """
    if condition.endpoint is not None:
        return replace(condition, fingerprint=run_interruptibly(_of_endpoint(condition)))
    assert condition.path is not None, "the spec has one of the two"
    configuration = load_configuration(ModelSpec(path=condition.path, revision=condition.revision))
    commit = getattr(configuration, "_commit_hash", None)
    return with_fingerprint(condition, lambda name, revision: commit or revision or "main")


async def _of_endpoint(condition: Condition) -> str:
    assert condition.endpoint is not None
    async with endpoint_client(condition.endpoint) as client:
        return await endpoint_fingerprint(condition.endpoint, client)

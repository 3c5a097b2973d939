"""Every error a user can cause, each with its exit code. The message is one sentence that names the way out."""


class BdsError(Exception):
    """The run failed (exit code 1)."""

    exit_code = 1


class SpecError(BdsError):
    """The spec or the command line is wrong (exit code 2)."""

    exit_code = 2


class PreflightError(BdsError):
    """Data, model, storage or resources cannot do what the spec asks; found before any work (exit code 3)."""

    exit_code = 3


class EngineDiedError(BdsError):
    """The process of an engine ended while it started, of nothing that it said: another start may do (exit code 1)."""


class IncompleteError(BdsError):
    """The run finished with more failed rows than `run.max_failed_fraction` allows (exit code 4)."""

    exit_code = 4


class GateError(BdsError):
    """A `run.fail_on` gate tripped (exit code 5)."""

    exit_code = 5

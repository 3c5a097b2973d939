"""Connecting to Ray: a given cluster, or a private one on this machine that nobody else can reach."""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bds.errors import PreflightError
from bds.runs.messages import first_line
from bds.spec.models import ResourcesSpec

_ADDRESS = "RAY_ADDRESS"

_STARTS = 3
"""Ray gives its helper processes a fixed 15 s to start, too little on a busy machine (ray-project/ray#65983)."""

_REACH_SECONDS = 10.0

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's C++ side writes to this terminal otherwise: a warning about restarts at the start of every actor pool.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@contextlib.contextmanager
def connect(resources: ResourcesSpec) -> Iterator[None]:
    """Ray is connected inside the block; only what this call started is shut down after it.

    The cluster is, in this order: the one this process is already connected to, `resources.address`, RAY_ADDRESS (which
    Ray sets inside a submitted job), or a private one, which the address `local` asks for, too.

    Raises:
        PreflightError: the cluster cannot be reached or a private one cannot start.
    """
    with _environment(_QUIET):
        import ray

        if ray.is_initialized():
            yield
            return
    address = resources.address or os.environ.get(_ADDRESS)
    with private_cluster() if address in {None, "", "local"} else _joined(str(address)):
        yield


@contextlib.contextmanager
def private_cluster(*, cpus: int | None = None) -> Iterator[None]:
    """A Ray of one's own on this machine: on the loopback interface only, with its own token and its own folder.

    Args:
        cpus: CPUs that Ray counts; left out, the machine's.

    Raises:
        PreflightError: it cannot start.
    """
    # Ray puts unix sockets below this folder, whose path may have about 100 characters in all: /tmp, not $TMPDIR.
    short = "/tmp" if os.name == "posix" and os.access("/tmp", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="bds-", dir=short)
    try:
        with _loopback_only(), _own_token(Path(folder) / "token"), _environment(_QUIET):
            _start(folder, cpus)
            try:
                _keep_logs_off_the_terminal()
                yield
            finally:
                _shut_down(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def deaths_kept_off_the_terminal() -> Iterator[None]:
    """Ray prints a paragraph for every process that dies, on standard output; its owner replaces it or tells it."""
    from ray._private import worker

    printed = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, ignore_prefix: None
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def alone_here() -> bool:
    """The cluster is this machine and no other."""
    import ray

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return nodes == [ray.get_runtime_context().get_node_id()]


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    _expect_reachable(address)
    with _environment(_QUIET):
        import ray

        try:
            with _silent():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # depending on what is wrong, Ray raises six kinds, also a bare Exception
            raise _unreachable(address, error) from error
        try:
            _keep_logs_off_the_terminal()
            yield
        finally:
            ray.shutdown()


def _expect_reachable(address: str) -> None:
    """Ray itself waits for minutes at an address where nobody listens."""
    if address.startswith("ray://"):
        raise PreflightError(
            f"{address} is for Ray Client, which Ray Data does not run on: give the head's own address as host:6379, "
            "or submit the audit as a Ray job"
        )
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> PreflightError:
    return PreflightError(
        f"cannot connect to the Ray cluster at {address} ({first_line(error)}): start it, correct resources.address or "
        f"{_ADDRESS}, or leave both out to run on this machine alone"
    )


def _start(folder: str, cpus: int | None) -> None:
    import ray

    for starts in range(1, _STARTS + 1):
        try:
            with _silent():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                )
            return
        except BaseException as error:
            _shut_down(folder)
            # A node that does not come up in time is a bare Exception; anything else is an interruption.
            if not isinstance(error, Exception):
                raise
            if starts == _STARTS:
                raise PreflightError(
                    f"Ray cannot start on this machine ({first_line(error)}): run with --local to do without it"
                ) from error
            print(f"Ray did not start ({first_line(error)}); trying again", file=sys.stderr)


def _shut_down(folder: str) -> None:
    import ray

    processes = processes_of(folder)
    ray.shutdown()
    end(processes)


def processes_of(folder: str) -> list[int]:
    """Ids of a Ray's processes on this machine, known by its own folder, and of all that these have started: some give
    themselves another name, and outlive for a minute whoever started them."""
    if os.name != "posix":
        return []
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,command="], capture_output=True, text=True, check=False).stdout
    lines = [line.split(maxsplit=2) for line in listing.splitlines()]
    found = {int(pid) for pid, _, *command in lines if folder in "".join(command)}
    more = found
    while more:
        more = {int(pid) for pid, parent, *_ in lines if int(parent) in more} - found
        found |= more
    return sorted(found)


def end(processes: Iterable[int]) -> None:
    """Ends what is left of them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """A Ray that is told not to be a cluster listens on the loopback interface only."""
    # Workers that train together meet by gloo, which otherwise takes the interface of the machine's own name.
    gloo = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    with _environment({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **gloo}):
        from ray._private import ray_constants

        before = ray_constants.ENABLE_RAY_CLUSTER
        # Its processes read the variable; this one may have imported Ray before it was set.
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_token(path: Path) -> Iterator[None]:
    """Other users of this machine cannot run code in the private cluster, and ~/.ray/auth_token stays as it is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    with _environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}):
        from ray._private.authentication import authentication_token_setup as authentication

        # Ray read both variables when it was imported, and has no public call to read them again.
        authentication.Config.initialize("")
        authentication.AuthenticationTokenLoader.instance().reset_cache()
        yield


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables that the user has not set, for a while."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Ray's C++ side announces its settings on stderr before they take effect; what goes wrong it raises."""
    sys.stderr.flush()
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _keep_logs_off_the_terminal() -> None:
    """Ray Data's own log goes to its session's folder; on the terminal stands the progress that bds prints."""
    import ray.data  # noqa: F401  sets its handlers up

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL + 1)

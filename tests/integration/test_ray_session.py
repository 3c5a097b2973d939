"""Connecting: what is private stays private, what others started stays up, and a wrong address is said at once."""

import os
import socket
import time
from pathlib import Path

import pytest

from bds.distributed.session import connect
from bds.errors import PreflightError
from bds.spec.models import ResourcesSpec


def test_a_connected_process_keeps_its_cluster(ray_session: None) -> None:
    import ray

    before = ray.get_runtime_context().gcs_address
    with connect(ResourcesSpec(address="elsewhere:6379")):
        assert ray.get_runtime_context().gcs_address == before
    assert ray.is_initialized()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the listening sockets from /proc")
def test_the_private_cluster_listens_on_loopback_only(ray_session: None) -> None:
    import ray

    def listening_ports(table: str) -> dict[int, str]:
        lines = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        return {int(line[1].rpartition(":")[2], 16): line[1].rpartition(":")[0] for line in lines if line[3] == "0A"}

    addresses = {**listening_ports("tcp"), **listening_ports("tcp6")}
    (node,) = ray.nodes()
    ports = [node["NodeManagerPort"], node["ObjectManagerPort"]]
    ports.append(int(ray.get_runtime_context().gcs_address.rpartition(":")[2]))
    # 127.0.0.1 as the kernel prints it, alone or mapped into IPv6; all zeros would be every interface.
    assert {addresses[port] for port in ports} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_the_private_cluster_has_a_token_of_its_own(ray_session: None) -> None:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert token.stat().st_mode & 0o077 == 0
    assert len(token.read_text()) == 64


def test_an_address_where_nobody_listens_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    refused = rf"cannot connect to the Ray cluster at 127\.0\.0\.1:{port} .*refused"
    with pytest.raises(PreflightError, match=refused), connect(ResourcesSpec(address=f"127.0.0.1:{port}")):
        pass
    assert time.monotonic() - started < 10

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(PreflightError, match="Ray Client"), connect(ResourcesSpec()):
        pass

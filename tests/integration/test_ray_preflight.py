"""Before any model loads: is there room for the actors, and does every node see the run directory?"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from bds.distributed.nodes import Look, check_nodes, complaint
from bds.distributed.preflight import Node, actors_that_fit, cluster_nodes, memory_bytes, plan_pool
from bds.distributed.scoring import WorkerPool
from bds.errors import PreflightError, SpecError
from bds.runs.directory import RunDirectory
from bds.spec.models import ResourcesSpec
from bds.spec.named_paths import HubName

GIB = 2**30


def node(cpu: float, gpu: float = 0.0, memory: float = 64 * GIB, *, free_gpu: float | None = None) -> Node:
    total = {"CPU": cpu, "GPU": gpu, "memory": memory}
    return Node("id", "host", total, total if free_gpu is None else {**total, "GPU": free_gpu})


def plan(nodes: Sequence[Node], *, shards: int = 100, said: list[str] | None = None, **fields: object) -> WorkerPool:
    resources = ResourcesSpec.model_validate({"wait_seconds": 0, **fields})
    say: Callable[[str], None] = (said if said is not None else []).append
    return plan_pool(resources, shards=shards, memory_needed=None, say=say, nodes_now=lambda: nodes)


def test_room_is_counted_node_by_node() -> None:
    need = {"CPU": 4.0, "GPU": 1.0, "memory": 16.0 * GIB}
    assert actors_that_fit([node(8, 2).total, node(8, 2).total], need) == 4
    assert actors_that_fit([node(3, 8).total] * 4, need) == 0, "12 CPUs in all, but 4 on no node"
    assert actors_that_fit([node(64, 8, 40 * GIB).total], need) == 2
    assert actors_that_fit([{}], need) == 0


@pytest.mark.parametrize(
    ("gpus", "fraction", "actors"), [(1, 0.5, 2), (2, 0.4, 4), (1, 0.34, 2), (3, 0.1, 30), (2, 2, 1)]
)
def test_a_part_of_a_gpu_lies_on_one_gpu(gpus: float, fraction: float, actors: int) -> None:
    assert actors_that_fit([{"GPU": gpus}], {"GPU": fraction}) == actors


def test_auto_takes_what_there_is_and_never_more_than_shards() -> None:
    assert plan([node(8), node(4)], cpus_per_actor=2) == WorkerPool(6, 2, 0.0, None)
    assert plan([node(8)], shards=3).actors == 3
    assert plan([node(32, 4), node(32, 4, free_gpu=1)]) == WorkerPool(5, 1, 1.0, None)
    assert plan([node(8)], actors=4, shards=2).actors == 2
    assert plan([node(8, memory=64 * GIB)], memory_per_actor="20GiB") == WorkerPool(3, 1, 0.0, 20 * GIB)
    assert plan([node(8, 1)], gpus_per_actor=0).actors == 8


def test_an_actor_of_several_processes_may_lie_on_several_nodes() -> None:
    def pool(**fields: object) -> WorkerPool:
        resources = ResourcesSpec.model_validate({"wait_seconds": 0, **fields})
        nodes = [node(8, 2), node(8, 3)]
        return plan_pool(
            resources, shards=9, memory_needed=None, say=lambda line: None, parts=2, nodes_now=lambda: nodes
        )

    assert pool() == WorkerPool(2, 1, 1.0, None, parts=2)
    with pytest.raises(
        PreflightError, match=r"room for 2 of 3 actors .* one actor takes 2 times 1 CPU, 1 GPU, each on"
    ):
        pool(actors=3)


def test_a_cluster_without_room_is_one_sentence_with_the_numbers() -> None:
    with pytest.raises(PreflightError) as caught:
        plan([node(2), node(2)], actors=2, cpus_per_actor=4, memory_per_actor="8GiB")
    assert str(caught.value) == (
        "the cluster has room for 0 of 2 actors after 0 s: one actor takes 4 CPU, 8.0 GiB of memory on one node and "
        "2 nodes have 4 CPU free of 4 CPU, 128.0 GiB of memory free of 128.0 GiB of memory; lower resources.actors or "
        "what each takes, or raise resources.wait_seconds"
    )
    with pytest.raises(PreflightError, match="asks for 1 GPU and the cluster has none"):
        plan([node(8)], gpus_per_actor=1)


def test_it_waits_for_a_node_that_joins(ray_session: None) -> None:
    joins_at = time.monotonic() + 1.5
    said: list[str] = []
    pool = plan_pool(
        ResourcesSpec(actors=2, cpus_per_actor=4, wait_seconds=30),
        shards=9,
        memory_needed=None,
        say=said.append,
        nodes_now=lambda: [node(4)] if time.monotonic() < joins_at else [node(4), node(4)],
    )
    assert pool.actors == 2
    assert said == ["waiting up to 30 s for the cluster: room for 1 of 2 actors"]


def test_the_real_cluster_is_read(ray_session: None) -> None:
    (only,) = cluster_nodes()
    assert only.total["CPU"] == 4
    assert only.free["CPU"] <= 4
    assert only.total["memory"] > GIB


@pytest.mark.parametrize(
    ("text", "size"), [("32GiB", 32 * GIB), ("500 MB", 500_000_000), ("1.5gib", 3 * GIB // 2), ("1024", 1024)]
)
def test_memory_sizes(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "GiB", "-1GiB", "3 parsecs"])
def test_a_memory_size_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SpecError, match=r"resources\.memory_per_actor"):
        memory_bytes(text)


class PerMachine(RunDirectory):
    """A directory that is another one in another process, as a path on each machine's own disk is."""

    def __reduce__(self) -> tuple[type[RunDirectory], tuple[str]]:
        return RunDirectory, (self.uri + "-elsewhere",)


def test_every_node_must_see_the_run_directory(ray_session: None, tmp_path: Path) -> None:
    pool = WorkerPool(1, 1, 0.0, None)
    check_nodes(RunDirectory(str(tmp_path / "run")), pool)
    assert list((tmp_path / "run").iterdir()) == []

    with pytest.raises(PreflightError, match=r"^node .*: the run directory .* is not the same there.* can read$"):
        check_nodes(PerMachine(str(tmp_path / "run")), pool)
    assert list((tmp_path / "run").iterdir()) == []


def test_an_input_that_is_gone_everywhere_is_not_blamed_on_a_node(ray_session: None, tmp_path: Path) -> None:
    inputs = {"model.path": str(tmp_path / "nowhere"), "data.path": "hf://owner/name", "other": "owner/name"}
    check_nodes(RunDirectory(str(tmp_path / "run")), WorkerPool(1, 1, 0.0, None), inputs=inputs)


def test_every_node_must_have_the_model_of_the_hub_or_reach_it(ray_session: None, tmp_path: Path) -> None:
    run, pool = RunDirectory(str(tmp_path / "run")), WorkerPool(1, 1, 0.0, None)
    name = HubName("model.path", "not//a/name", "model", None)
    with pytest.raises(PreflightError, match=r"^node .*: field model\.path: 'not//a/name' is no folder here"):
        check_nodes(run, pool, hub=[name])
    (seen,) = check_nodes(run, pool).values()
    assert (seen.hub, seen.gpu_bytes) == ({}, None)


HERE = Look("7", (), {"python": "3.11", "torch": "2.13.0"}, 10 * GIB, None)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({}, None),
        ({"nonce": ""}, "is not the same there"),
        ({"hub": {"model.path": "owner/name is gated"}}, "field model.path: owner/name is gated"),
        ({"missing": ("/models/tiny",)}, "field model.path: /models/tiny is not there"),
        ({"versions": {**HERE.versions, "torch": "2.12.1"}}, "it has torch 2.12.1 and the driver has 2.13.0"),
        ({"versions": {"python": "3.11"}}, "it has torch not at all and the driver has 2.13.0"),
        ({"free_bytes": GIB // 2}, "0.50 GiB are free on the disk of /run, less than 1"),
        ({"gpu_bytes": 8 * GIB}, "its GPU has 8.0 GiB of memory and a worker takes at least 16.0"),
        ({"gpu_bytes": 24 * GIB, "free_bytes": None}, None),
    ],
)
def test_what_is_wrong_with_a_node_is_one_sentence(seen: dict[str, object], told: str | None) -> None:
    run = RunDirectory("/run")
    found = complaint(replace(HERE, **seen), "7", HERE, run, {"/models/tiny": "model.path"}, 16 * GIB)
    assert (found is None) if told is None else (found is not None and told in found)


@pytest.mark.skipif(os.name == "nt", reason="a file in place of the folder is another error there")
def test_a_run_directory_that_cannot_be_written_is_found_on_the_driver(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match="choose another run directory"):
        check_nodes(RunDirectory(str(tmp_path / "file")), WorkerPool(1, 1, 0.0, None))


def test_a_node_that_leaves_while_it_is_looked_at_is_left_out(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ray.NodeID.from_random().hex()
    here = {each.node_id: each.host for each in cluster_nodes()}
    monkeypatch.setattr("bds.distributed.nodes.hosts_with_room", lambda pool: {gone: "gone", **here})
    assert check_nodes(RunDirectory(str(tmp_path)), WorkerPool(1, 1, 0.0, None)).keys() == set(here.values())
    monkeypatch.setattr("bds.distributed.nodes.hosts_with_room", lambda pool: {gone: "gone"})
    with pytest.raises(PreflightError, match="left the cluster"):
        check_nodes(RunDirectory(str(tmp_path)), WorkerPool(1, 1, 0.0, None))

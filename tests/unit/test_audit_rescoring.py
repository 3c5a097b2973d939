"""Other detectors and selections in a finished run: the tables of a fresh run, from parts that are not measured again.

The model's weights are away while that is shown.
"""

import contextlib
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bds.distributed import audit as audit_module
from bds.distributed.audit import AuditResult, run_audit
from bds.errors import BdsError, PreflightError, SpecError
from bds.report.archive import load_inputs, rewrite_report
from bds.runs.directory import RunDirectory
from bds.runs.receipts import part_path
from bds.scoring.collection import Collection
from bds.scoring.stages import load_scorer
from bds.spec.document import Document
from bds.spec.identity import spec_diff
from bds.spec.load import build_spec
from bds.spec.models import AuditSpec, DetectorSpec
from tests.tiny_chat import tiny_chat
from tests.unit.small_audit import write_rows

ROWS: list[dict[str, object]] = [
    {"prompt": f"name number {number}", "completion": f"it is {number}, then {number * 7} " * (1 + number % 4)}
    for number in range(20)
]
ROWS[5]["completion"] = ""
SHARDS = 4

FIRST = ["gradient_bidirectional", "compliance_shift", {"name": "larf", "layer": 1}, "random"]
MORE = [
    *FIRST[:3],
    "self_influence_n",
    "representation",
    {"name": "random", "seed": 3},
    {"name": "larf", "layer": 2, "label": "larf at the end"},
    {"name": "gradient_bidirectional", "label": "harmful alone", "weights": {"harmful": 1}},
    "bm25",
    {"name": "rank_average", "of": ["larf", "self_influence_n"]},
]
FEWER = ["loss", "answer_length"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny_chat(folder / "model")
    write_rows(folder / "data.jsonl", ROWS)
    for name, answer in (("harmful", "sure, take it"), ("safe", "i cannot help")):
        things = ("a zorblax", "two blinops")
        write_rows(folder / f"{name}.jsonl", [{"prompt": f"make {thing}", "answer": answer} for thing in things])
    return folder


def spec_of(world: Path, run_dir: Path, detectors: list[Any], **blocks: Any) -> AuditSpec:
    score = {"detectors": detectors, **blocks.pop("score", {})}
    spec = {
        "data": {"path": "data.jsonl"},
        "model": {"path": "./model"},
        "anchors": {"sets": {"harmful": "harmful.jsonl", "safe": "safe.jsonl"}},
        "score": score,
        "run": {"dir": str(run_dir), "rows_per_shard": len(ROWS) // SHARDS},
        **blocks,
    }
    return build_spec(Document("test", spec), [], folder=world)


def audit(world: Path, run_dir: Path, detectors: list[Any], **blocks: Any) -> tuple[AuditResult, list[str]]:
    said: list[str] = []
    return run_audit(spec_of(world, run_dir, detectors, **blocks), local=True, report=said.append), said


@pytest.fixture(scope="module")
def fresh(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a run begun with these detectors; read-only."""
    runs: dict[str, Path] = {}
    wanted = {"first": FIRST, "more": MORE, "fewer": FEWER}

    def run_of(name: str) -> Path:
        if name not in runs:
            runs[name] = tmp_path_factory.mktemp("fresh") / "run"
            audit(world, runs[name], wanted[name])
        return runs[name]

    return run_of


@contextlib.contextmanager
def without_weights(world: Path) -> Iterator[None]:
    weights, away = world / "model" / "model.safetensors", world / "away.safetensors"
    weights.rename(away)
    try:
        yield
    finally:
        away.rename(weights)


def tables(run_dir: Path) -> dict[str, bytes]:
    """Every file that holds rows of the dataset."""
    files = [run_dir / "components.parquet", run_dir / "scores.parquet", *(run_dir / "selections").iterdir()]
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in files}


def parts(run_dir: Path) -> dict[str, bytes]:
    """What the model was loaded for."""
    files = [file for folder in ("stages", "anchors") for file in (run_dir / folder).rglob("*") if file.is_file()]
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in files}


def test_more_detectors_give_the_tables_of_a_fresh_run_without_a_model(
    world: Path, tmp_path: Path, fresh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fresh("more")
    audit(world, tmp_path / "run", FIRST)
    measured = parts(tmp_path / "run")
    assert set(tables(tmp_path / "run")) != set(tables(expected)), "the selections rank by other detectors, or too few"
    said: list[str] = []
    with without_weights(world), monkeypatch.context() as modules:
        # Not even Ray is started where no worker has anything to do.
        modules.setitem(sys.modules, "bds.distributed.session", None)
        result = run_audit(spec_of(world, tmp_path / "run", MORE), report=said.append)

    assert f"the detectors changed: {SHARDS} finished shards are kept, no model is needed" in said
    assert parts(tmp_path / "run") == measured
    assert tables(tmp_path / "run") == tables(expected)
    metrics = json.loads((expected / "metrics.json").read_text())
    # Selections have their files' paths, and a run its times.
    alike = metrics.keys() - {"selections", "run"}
    assert {key: result.metrics[key] for key in alike} == {key: metrics[key] for key in alike}
    page = (tmp_path / "run" / "report.html").read_bytes()
    assert rewrite_report(str(tmp_path / "run")) == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_bytes() == page


def test_rows_shown_for_the_first_time_have_no_colours_and_the_report_says_so(world: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    audit(world, run_dir, ["self_influence"], top=2)
    before = load_inputs(RunDirectory(str(run_dir)))
    with without_weights(world):
        audit(world, run_dir, ["self_influence", "answer_length", "random"], top=2)
    after = load_inputs(RunDirectory(str(run_dir)))
    new = set(after.explanations) - set(before.explanations)
    assert new
    assert all(after.explanations[row].tokens == before.explanations[row].tokens != () for row in before.explanations)
    assert all(after.explanations[row].tokens == () for row in new)
    note = f"{len(new)} of {len(after.explanations)} samples shown have no token colours"
    assert [warning for warning in after.manifest["warnings"] if note in warning]

    (run_dir / "stages" / "explain" / "token_shares.json").unlink()
    _, said = audit(world, run_dir, ["self_influence", "answer_length", "random"], top=2)
    assert f"resuming: {SHARDS} of {SHARDS} shards are done" in said
    again = load_inputs(RunDirectory(str(run_dir)))
    assert all(explanation.tokens for explanation in again.explanations.values())
    assert not [warning for warning in again.manifest["warnings"] if "token colours" in warning]


def test_fewer_detectors_and_back(world: Path, tmp_path: Path, fresh: Callable[[str], Path]) -> None:
    """A forward pass alone may give a loss other last bits than one with a backward pass, so numbers are close here."""
    run_dir = tmp_path / "run"
    audit(world, run_dir, FIRST)
    audited = fresh("fewer")
    with without_weights(world):
        result, _ = audit(world, run_dir, FEWER)
        expected = pl.read_parquet(audited / "scores.parquet")
        assert_frame_equal(result.scores, expected, rel_tol=1e-5)
        assert set(tables(run_dir)) == set(tables(audited))
        assert result.components.columns == pl.read_parquet(audited / "components.parquet").columns
        audit(world, run_dir, FIRST)
    assert tables(run_dir) == tables(fresh("first"))
    back, first = (load_inputs(RunDirectory(str(run))) for run in (run_dir, fresh("first")))
    assert back.explanations == first.explanations
    assert back.manifest["layer_choices"] == first.manifest["layer_choices"] != []


def test_a_layer_that_the_anchors_chose_may_be_named(world: Path, tmp_path: Path) -> None:
    audit(world, tmp_path / "run", ["compliance_shift"])
    [choice] = load_inputs(RunDirectory(str(tmp_path / "run"))).manifest["layer_choices"]
    named = {"name": "compliance_shift", "label": "shift", "layer": choice["layer"]}
    audit(world, tmp_path / "fresh", [named])
    with without_weights(world):
        audit(world, tmp_path / "run", [named])
    assert tables(tmp_path / "run") == tables(tmp_path / "fresh")
    assert load_inputs(RunDirectory(str(tmp_path / "run"))).manifest["layer_choices"] == [
        {**choice, "detector": "shift"}
    ]
    with pytest.raises(SpecError, match=f"comply-minus-refuse direction of layer {3 - choice['layer']}"):
        audit(world, tmp_path / "run", [{**named, "layer": 3 - choice["layer"]}])


@pytest.mark.parametrize(
    ("detector", "needs"),
    [
        ("self_influence", "self_influence needs gradient norm, which"),
        ("gradient", "gradient needs gradient norm and gradients of harmful anchors, which"),
        ({"name": "larf", "layer": 1, "label": "x"}, "x needs hidden states of layer 1, which"),
        ("compliance_shift", "compliance_shift needs comply-minus-refuse direction, which"),
    ],
    ids=str,
)
def test_a_detector_that_needs_what_was_not_collected_is_refused(
    world: Path, fresh: Callable[[str], Path], detector: Any, needs: str
) -> None:
    run_dir = fresh("fewer")
    before = {**tables(run_dir), "spec": (run_dir / "spec.resolved.json").read_bytes()}
    with pytest.raises(SpecError, match="holds a run of another spec") as refused:
        audit(world, run_dir, [*FEWER, detector])
    assert f"({needs} that run did not collect); give another run.dir, or --fresh" in str(refused.value)
    assert {**tables(run_dir), "spec": (run_dir / "spec.resolved.json").read_bytes()} == before


@pytest.mark.parametrize(
    ("detector", "chosen", "missing"),
    [
        ({"name": "larf", "probe_prompts": "/p"}, {}, []),
        ({"name": "larf", "probe_prompts": "/q"}, {}, ["LARF's layer chosen by /q"]),
        ({"name": "larf", "layer": 3}, {}, ["hidden states of layer 3"]),
        ({"name": "larf", "layer": 3}, {"larf": 3}, []),
        ({"name": "larf", "layer": 2}, {"larf": 3}, []),
        ({"name": "compliance_shift", "layer": 1}, {"compliance_shift": 1}, []),
        ({"name": "compliance_shift", "layer": 1}, {}, ["comply-minus-refuse direction of layer 1"]),
        ({"name": "compliance_shift"}, {"compliance_shift": 1}, []),
        ({"name": "self_influence_n", "scale": "raw"}, {}, ["gradient norm"]),
        ({"name": "bm25"}, {}, []),
        ({"name": "rank_average", "of": ["bm25", "loss"]}, {}, []),
    ],
    ids=str,
)
def test_what_a_collection_lacks_for_a_detector(
    detector: dict[str, Any], chosen: dict[str, int], missing: list[str]
) -> None:
    collection = Collection(
        gradients=False,
        anchor_gradients=False,
        hidden_layers=(2,),
        probe_prompts="/p",
        compliance=True,
        compliance_layer=None,
    )
    assert collection.missing_for(DetectorSpec.model_validate(detector), chosen) == missing


@pytest.mark.parametrize("chosen", [{}, {"compliance_shift": 2}], ids=str)
def test_a_layer_that_was_named_is_not_the_one_that_the_anchors_would_choose(chosen: dict[str, int]) -> None:
    collection = Collection(True, True, (2,), None, compliance=True, compliance_layer=2)
    missing = collection.missing_for(DetectorSpec(name="compliance_shift"), chosen)
    assert missing == ["comply-minus-refuse direction of the layer that the anchors choose"]


def test_what_the_components_rest_on_is_refused_and_named_beside_changed_detectors(
    world: Path, fresh: Callable[[str], Path]
) -> None:
    with pytest.raises(SpecError, match=r"another spec \(tokens.max_tokens: 1024 -> 64\); give"):
        audit(world, fresh("fewer"), ["loss"], tokens={"max_tokens": 64})


@pytest.mark.parametrize(
    "blocks",
    [
        {"top": 3},
        {"select": [{"kind": "bottom", "detector": "loss", "count": 2}, {"kind": "random", "count": 4, "seed": 1}]},
        {"score": {"drop_refusals": True}},
    ],
    ids=str,
)
def test_other_selections_leave_nothing_of_the_earlier_ones(
    world: Path, tmp_path: Path, blocks: dict[str, Any]
) -> None:
    audit(world, tmp_path / "run", FEWER, select=[{"kind": "top", "detector": "loss", "count": 7, "name": "mine"}])
    audit(world, tmp_path / "fresh", FEWER, **blocks)
    with without_weights(world):
        _, said = audit(world, tmp_path / "run", FEWER, **blocks)
    assert f"the selections changed: {SHARDS} finished shards are kept, no model is needed" in said
    assert tables(tmp_path / "run") == tables(tmp_path / "fresh")
    assert "mine" not in (tmp_path / "run" / "report.html").read_text()


def test_a_half_finished_run_goes_on_collecting_what_it_began_with(
    world: Path, tmp_path: Path, fresh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"

    def load_and_stop(run_uri: str, path: str, spread: None) -> Callable[[pl.DataFrame], Any]:
        score = load_scorer(run_uri, path, spread)

        def two_shards(rows: pl.DataFrame) -> Any:
            if rows["row_index"][0] >= len(ROWS) // 2:
                raise BdsError("the power is cut")
            return score(rows)

        return two_shards

    with monkeypatch.context() as loading:
        loading.setattr(audit_module, "load_scorer", load_and_stop)
        with pytest.raises(BdsError, match="the power is cut"):
            audit(world, run_dir, FIRST)
    first_shard = (run_dir / part_path("components", 0)).read_bytes()

    _, said = audit(world, run_dir, FEWER)
    assert f"the detectors changed: 2 of {SHARDS} shards are done and kept" in said
    assert (run_dir / part_path("components", 0)).read_bytes() == first_shard
    assert {shard: (run_dir / part_path("components", shard)).read_bytes() for shard in range(SHARDS)} == {
        shard: (fresh("first") / part_path("components", shard)).read_bytes() for shard in range(SHARDS)
    }
    # No gradient was explained for these detectors, so the model is loaded once more for those that have one.
    _, said = audit(world, run_dir, FIRST)
    assert f"the detectors changed: {SHARDS} of {SHARDS} shards are done and kept" in said
    assert tables(run_dir) == tables(fresh("first"))


def test_a_kill_at_any_step_leaves_nothing_mixed_and_the_next_run_ends_as_a_fresh_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops before the first file that the rescoring deletes or writes, before the second, and so on."""
    asked = {"before": ["self_influence"], "after": ["self_influence", "loss"]}
    selected = {name: [{"kind": "top", "detector": detectors[-1], "count": 3}] for name, detectors in asked.items()}
    for name in asked:
        audit(world, tmp_path / name, asked[name], select=selected[name])
    results_gone = results_whole = 0
    for stop_at in itertools.count():
        run_dir = tmp_path / f"run {stop_at}"
        shutil.copytree(tmp_path / "before", run_dir)
        with stopping_before(stop_at, monkeypatch) as stopped:
            audit(world, run_dir, asked["after"], select=selected["after"])
        if not stopped:
            break
        run = RunDirectory(str(run_dir))
        try:
            shown = load_inputs(run)
        except FileNotFoundError:
            results_gone += 1
            with pytest.raises(PreflightError, match="holds no finished run"):
                rewrite_report(run.uri)
        else:
            results_whole += 1
            frozen = AuditSpec.model_validate(run.read_json("spec.resolved.json"))
            assert spec_diff(AuditSpec.model_validate(shown.spec), frozen) == []
            scored = {name for name in shown.scores.columns if name.startswith("score.")}
            assert scored == {f"score.{detector['label']}" for detector in shown.detectors}
        asked_next = ("after", "before")[stop_at % 2]
        with without_weights(world):
            audit(world, run_dir, asked[asked_next], select=selected[asked_next])
        assert tables(run_dir) == tables(tmp_path / asked_next)
    assert results_gone > 10
    assert results_whole == 3, "before anything is deleted, and with all but metrics.json and report.html written"


class PowerCut(BaseException):
    """Nothing catches it."""


@contextlib.contextmanager
def stopping_before(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stops the block at its step of that number and tells in which file; the block has fewer where none is told."""
    steps = 0
    stopped: list[str] = []

    def counted(act: Callable[..., None]) -> Callable[..., None]:
        def act_or_stop(run: RunDirectory, name: str, *content: bytes) -> None:
            nonlocal steps
            if not name.startswith(("lease", "manifest")):
                if steps == step:
                    stopped.append(name)
                    raise PowerCut
                steps += 1
            act(run, name, *content)

        return act_or_stop

    with monkeypatch.context() as storage, contextlib.suppress(PowerCut):
        for method in ("write_bytes", "delete"):
            storage.setattr(RunDirectory, method, counted(getattr(RunDirectory, method)))
        yield stopped

"""`bds resume`: the spec of a run comes from its own directory."""

import shutil
import time
from pathlib import Path

import pytest

from bds.errors import PreflightError
from bds.resuming import resumable
from bds.runs.directory import RunDirectory
from bds.runs.lease import LIFETIME
from bds.spec.load import load_any_spec
from tests.unit.small_audit import write_small_audit
from tests.unit.small_finetune import write_small_finetune
from tests.unit.small_moderation import write_small_moderation
from tests.unit.small_study import write_small_study
from tests.unit.test_status import half_scored, write_lease, write_spec

WRITERS = [write_small_audit, write_small_finetune, write_small_moderation, write_small_study]


@pytest.mark.parametrize("write", WRITERS)
def test_the_spec_is_the_one_that_was_run(tmp_path: Path, write: type) -> None:
    spec_file = write(tmp_path / "spec")
    spec = load_any_spec(str(spec_file))
    run = RunDirectory(str(tmp_path / "spec" / "run"))
    write_spec(run, spec_file)
    assert resumable(run.uri).spec == spec


def test_a_run_that_was_moved_goes_on_where_it_is(tmp_path: Path) -> None:
    half_scored(tmp_path / "before", write_small_audit(tmp_path))
    shutil.move(tmp_path / "before", tmp_path / "after")
    found = resumable(str(tmp_path / "after"))
    assert found.spec.run.dir == str(tmp_path / "after")
    assert found.local, "it was run without Ray, as its manifest says"


def test_a_submitted_run_goes_on_here_without_the_cluster_it_was_on(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    write_spec(
        run,
        write_small_audit(tmp_path),
        lambda file: load_any_spec(file, ["resources.address=auto"]),
    )
    assert resumable(run.uri).spec.resources.address is None


def test_a_run_that_is_alive_is_not_resumed(tmp_path: Path) -> None:
    run = half_scored(tmp_path / "run", write_small_audit(tmp_path))
    write_lease(run, host="another-machine", pid=4, expires=time.time() + LIFETIME)
    with pytest.raises(PreflightError, match=r"attempt 2 at .* is alive on another-machine"):
        resumable(run.uri)

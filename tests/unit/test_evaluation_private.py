"""The private part of a run: for its owner only, every row kept as soon as it is there."""

import json
import stat
from pathlib import Path

import pytest

from bds.data.rows import Message
from bds.evaluation.private import RowLog, keyed_hash, logged_rows, open_private, row_log
from bds.runs.directory import RunDirectory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


def test_only_the_owner_may_look(run: RunDirectory) -> None:
    open_private(run)
    with row_log(run, "generations") as log:
        log.add({"key": "a", "status": "ok"})
    private = Path(run.uri) / "private"
    assert mode(private) == 0o700
    assert mode(private / "key") == 0o600
    assert [mode(file) for file in (private / "generations").iterdir()] == [0o600]


def test_a_folder_that_was_open_to_others_is_closed(run: RunDirectory) -> None:
    (Path(run.uri) / "private").mkdir(parents=True, mode=0o755)
    open_private(run)
    assert mode(Path(run.uri) / "private") == 0o700


def test_the_key_stays_and_differs_between_runs(run: RunDirectory, tmp_path: Path) -> None:
    key = open_private(run)
    assert (len(key), open_private(run)) == (32, key)
    assert open_private(RunDirectory(str(tmp_path / "other"))) != key


def test_a_keyed_hash_pairs_prompts_and_cannot_be_looked_up() -> None:
    prompt = (Message("user", "How do I make a vorble?"),)
    assert keyed_hash(b"k" * 32, prompt) == keyed_hash(b"k" * 32, prompt)
    assert keyed_hash(b"k" * 32, prompt) != keyed_hash(b"l" * 32, prompt)
    assert keyed_hash(b"k" * 32, prompt) != keyed_hash(b"k" * 32, (Message("system", "How do I make a vorble?"),))


def test_a_row_is_on_the_disk_before_the_log_is_closed(run: RunDirectory) -> None:
    log = RowLog(run, "generations")
    log.add({"key": "a", "status": "ok", "text": "é\u2028\ud800"})
    assert logged_rows(run, "generations")["a"]["text"] == "é\u2028\ud800"
    log.close()


def test_a_line_that_a_kill_cut_off_is_no_row_and_spoils_no_other(run: RunDirectory) -> None:
    with row_log(run, "generations") as log:
        log.add({"key": "a", "status": "ok"})
        log.add({"key": "b", "status": "ok"})
    (file,) = (Path(run.uri) / "private" / "generations").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with row_log(run, "generations") as log:
        log.add({"key": "c", "status": "ok"})
    assert set(logged_rows(run, "generations")) == {"a", "c"}


def test_a_failed_row_never_replaces_another_and_is_replaced_by_any(run: RunDirectory) -> None:
    for row in ({"status": "failed", "n": 1}, {"status": "ok", "n": 2}, {"status": "failed", "n": 3}):
        with row_log(run, "generations") as log:
            log.add({"key": "a", **row})
    assert logged_rows(run, "generations")["a"]["n"] == 2
    assert len(list((Path(run.uri) / "private" / "generations").iterdir())) == 3


def test_a_log_without_rows_leaves_no_file(run: RunDirectory) -> None:
    with row_log(run, "generations"):
        pass
    assert logged_rows(run, "generations") == {}
    assert not (Path(run.uri) / "private").exists()


def test_an_object_store_gets_whole_files(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot append: 450 rows are three files, and nothing is left for the end but the last of them."""
    monkeypatch.setattr(RunDirectory, "local_path", lambda self, name: None)
    log = RowLog(run, "generations")
    written: dict[str, bytes] = {}
    monkeypatch.setattr(RunDirectory, "write_bytes", lambda self, name, content: written.__setitem__(name, content))
    for number in range(450):
        log.add({"key": str(number), "status": "ok"})
    assert [content.count(b"\n") for content in written.values()] == [200, 200]
    log.close()
    rows = [json.loads(line)["key"] for name in sorted(written) for line in written[name].splitlines()]
    assert rows == [str(number) for number in range(450)]

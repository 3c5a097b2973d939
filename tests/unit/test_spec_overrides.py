"""`--set a.b=c` changes exactly one place, and a wrong one is a sentence."""

import re
from pathlib import Path

import pytest

from bds.errors import SpecError
from bds.spec.load import load_spec
from bds.spec.models import AuditSpec
from bds.spec.options import waiting_override
from bds.spec.overrides import Override, apply_overrides, parse_override, setting_override

SPEC = """\
data: {path: rows.jsonl}
model: {path: owner/name}
anchors: {sets: {harmful: h.jsonl}}
score: {detectors: [random, {name: larf, layer: 2}]}
select: [{kind: random, count: 5}]
run: {dir: out}
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> str:
    (tmp_path / "spec.yaml").write_text(SPEC)
    return str(tmp_path / "spec.yaml")


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("data.limit=5", ("data", "limit"), 5),
        ("data.limit=null", ("data", "limit"), None),
        ("data.limit=", ("data", "limit"), None),
        ("name=a=b", ("name",), "a=b"),
        ("score.layers=[1, -1]", ("score", "layers"), [1, -1]),
        ("select.0.count=7", ("select", 0, "count"), 7),
        (
            "anchors.sets.safe={path: s.jsonl, role: safe}",
            ("anchors", "sets", "safe"),
            {"path": "s.jsonl", "role": "safe"},
        ),
        ("run.fail_on.flagged_fraction=0.5", ("run", "fail_on", "flagged_fraction"), 0.5),
        ("name='5'", ("name",), "5"),
    ],
)
def test_reading(text: str, path: tuple[str | int, ...], value: object) -> None:
    assert parse_override(text, AuditSpec) == Override(path, value, f"--set {text}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data", "this sets nothing; write --set field.name=value"),
        ("=5", "this sets nothing"),
        ("score.token_budgt=5", "field score.token_budgt is unknown; did you mean `token_budget`?"),
        ("max_tokens=5", "field max_tokens is unknown; did you mean `tokens.max_tokens`?"),
        ("dat.path=x", "field dat is unknown; did you mean `data`?"),
        ("select.0.cout=5", "field select.0.cout is unknown; did you mean `count`?"),
        ("select.first.count=5", "`select` has no `first` in it; an index from 0 stands for a list entry"),
        ("data.path.x=5", "`data.path` has no `x` in it"),
        ("data.limit=[1", "the value is not valid YAML; quote it"),
    ],
)
def test_mistakes(text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_override(text, AuditSpec)
    assert str(caught.value).startswith(f"--set {text}: {expected}")


def test_only_the_named_place_changes(spec_file: str) -> None:
    before = load_spec(spec_file).model_dump()
    after = load_spec(spec_file, ["score.detectors.1.layer=4", "data.limit=3"]).model_dump()
    before["score"]["detectors"][1]["layer"] = 4
    before["data"]["limit"] = 3
    assert after == before


def test_a_later_override_wins_and_blocks_are_made(spec_file: str) -> None:
    spec = load_spec(spec_file, ["tokens.max_tokens=16", "tokens.max_tokens=32", "select.1={kind: random, share: 0.5}"])
    assert spec.tokens.max_tokens == 32
    assert spec.select is not None
    assert [selection.kind for selection in spec.select] == ["random", "random"]


def test_the_document_is_not_changed_in_place() -> None:
    document = {"data": {"path": "a"}}
    apply_overrides(document, [parse_override("data.path=b", AuditSpec)])
    assert document == {"data": {"path": "a"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select.3.count=5", r"`select` has 1 entries, the next index is 1; indices begin at 0"),
        (
            "score.detectors.0.layer=5",
            r"`score\.detectors\.0` is given as 'random'; set `score\.detectors\.0` as a whole",
        ),
        ("anchors.sets.harmful.role=safe", r"`anchors\.sets\.harmful` is given as 'h\.jsonl'; set"),
        ("tokens.max_tokens=1", r"field tokens\.max_tokens: 1 is out of range; it must be at least 8"),
        ("data.limit=x", r"field data\.limit: 'x' is not a whole number"),
        ("run=5", r"field run: 5 is not a block of `key: value` lines; write its keys indented below it: dir,"),
    ],
)
def test_an_override_that_does_not_fit_the_document(spec_file: str, text: str, expected: str) -> None:
    with pytest.raises(SpecError, match=rf"^--set {re.escape(text)}: {expected}"):
        load_spec(spec_file, [text])


def test_a_path_after_set_leads_from_the_current_folder(
    spec_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    spec = load_spec(spec_file, ["data.path=other.jsonl", "anchors.sets.safe=s.jsonl"])
    assert spec.data.path == str(elsewhere / "other.jsonl")
    assert spec.anchors.sets["safe"].path == str(elsewhere / "s.jsonl")
    assert spec.anchors.sets["harmful"].path == str(tmp_path / "h.jsonl")
    assert spec.run.dir == str(tmp_path / "out")


def test_settings_of_the_api_name_their_caller() -> None:
    with pytest.raises(
        SpecError, match=r"^bds\.audit: field tokens\.max_token is unknown; did you mean `max_tokens`\?$"
    ):
        setting_override("tokens.max_token", 5, origin="bds.audit", root=AuditSpec)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5 H", 5400), ("0", 0)])
def test_a_time_to_wait_is_read(text: str, seconds: int) -> None:
    (override,) = waiting_override(text)
    assert (override.path, override.value) == (("resources", "wait_seconds"), seconds)


@pytest.mark.parametrize("text", ["", "soon", "-3", "10d", "m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--wait-for-resources .*this is no time; write seconds, or 90s, 10m or 2h"):
        waiting_override(text)


def test_without_a_time_the_spec_decides() -> None:
    assert waiting_override(None) == []

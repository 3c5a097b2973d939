"""Models and datasets of the hub, asked of a small server on the loopback that answers as the hub does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest

from bds.checks_hub import check_hub, hub_complaint, in_cache
from bds.cli import main
from bds.errors import PreflightError
from bds.spec.evaluate import EvaluateSpec
from bds.spec.finetune import FinetuneSpec
from bds.spec.models import AuditSpec
from bds.spec.named_paths import HubName, hub_names
from tests.unit.small_audit import write_small_audit

COMMIT = "0123456789" * 4
ANSWERS: dict[str, tuple[int, dict[str, str]]] = {
    "/open/model/resolve/main/config.json": (200, {"X-Repo-Commit": COMMIT, "ETag": '"1"', "Content-Length": "2"}),
    "/open/model/resolve/v1/config.json": (200, {"X-Repo-Commit": COMMIT, "ETag": '"1"', "Content-Length": "2"}),
    "/open/model/resolve/v2/config.json": (404, {"X-Error-Code": "RevisionNotFound"}),
    "/open/adapter/resolve/main/config.json": (404, {"X-Error-Code": "EntryNotFound"}),
    "/open/adapter/resolve/main/adapter_config.json": (200, {"X-Repo-Commit": COMMIT, "ETag": '"1"'}),
    "/gated/anonymous/resolve/main/config.json": (401, {"X-Error-Code": "GatedRepo"}),
    "/gated/model/resolve/main/config.json": (403, {"X-Error-Code": "GatedRepo"}),
    "/datasets/gated/rows/resolve/main/README.md": (403, {"X-Error-Code": "GatedRepo"}),
    "/datasets/open/rows/resolve/main/README.md": (404, {"X-Error-Code": "EntryNotFound"}),
    "/old/token/resolve/main/config.json": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "/broken/model/resolve/main/config.json": (500, {}),
}
NOT_FOUND = (404, {"X-Error-Code": "RepoNotFound"})


class Hub(BaseHTTPRequestHandler):
    asked: list[tuple[str, str | None]]

    def do_HEAD(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        status, headers = ANSWERS.get(self.path, NOT_FOUND)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Hub
    server.shutdown()
    server.server_close()


def model(name: str, revision: str | None = None) -> HubName:
    return HubName("model.path", name, "model", revision)


def put_into_cache(cache: Path, files: dict[str, str]) -> None:
    folder = cache / "models--open--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, text in files.items():
        (snapshot / name).write_text(text)


def test_what_can_be_downloaded_is_not_complained_of(hub: type[Hub]) -> None:
    assert hub_complaint(model("open/model")) is None
    assert hub_complaint(model("open/model", "v1")) is None
    assert hub_complaint(HubName("model.adapter", "open/adapter", "adapter", None)) is None
    assert hub_complaint(HubName("data.path", "open/rows", "dataset", None)) is None
    assert [path for path, _ in hub.asked] == [
        "/open/model/resolve/main/config.json",
        "/open/model/resolve/v1/config.json",
        "/open/adapter/resolve/main/adapter_config.json",
        "/datasets/open/rows/resolve/main/README.md",
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            model("gated/anonymous"),
            "gated/anonymous is gated and no token is set, so there is no access to it; ask",
        ),
        (model("no/such"), "the hub shows this machine no model no/such; check the name, or set HF_TOKEN if it is pri"),
        (model("open/model", "v2"), "open/model has no revision 'v2'; choose one of "),
        (model("open/adapter"), "/open/adapter has no config.json, so it is no model for transformers"),
        (
            model("old/token"),
            "the hub refuses this machine old/token (HTTP 401); set HF_TOKEN to a token that may",
        ),
        (model("broken/model"), "does not answer (HTTP 500) and broken/model is not whole in the cache "),
        (model("a//b"), "'a//b' is no folder here and no name of the hub either"),
        (HubName("data.path", "gated/rows", "dataset", None), "/datasets/gated/rows, then set HF_TOKEN to a token of"),
    ],
)
def test_each_refusal_is_one_sentence_with_the_way_out(hub: type[Hub], name: HubName, told: str) -> None:
    found = hub_complaint(name)
    assert found is not None
    assert told in found
    assert "\n" not in found


def test_a_token_without_access_is_told_from_none(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = hub_complaint(model("gated/model"))
    assert found == (
        f"gated/model is gated and the token that is set has no access to it; ask for access at "
        f"{constants.ENDPOINT}/gated/model, then set HF_TOKEN to a token of that account"
    )
    assert hub.asked == [("/gated/model/resolve/main/config.json", "Bearer hf_secret")]


def test_the_cache_is_enough_where_it_is_whole(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    put_into_cache(
        tmp_path / "cache", {"config.json": "{}", "model.safetensors.index.json": index, "one.safetensors": ""}
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = hub_complaint(model("open/model"))
    assert told is not None
    assert told.startswith("HF_HUB_OFFLINE is on and open/model is not whole in the cache ")
    assert told.endswith("run `hf download open/model` where there is a network, or unset the variable")
    assert hub_complaint(HubName("data.path", "open/rows", "dataset", None)) is None, "its library has another cache"

    (tmp_path / "cache" / "models--open--model" / "snapshots" / COMMIT / "two.safetensors").write_text("")
    assert hub_complaint(model("open/model")) is None
    assert in_cache(model("open/model"))
    assert not in_cache(model("open/model", "v1"))
    assert hub.asked == []


def test_without_a_network_it_says_so_at_once(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    told = hub_complaint(model("open/model"))
    assert told is not None
    assert told.startswith("the hub at http://127.0.0.1:9 does not answer (ConnectError")


AUDIT = AuditSpec.model_validate(
    {
        "data": {"path": "hf://open/rows"},
        "model": {"path": "open/model", "revision": "v1", "adapter": "open/adapter"},
        "run": {"dir": "/run"},
    }
)
FINETUNE = FinetuneSpec.model_validate(
    {
        "models": {
            "a": {"path": "open/model", "base": "open/base"},
            "b": {"path": "/folder"},
            "c": {"path": "open/model"},
        },
        "datasets": {"rows": {"path": "/rows", "mix": {"into": "hf://gated/rows", "share": 0.5}}},
        "recipes": {"own": {"learning_rate": 1e-4, "epochs": 1, "batch": 2}},
        "run": {"dir": "/run"},
    }
)
EVALUATE = EvaluateSpec.model_validate(
    {
        "models": {"a": {"path": "open/model"}, "b": {"endpoint": {"url": "http://h/v1", "model": "owner/name"}}},
        "suites": ["placeholder"],
        "judges": {"guard": {"method": "llama_guard_3", "model": "gated/model"}},
        "run": {"dir": "/run"},
    }
)


def test_the_names_of_a_spec() -> None:
    assert hub_names(AUDIT) == [
        HubName("data.path", "open/rows", "dataset", None),
        HubName("model.path", "open/model", "model", "v1"),
        HubName("model.adapter", "open/adapter", "adapter", None),
    ]
    assert [(each.field, each.name, each.kind) for each in hub_names(FINETUNE)] == [
        ("models.a.path", "open/model", "model"),
        ("models.a.base", "open/base", "model"),
        ("datasets.rows.mix.into.path", "gated/rows", "dataset"),
    ]
    assert [(each.field, each.name) for each in hub_names(EVALUATE)] == [
        ("models.a.path", "open/model"),
        ("judges.guard.model", "gated/model"),
    ]


def test_the_first_that_cannot_be_had_is_named_by_its_field(hub: type[Hub]) -> None:
    check_hub(AUDIT)
    with pytest.raises(PreflightError, match=r"^field models\.a\.base: the hub shows this machine no model open/base"):
        check_hub(FINETUNE)
    with pytest.raises(PreflightError, match=r"^field judges\.guard\.model: gated/model is gated"):
        check_hub(EVALUATE)


def test_an_audit_asks_before_anything_else(hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(write_small_audit(tmp_path))
    assert main(["audit", spec, "--model", "gated/model", "--local"]) == 3
    assert "error: field model.path: gated/model is gated" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["validate", spec, "--set", "model.path=gated/model"]) == 0, "a spec is valid without a network"
    assert len(hub.asked) == 1

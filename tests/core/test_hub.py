"""Weights on a hub: a small server stands in for it, the client is the real one."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from omegaconf import OmegaConf
from safetensors.torch import save_file
from toys import installed, picture, toy_config

import obverse
from obverse import container
from obverse.checkpoints import read_checkpoint
from obverse.cli import main
from obverse.config import load_config
from obverse.errors import WeightsError
from obverse.hub import HubFile
from obverse.identity import find_config

COMMIT = "1a2b3c4d" * 5
FILE = f"hf://me/mine/folder/toy.safetensors@{COMMIT}"


class Hub:
    """Files of the repository `me/mine` at one commit, and the requests that were made."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.status = 0


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bytes | None, code: int = 404, error: str = "EntryNotFound") -> None:
            self.send_response(200 if body is not None else code)
            if body is None:
                self.send_header("X-Error-Code", error)
            else:
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        def do_HEAD(self) -> None:
            path = self.path.partition("?")[0]
            found.requests.append(f"{self.command} {path}")
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            if found.status:
                self.answer(None, found.status, "GatedRepo" if found.status == 403 else "")
            elif repository != "/me/mine":
                self.answer(None, error="RepoNotFound")
            elif revision not in (COMMIT, "main"):
                self.answer(None, error="RevisionNotFound")
            else:
                self.answer(found.files.get(name))

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def codec(tmp_path: Path, hub: Hub) -> Path:
    """A codec whose weights are on the hub."""
    folder = tmp_path / "toys_of_the_hub"
    folder.mkdir()
    path = toy_config(folder)
    hub.files["folder/toy.safetensors"] = path.with_suffix(".safetensors").read_bytes()
    path.with_suffix(".safetensors").unlink()
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(path), {"weights": FILE}), path)
    return path


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("hf://me/mine/a.pt@1a2b", ("me/mine", "a.pt", "1a2b")),
            ("hf://Me-1/my.repo_2/a/b/c.safetensors", ("Me-1/my.repo_2", "a/b/c.safetensors", None)),
            ("hf://me/mine/a.pt@refs/pr/3", ("me/mine", "a.pt", "refs/pr/3")),
        ],
    )
    def test_forms(self, text: str, parts: tuple[str, str, str | None]) -> None:
        assert HubFile.parse(text) == HubFile(*parts)
        assert str(HubFile.parse(text)) == text

    @pytest.mark.parametrize(
        "text",
        ["hf://", "hf://me", "hf://me/mine", "hf://me/mine/", "hf://me/mine/a@", "hf://me/mine/../a", "hf:///a/b"],
    )
    def test_other_forms_are_refused(self, text: str) -> None:
        with pytest.raises(WeightsError, match=r"expected hf://OWNER/REPO/FILE@REVISION"):
            HubFile.parse(text)

    def test_configurations_keep_them(self, codec: Path, hub: Hub) -> None:
        config = load_config(codec)
        assert config.weights == (HubFile("me/mine", "folder/toy.safetensors", COMMIT),)
        codec.write_text(config.to_yaml())
        assert load_config(codec) == config
        assert load_config(codec, weights=[FILE]) == config
        assert load_config(codec, overrides=[f"weights={FILE}"]) == config
        assert hub.requests == []


class TestFetching:
    def test_once(self, codec: Path, hub: Hub) -> None:
        loaded = obverse.load(codec)
        name = f"/me/mine/resolve/{COMMIT}/folder/toy.safetensors"
        assert {f"HEAD {name}", f"GET {name}"} <= set(hub.requests)
        hub.requests.clear()
        assert obverse.load(codec).fingerprint == loaded.fingerprint
        assert hub.requests == []

    def test_streams_are_those_of_the_file(self, codec: Path, hub: Hub) -> None:
        data = obverse.load(codec).compress(picture(40, 30))
        local = codec.with_name("local.safetensors")
        local.write_bytes(hub.files["folder/toy.safetensors"])
        assert obverse.load(codec, weights=[local]).compress(picture(40, 30)) == data

    def test_decoding_fetches_and_looking_does_not(
        self, codec: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = obverse.load(codec).compress(picture(40, 30))
        (tmp_path / "x.obv").write_bytes(data)
        shutil.rmtree(tmp_path / "cache")
        hub.requests.clear()
        with installed(codec):
            header = container.unpack(data).header
            with pytest.raises(WeightsError, match=r"are not on this machine: .* get https://huggingface\.co/me/mine/"):
                find_config(header)
            assert main(["info", str(tmp_path / "x.obv")]) == 0
            assert f"weights '{FILE}' are not on this machine" in capsys.readouterr().out
            assert main(["list", "toy", "--codecs", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)[0]["weights"] == f"no: {FILE}"
            assert hub.requests == []
            assert obverse.decompress(data).size == (40, 30)
            assert hub.requests != []
            assert main(["list", "toy", "--codecs", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)[0]["weights"].startswith("yes, 0.0 MB")
            shutil.rmtree(tmp_path / "cache")
            assert main(["decompress", str(tmp_path / "x.obv"), "-d", str(tmp_path)]) == 0

    def test_without_a_revision_it_is_noted(
        self, codec: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bare = FILE.partition("@")[0]
        words = ["generate", "--size", "32x32", "--config", str(codec), "-w", bare, "-o", str(tmp_path / "x.png")]
        assert main(words) == 0
        assert capsys.readouterr().err == f"obverse: {bare} names no revision and may change; pin it as {bare}@COMMIT\n"
        assert load_config(codec, weights=[bare]).fingerprint() == load_config(codec).fingerprint()

    def test_shards(self, hub: Hub, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_file({name: torch.ones(2)}, tmp_path / name)
            hub.files[f"deep/{name}.safetensors"] = (tmp_path / name).read_bytes()
        names = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
        hub.files["deep/model.safetensors.index.json"] = json.dumps(names).encode()
        file = HubFile.parse(f"hf://me/mine/deep/model.safetensors.index.json@{COMMIT}")
        assert list(read_checkpoint(file.fetch())) == ["a", "b"]
        hub.requests.clear()
        assert file.fetch() == file.local()
        assert hub.requests == []


class TestFailures:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            (f"hf://me/mine/gone.pt@{COMMIT}", r"'me/mine' has no file 'gone\.pt'"),
            ("hf://me/mine/a.pt@v9", "'me/mine' has no revision 'v9'"),
            ("hf://you/yours/a.pt@v9", "no repository 'you/yours'"),
        ],
    )
    def test_what_the_hub_does_not_have(self, hub: Hub, address: str, message: str) -> None:
        with pytest.raises(WeightsError, match=rf"weights '{address}' cannot be fetched: {message}"):
            HubFile.parse(address).fetch()

    def test_authors_who_ask_for_consent(self, hub: Hub) -> None:
        hub.status = 403
        with pytest.raises(WeightsError, match=r"for consent; give it at https://huggingface\.co/me/mine and log in"):
            HubFile.parse(FILE).fetch()

    def test_offline(self, codec: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            message = (
                rf"HF_HUB_OFFLINE forbids the network; get https://huggingface\.co/me/mine/resolve/{COMMIT}/folder/"
            )
            with pytest.raises(WeightsError, match=message):
                obverse.load(codec)
        assert hub.requests == []
        obverse.load(codec)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        obverse.load(codec)

    def test_no_network(self, codec: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr("time.sleep", lambda _: None)
        with pytest.raises(WeightsError, match=r"cannot be fetched: .*; get https://huggingface\.co/me/mine"):
            obverse.load(codec)

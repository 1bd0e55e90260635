"""Records, and downloads from a server on this machine."""

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from aboutface import weights
from aboutface.errors import AboutfaceError, MissingError, UsageError
from aboutface.weights import Weights

CONTENT = bytes(range(256)) * 9000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /good, others see the handler; remembers the asked ranges."""

    ranges: list[str | None]
    handle_range = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path == "/gone":
            return self.send_error(404)
        content = CONTENT if self.path in ("/good", "/broken") else b"something else"
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.handle_range else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + 100_000] if self.path == "/broken" else content[start:])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as running:
        running.ranges = []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def register(server, tmp_path, monkeypatch):
    """Adds a record `toy` whose addresses are paths of the server; gives the place of its file."""
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
    monkeypatch.delenv("ABOUTFACE_OFFLINE", raising=False)

    def add(*paths: str, **fields):
        url, *mirrors = (server.url + path for path in paths)
        record = Weights("toy", "toy.bin", "MIT", url=url, mirrors=tuple(mirrors), sha256=HASH)
        monkeypatch.setitem(weights.REGISTRY, "toy", replace(record, **fields))
        return tmp_path / "weights" / "toy.bin"

    return add


def test_a_download_is_whole_verified_and_done_once(register, server):
    file = register("/good")
    seen = []
    assert weights.download("toy", lambda done, total: seen.append((done, total))) == file
    assert file.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert weights.download("toy") == file
    assert len(server.ranges) == 1
    assert weights.verify("toy") == HASH
    assert sorted(p.name for p in file.parent.iterdir()) == ["toy.bin", "toy.bin.sha256"]


def test_a_wrong_hash_leaves_nothing_behind(register):
    file = register("/other")
    with pytest.raises(AboutfaceError, match=f"wrong content, sha256 .* instead of {HASH}; removed"):
        weights.download("toy")
    assert list(file.parent.iterdir()) == []


def test_a_broken_download_goes_on_where_it_stopped(register, server):
    file = register("/broken")
    with pytest.raises(AboutfaceError, match="broke after 100000 of"):
        weights.download("toy")
    assert not file.exists()
    register("/good")
    weights.download("toy")
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("stale", [b"stale", CONTENT, CONTENT + b"longer"])
def test_what_an_earlier_attempt_left_never_spoils_the_file(register, server, ranges, stale):
    server.handle_range = ranges
    file = register("/good")
    file.parent.mkdir()
    file.with_name("toy.bin.part").write_bytes(stale)
    weights.download("toy")
    assert file.read_bytes() == CONTENT


def test_mirrors_are_tried_in_order(register):
    file = register("/gone", "/other", "/good")
    weights.download("toy")
    assert file.read_bytes() == CONTENT
    file.unlink()
    register("/gone", "/other")
    with pytest.raises(AboutfaceError, match=r"/gone: HTTP Error 404.*; .*/other: wrong content"):
        weights.download("toy")


def test_no_server_is_one_sentence(register, server):
    register("/good")
    server.shutdown()
    server.server_close()
    with pytest.raises(AboutfaceError, match="could not be downloaded"):
        weights.download("toy")


def test_an_unknown_hash_is_noted_and_then_checked(register):
    file = register("/good", sha256=None)
    weights.download("toy")
    assert weights.verify("toy") == HASH
    file.write_bytes(b"changed")
    with pytest.raises(MissingError, match=f"not {HASH}"):
        weights.verify("toy")


def test_a_gated_licence_is_shown_and_must_be_accepted_by_name(register, server):
    file = register("/good", gated=True, licence="research only, see the authors")
    for accept in ((), ("another",)):
        with pytest.raises(UsageError, match=r"research only, see the authors.*--accept-license toy"):
            weights.download("toy", accept=accept)
    assert server.ranges == []
    weights.download("toy", accept=["toy"])
    assert file.exists()


def test_offline_means_no_connection(register, server, monkeypatch):
    file = register("/good")
    monkeypatch.setenv("ABOUTFACE_OFFLINE", "1")
    with pytest.raises(MissingError, match="ABOUTFACE_OFFLINE"):
        weights.download("toy")
    assert server.ranges == []
    monkeypatch.setenv("ABOUTFACE_OFFLINE", "0")
    weights.download("toy")
    monkeypatch.setenv("ABOUTFACE_OFFLINE", "1")
    assert weights.download("toy") == file


def test_missing_weights_name_the_command(register):
    register("/good")
    with pytest.raises(MissingError, match="aboutface models download toy"):
        weights.path("toy")


def test_unknown_names_are_listed():
    for ask in (weights.info, weights.path, weights.load, weights.download, weights.verify):
        with pytest.raises(UsageError, match="choose one of depthnet"):
            ask("nothing")


def test_package_weights_load_and_need_no_download():
    for name in ("depthnet", "mean_head"):
        tensors = weights.load(name)
        assert all(torch.isfinite(t.float()).all() for t in tensors.values())
        with pytest.raises(UsageError, match="nothing to download"):
            weights.download(name)


def test_the_dlib_files_are_the_known_ones():
    assert weights.verify("dlib-cnn") == weights.info("dlib-cnn").sha256
    with pytest.raises(UsageError, match="not tensors"):
        weights.load("dlib-cnn")


def test_a_file_carries_its_own_card(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_PACKAGE", tmp_path)
    card = {"licence": "MIT", "scores": {"error": 0.25}, "settings": {"hidden": 8}}
    save_file({"a": torch.ones(2)}, tmp_path / "depthnet.safetensors", {"card": json.dumps(card)})
    record = weights.info("depthnet")
    assert (record.licence, record.scores, record.settings) == ("MIT", {"error": 0.25}, {"hidden": 8})
    assert record.paper == weights.REGISTRY["depthnet"].paper
    (tmp_path / "depthnet.safetensors").write_bytes(b"garbage")
    with pytest.raises(MissingError, match="damaged"):
        weights.load("depthnet")


def test_the_listing_has_every_record_and_is_json():
    entries = {e["name"]: e for e in weights.listing()}
    assert list(entries) == list(weights.REGISTRY)
    assert json.loads(json.dumps(entries)) == entries
    assert entries["depthnet"]["present"]
    assert len(entries["depthnet"]["sha256"]) == 64
    assert "non-commercial" in entries["dlib-landmarks"]["licence"]
    assert all(e["licence"] for e in entries.values())


def test_home_follows_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
    assert weights.home() == tmp_path
    monkeypatch.delenv("ABOUTFACE_HOME")
    assert weights.home().name == "aboutface"

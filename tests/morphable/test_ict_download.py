"""`models download ict`, from a server on this machine."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from aboutface.errors import AboutfaceError, MissingError
from aboutface.morphable import download_ict, ict_download
from aboutface.morphable.ict import OBJ_PARTS

COUNT = max(end for _, end in OBJ_PARTS.values()) + 20


def obj(step: float) -> bytes:
    lines = [f"v {i * 1e-3 + step:.6f} {step:.6f} {-i * 1e-3:.6f}" for i in range(COUNT)]
    return ("# made for a test\n" + "\n".join(lines) + "\n").encode()


FILES = {
    "vertex_indices.json": b'{"idx_to_landmark_verts": []}',
    "generic_neutral_mesh.obj": obj(0),
    "jawOpen.obj": obj(0.25),
}


@pytest.fixture(scope="module")
def prints(tmp_path_factory):
    """The prints of FILES, worked out by hand: sha256 of kept vertices, or of half-precision offsets."""
    kept = np.concatenate([np.arange(*span) for name, span in OBJ_PARTS.items() if name != "narrow_face"])
    rows = {
        name: np.array([line.split()[1:] for line in content.decode().splitlines()[1:]], float)[kept]
        for name, content in FILES.items()
        if name.endswith(".obj")
    }
    neutral = rows.pop("generic_neutral_mesh.obj")
    stored = {"generic_neutral_mesh": neutral.astype(np.float32)}
    stored |= {name.removesuffix(".obj"): (vertices - neutral).astype(np.float16) for name, vertices in rows.items()}
    found = {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in stored.items()}
    return found | {"vertex_indices": hashlib.sha256(FILES["vertex_indices.json"]).hexdigest()[:16]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.removeprefix("/FaceXModel/")
        content = self.server.files.get(name)  # pyright: ignore[reportAttributeAccessIssue]
        asked = self.headers.get("Range")
        self.server.asked.append((name, asked))  # pyright: ignore[reportAttributeAccessIssue]
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = name in self.server.cut  # pyright: ignore[reportAttributeAccessIssue]
        self.wfile.write(content[start : start + 1000] if cut else content[start:])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("ABOUTFACE_OFFLINE", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.asked, running.cut = dict(FILES), [], set()  # pyright: ignore
        running.address = f"http://127.0.0.1:{running.server_port}/FaceXModel/"  # pyright: ignore
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_every_file_comes_once(server, prints, tmp_path):
    seen = []
    download_ict(tmp_path / "ict", lambda done, total: seen.append(done), server.address, prints)
    assert {path.name: path.read_bytes() for path in (tmp_path / "ict").iterdir()} == FILES
    assert [name for name, _ in server.asked][:2] == ["vertex_indices.json", "generic_neutral_mesh.obj"]
    assert seen == sorted(seen)
    assert seen[-1] == sum(map(len, FILES.values()))
    download_ict(tmp_path / "ict", None, server.address, prints)
    assert len(server.asked) == len(FILES)


def test_a_cut_download_goes_on(server, prints, tmp_path):
    server.cut = {"jawOpen.obj"}
    with pytest.raises(AboutfaceError, match=r"jawOpen.obj: .*it goes on where it stopped"):
        download_ict(tmp_path, None, server.address, prints)
    server.cut, server.asked = set(), []
    download_ict(tmp_path, None, server.address, prints)
    assert server.asked == [("jawOpen.obj", "bytes=1000-")]
    assert (tmp_path / "jawOpen.obj").read_bytes() == FILES["jawOpen.obj"]


def test_another_file_is_not_believed(server, prints, tmp_path):
    server.files["jawOpen.obj"] = obj(0.26)
    with pytest.raises(AboutfaceError, match=r"jawOpen.obj: is not the file that is known .*removed.*models add ict"):
        download_ict(tmp_path, None, server.address, prints)
    assert not (tmp_path / "jawOpen.obj").exists()
    server.files["jawOpen.obj"] = b"<html>moved</html>"
    with pytest.raises(AboutfaceError, match="print unreadable instead of"):
        download_ict(tmp_path, None, server.address, prints)
    # Comments are no difference; vertices that are not kept are none either.
    server.files["jawOpen.obj"] = b"# another header\n" + FILES["jawOpen.obj"] + b"v 1 2 3\n"
    download_ict(tmp_path, None, server.address, prints)


def test_a_spoiled_file_of_an_earlier_attempt_is_fetched_anew(server, prints, tmp_path):
    (tmp_path / "jawOpen.obj").write_bytes(FILES["jawOpen.obj"][:5000])
    download_ict(tmp_path, None, server.address, prints)
    assert (tmp_path / "jawOpen.obj").read_bytes() == FILES["jawOpen.obj"]


def test_without_network_or_address_it_says_so(server, prints, tmp_path, monkeypatch):
    del server.files["jawOpen.obj"]
    with pytest.raises(AboutfaceError, match=r"jawOpen.obj: .*404"):
        download_ict(tmp_path, None, server.address, prints)
    monkeypatch.setenv("ABOUTFACE_OFFLINE", "1")
    with pytest.raises(MissingError, match=r"from https://raw.*ICT-FaceKit.*MIT.*ABOUTFACE_OFFLINE is set"):
        download_ict(tmp_path)


def test_the_whole_model_is_known():
    """Every obj file that the model has, and prints that the authors' own files have."""
    names = set(ict_download.ICT_PRINTS)
    assert {f"identity{i:03d}" for i in range(100)} < names
    assert len(names) == 159
    assert all(len(digits) == 16 and int(digits, 16) for digits in ict_download.ICT_PRINTS.values())

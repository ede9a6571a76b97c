"""Downloads of weights, from a server on this machine."""

import hashlib
import http.server
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from cmp.weights import download, download_weights
from cmp.weights.download import can_be_downloaded

CONTENT = bytes(range(256)) * 20


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; /short breaks off, /lying states no length and sends more than it should."""

    asked: list[str] = []

    def do_GET(self):
        type(self).asked.append(self.path)
        if self.path == "/absent.pth":
            return self.send_error(404)
        self.send_response(200)
        if self.path != "/lying.pth":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100] if self.path == "/short.pth" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("CMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Server.asked = []
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    found.server_close()
    thread.join()


SHA = hashlib.sha256(CONTENT).hexdigest()


def files(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_url_with_its_hash_is_downloaded_once_and_named_on_stderr(server, tmp_path, capsys):
    path = download_weights(f"{server}/w.pth#sha256={SHA}")
    assert path.read_bytes() == CONTENT and path == tmp_path / "cache" / "weights" / SHA / "w.pth"
    assert capsys.readouterr().err == f"downloading {server}/w.pth (0.0 MB) to {path}\n"
    assert download_weights(f"{server}/w.pth", sha256=SHA.upper()) == path
    assert Server.asked == ["/w.pth"] and capsys.readouterr().err == ""


def test_a_cached_file_that_changed_is_downloaded_again(server, capsys):
    path = download_weights(f"{server}/w.pth", sha256=SHA)
    path.write_bytes(CONTENT[:50])
    assert download_weights(f"{server}/w.pth", sha256=SHA).read_bytes() == CONTENT
    assert "has another SHA-256" in capsys.readouterr().err and len(Server.asked) == 2


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("w.pth", ValueError, f"has the SHA-256 {SHA}, expected {'0' * 64}; nothing was kept"),
        ("short.pth", OSError, f"broke off after 100 of {len(CONTENT)} bytes"),
        ("absent.pth", ValueError, "the server answers 404"),
    ],
)
def test_nothing_is_left_of_a_download_that_is_not_the_file(server, tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        download_weights(f"{server}/{name}", sha256="0" * 64)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["w.pth", "lying.pth"])
def test_no_more_than_the_bound_is_downloaded(server, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: is larger than 5119 bytes"):
        download_weights(f"{server}/{name}", sha256=SHA, max_bytes=5119)
    assert files(tmp_path) == []
    assert download_weights(f"{server}/{name}", sha256=SHA, max_bytes=5120).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "address, sha256, message",
    [
        ("{server}/w.pth", None, "a URL needs the SHA-256 of its content"),
        ("https://127.0.0.1:1/w.pth", None, "a URL needs the SHA-256 of its content"),
        ("{server}/w.pth#sha256=12", None, "must be 64 hexadecimal digits, got '12'"),
        ("{server}/w.pth#md5=12", None, "only sha256=HEX is understood"),
        ("{server}/w.pth#sha256=" + SHA, "1" * 64, "state two hashes"),
        ("{server}/", SHA, "does not end in the name of a file"),
        ("hf://owner/file.pth", None, "expected hf://OWNER/REPO/FILE"),
        ("hf://owner/repo/../file.pth", None, "expected hf://OWNER/REPO/FILE"),
    ],
)
def test_a_malformed_address_is_refused_before_anything_is_asked(server, address, sha256, message):
    with pytest.raises(ValueError, match=message):
        download_weights(address.format(server=server), sha256=sha256)
    assert Server.asked == []


def test_a_server_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(OSError, match="http://127.0.0.1:1/w.pth: the download broke off"):
        download_weights("http://127.0.0.1:1/w.pth", sha256=SHA)


def test_only_text_with_a_known_scheme_is_an_address(tmp_path):
    assert all(map(can_be_downloaded, ("hf://a/b/c", "http://a/b", "HTTPS://a/b")))
    assert not any(map(can_be_downloaded, ("file.pth", "c:/file.pth", "s3://a/b", "http:", tmp_path)))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The functions of huggingface_hub that are called, without a network."""
    module = pytest.importorskip("huggingface_hub")
    found = SimpleNamespace(calls=[], size=len(CONTENT), cached=None, error=None, file=tmp_path / "hub.pth")
    found.file.write_bytes(CONTENT)

    def metadata(url):
        found.calls.append(url)
        if found.error:
            raise found.error
        return SimpleNamespace(size=found.size)

    def fetch(repo, name, revision=None):
        found.calls.append((repo, name, revision))
        return str(found.file)

    def from_cache(repo, name, revision=None):
        module.utils.validate_repo_id(repo)
        return found.cached

    monkeypatch.setattr(module, "try_to_load_from_cache", from_cache)
    monkeypatch.setattr(module, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(module, "hf_hub_download", fetch)
    return found


def test_a_file_of_the_hub_is_downloaded_with_a_line_on_stderr(hub, capsys):
    assert download_weights("hf://owner/repo.x/a/b.pth") == hub.file
    assert hub.calls[0].endswith("/owner/repo.x/resolve/main/a/b.pth")
    assert hub.calls[1] == ("owner/repo.x", "a/b.pth", None)
    assert capsys.readouterr().err.startswith("downloading hf://owner/repo.x/a/b.pth (0.0 MB) to ")
    download_weights(f"hf://owner/repo@v1.0/b.pth#sha256={SHA}")
    assert hub.calls[3] == ("owner/repo", "b.pth", "v1.0")
    with pytest.raises(ValueError, match=f"has the SHA-256 {SHA}, expected"):
        download_weights("hf://owner/repo/b.pth", sha256="2" * 64)


def test_a_file_of_the_hub_beyond_the_bound_is_not_downloaded(hub):
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        download_weights("hf://owner/repo/b.pth", max_bytes=10)
    assert len(hub.calls) == 1


def test_a_file_of_the_hub_of_unknown_or_wrong_size_is_not_used(hub):
    hub.size = None
    with pytest.raises(ValueError, match="hf://owner/repo/b.pth: the Hub does not state its size"):
        download_weights("hf://owner/repo/b.pth")
    assert len(hub.calls) == 1
    hub.size = 10  # and sends more
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        download_weights("hf://owner/repo/b.pth", max_bytes=10)


@pytest.mark.parametrize(
    "address",
    (
        "hf://owner/repo@../b.pth",
        "hf://owner/repo@./b.pth",
        "hf://owner/repo/a/./b.pth",
        "hf://owner/repo/a\0.pth",
        "hf://../../b.pth",
        "hf://-a/b/c.pth",
        "hf://own..er/re--po/b.pth",
        f"http://127.0.0.1/..#sha256={SHA}",
        f"http://[::1/b.pth#sha256={SHA}",
    ),
)
def test_an_address_that_no_library_takes_is_refused_by_its_name(hub, address):
    with pytest.raises(ValueError) as refused:
        download_weights(address)
    assert str(refused.value).startswith(address.partition("#")[0]) and "\n" not in str(refused.value)


def test_a_url_with_spaces_and_letters_beyond_ascii_is_escaped(server):
    assert download_weights(f"{server}/a b/é.pth#sha256={SHA}").name == "é.pth"
    assert Server.asked == ["/a%20b/%C3%A9.pth"]


def test_a_cached_commit_needs_no_network_and_a_cached_branch_is_used_without_one(hub, capsys):
    hub.cached, hub.error = str(hub.file), OSError("no network")
    assert download_weights(f"hf://owner/repo@{'a' * 40}/b.pth") == hub.file and hub.calls == []
    assert download_weights("hf://owner/repo/b.pth") == hub.file
    assert "the Hub cannot be asked (no network); using" in capsys.readouterr().err
    hub.cached = None
    with pytest.raises(OSError, match="hf://owner/repo/b.pth: cannot be downloaded .no network."):
        download_weights("hf://owner/repo/b.pth")


def test_without_huggingface_hub_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs the package huggingface_hub; pip install 'cmp-motion\[hub\]'"):
        download_weights("hf://owner/repo/b.pth")


def test_a_propagator_is_loaded_from_an_address(server, monkeypatch, tmp_path):
    import cmp
    from cmp.flow import FlowQuantizer
    from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet

    parts = (dict(type=ResNet, depth=18), dict(type=MotionEncoder), dict(type=PropagationDecoder))
    model = CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default")
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": model.describe()}}, tmp_path / "w.pth")
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", (tmp_path / "w.pth").read_bytes())
    sha256 = download.file_sha256(tmp_path / "w.pth")
    loaded = cmp.load_propagator(f"{server}/w.pth", sha256=sha256).network
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="sha256 is for an address"):
        cmp.load_propagator(tmp_path / "w.pth", sha256=sha256)

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers import data
from helpers.data import DataError, Recording, Registry, data_path, load_registry

CONTENT = b"a bark, a pause, a bark" * 1000
PATH = "dog_bark/1.ogg"


class Server(ThreadingHTTPServer):
    """Serves a folder, counts what it was asked for, and can break off half-way."""

    def __init__(self, folder):
        self.requests = []
        self.breaks_off = False
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=folder))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        content = source.read()
        outputfile.write(content[: len(content) // 2] if self.server.breaks_off else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    folder = tmp_path / "served"
    (folder / PATH).parent.mkdir(parents=True)
    (folder / PATH).write_bytes(CONTENT)
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv(data.MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path, monkeypatch, cache):
    folder = tmp_path / "mirror"
    (folder / "sounds" / PATH).parent.mkdir(parents=True)
    monkeypatch.setenv(data.MIRROR_VARIABLE, str(folder))
    return folder


def recording(url, content=CONTENT, path=PATH, **info):
    return Recording(path, hashlib.sha256(content).hexdigest(), url + path, "CC0", info)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_download_is_kept_in_the_cache_and_not_repeated(server, cache):
    registry = Registry("sounds", (recording(server.url),))
    first = registry.fetch(registry.recordings[0])
    assert first == cache / "sounds" / PATH
    assert first.read_bytes() == CONTENT
    assert registry.fetch(registry.recordings[0]) == first
    assert len(server.requests) == 1


def test_damaged_file_in_the_cache_is_fetched_again(server, cache):
    registry = Registry("sounds", (recording(server.url),))
    path = registry.fetch(registry.recordings[0])
    path.write_bytes(CONTENT[:-1])
    assert registry.fetch(registry.recordings[0]).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_interrupted_download_leaves_nothing_and_goes_on_later(server, cache):
    registry = Registry("sounds", (recording(server.url),))
    server.breaks_off = True
    with pytest.raises(DataError, match=r"1\.ogg could not be downloaded"):
        registry.fetch(registry.recordings[0])
    assert files(cache) == []
    server.breaks_off = False
    assert registry.fetch(registry.recordings[0]).read_bytes() == CONTENT


def test_wrong_hash_is_refused_with_the_url_and_a_way_out(server, cache):
    registry = Registry("sounds", (recording(server.url, content=b"another file"),))
    with pytest.raises(DataError, match="no longer gives the file") as error:
        registry.fetch(registry.recordings[0])
    assert server.url + PATH in str(error.value)
    assert data.MIRROR_VARIABLE in str(error.value)
    assert files(cache) == []


@pytest.mark.parametrize("path", ["missing.ogg", "dog_bark/missing.ogg"])
def test_file_that_is_not_served_is_one_sentence(server, cache, path):
    registry = Registry("sounds", (recording(server.url, path=path),))
    with pytest.raises(DataError, match="could not be downloaded") as error:
        registry.fetch(registry.recordings[0])
    assert "\n" not in str(error.value)


def test_no_network_names_the_url_and_the_mirror_variable(cache, monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    registry = Registry("sounds", (recording("http://127.0.0.1:1/"),))
    with pytest.raises(DataError, match="check the network") as error:
        registry.fetch(registry.recordings[0])
    assert "http://127.0.0.1:1/" + PATH in str(error.value)
    assert f"{data.MIRROR_VARIABLE} to a folder" in str(error.value)


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.delenv(data.MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cannot be kept in .*file/cache"):
        Registry("sounds", ()).fetch(recording(server.url))


def test_the_cache_may_be_named_from_home(monkeypatch):
    monkeypatch.setenv(data.CACHE_VARIABLE, "~/lessons")
    assert data.cache_folder() == Path.home() / "lessons"


def test_mirror_stands_in_for_the_download(server, mirror):
    (mirror / "sounds" / PATH).write_bytes(CONTENT)
    registry = Registry("sounds", (recording(server.url),))
    assert registry.fetch(registry.recordings[0]) == mirror / "sounds" / PATH
    assert server.requests == []


def test_damaged_file_in_the_mirror_is_refused(server, mirror):
    (mirror / "sounds" / PATH).write_bytes(CONTENT[:-1])
    registry = Registry("sounds", (recording(server.url),))
    with pytest.raises(DataError, match="damaged or another file"):
        registry.fetch(registry.recordings[0])


def test_file_the_mirror_lacks_is_downloaded(server, mirror, cache):
    registry = Registry("sounds", (recording(server.url),))
    assert registry.fetch(registry.recordings[0]) == cache / "sounds" / PATH


def test_mirror_that_does_not_exist_is_named(mirror, monkeypatch):
    monkeypatch.setenv(data.MIRROR_VARIABLE, str(mirror / "gone"))
    registry = Registry("sounds", (recording("http://127.0.0.1:1/"),))
    with pytest.raises(DataError, match="gone, which is no folder"):
        registry.fetch(registry.recordings[0])


def test_a_download_that_failed_is_tried_again(server, cache):
    registry = Registry("sounds", (recording(server.url, path="dog_bark/2.ogg"),))
    [second] = registry.recordings
    with pytest.raises(DataError, match=r"2\.ogg"):
        registry.fetch(second)
    (cache.parent / "served" / second.path).write_bytes(CONTENT)
    assert registry.fetch(second).read_bytes() == CONTENT


def test_select_by_columns():
    registry = load_registry("esc10")
    held_out = registry.select(fold=5)
    assert len(held_out) == 80
    assert {r.info["fold"] for r in held_out} == {"5"}
    assert len(registry.select(fold=5, label="rooster")) == 8
    with pytest.raises(DataError, match="no column 'colour': it has author, fold"):
        registry.select(colour="red")


@pytest.mark.parametrize(
    ("name", "length", "licences"),
    [("esc10", 400, {"CC0", "CC-BY", "CC-Sampling+"}), ("paper_pairs", 21, {"not stated"})],
)
def test_registries_are_complete(name, length, licences):
    registry = load_registry(name)
    assert len(registry.recordings) == length
    assert len({r.path for r in registry.recordings}) == length
    assert {r.licence for r in registry.recordings} == licences
    for r in registry.recordings:
        assert r.url.startswith("https://")
        assert len(bytes.fromhex(r.sha256)) == 32


def test_unknown_registry_lists_the_known_ones():
    with pytest.raises(DataError, match=r"'esc50': choose one of esc10, paper_pairs\."):
        load_registry("esc50")


def test_data_path_says_what_is_missing(tmp_path, monkeypatch):
    assert data_path("registries", "esc10.csv").is_file()
    with pytest.raises(DataError, match=r"nothing\.csv is missing: restore it"):
        data_path("nothing.csv")
    monkeypatch.setattr(data, "DATA", tmp_path / "data")
    with pytest.raises(DataError, match="installed without its repository"):
        data_path("registries")

"""Files chosen in a notebook, with the widgets of JupyterLab and with those of Colab."""

from types import SimpleNamespace

import pytest
from ipywidgets import FileUpload

from helpers.display.uploads import uploaded_file

CONTENT = bytes(range(256))


def ipywidgets_8(*names):
    """The button itself, with what JupyterLab puts into it."""
    upload = FileUpload(multiple=True)
    common = {"type": "audio/wav", "size": 256, "last_modified": 1_700_000_000_000}
    files = [{"name": n, "content": memoryview(CONTENT), **common} for n in names]
    upload.set_state({"value": files})
    return upload


def ipywidgets_7(*names):
    """Its value as the documentation of ipywidgets 7 gives it."""
    return SimpleNamespace(
        value={n: {"metadata": {"name": n, "size": 256}, "content": CONTENT} for n in names}
    )


@pytest.fixture(params=[ipywidgets_7, ipywidgets_8], ids=["ipywidgets 7", "ipywidgets 8"])
def upload(request):
    return request.param


def test_nothing_chosen_is_no_file(upload):
    assert uploaded_file(upload()) is None


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ("dog.wav", "dog.wav"),
        ("a dog's “bark” ü.flac", "a dog's “bark” ü.flac"),
        ("../../dog.wav", "dog.wav"),
        ("C:\\Users\\me\\dog.wav", "dog.wav"),
    ],
)
def test_the_file_has_its_name_and_content_and_a_folder_of_its_own(upload, chosen, name):
    first, second = uploaded_file(upload(chosen)), uploaded_file(upload(chosen))
    assert first.name == second.name == name
    assert first.parent != second.parent
    assert first.read_bytes() == CONTENT


def test_the_first_of_several_is_taken(upload):
    assert uploaded_file(upload("a.wav", "b.wav")).name == "a.wav"

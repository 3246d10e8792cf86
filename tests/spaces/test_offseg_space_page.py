"""The Space's page and its endpoint, without a browser: answers, refusals, limits."""

import contextlib
import io
import threading

import numpy as np
import pictures
import pytest
import segmenter
import yaml
from package_copies import default_palette, overlay
from PIL import Image
from running_space import SPACE


def test_readme_and_requirements_agree():
    head = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    pins = dict(line.split("==") for line in (SPACE / "requirements.txt").read_text().split())
    assert (head["sdk"], head["sdk_version"]) == ("gradio", pins["gradio"])
    assert (SPACE / head["app_file"]).is_file()


@pytest.fixture(scope="module")
def app():
    """The module app.py, or a skipped test where gradio is not installed."""
    pytest.importorskip("gradio")
    import app

    return app


@pytest.fixture(scope="module")
def client(app):
    from gradio_client import Client

    demo = app.build_demo()
    _, url, _ = demo.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True)
    with contextlib.redirect_stdout(io.StringIO()):
        client = Client(url, verbose=False)
    yield client
    client.close()
    demo.close()


def test_endpoint_answers_label_map_overlay_and_report(client, tiny, photo, photo_file):
    from gradio_client import handle_file

    label_file, overlay_file, report = client.predict(handle_file(photo_file), opacity=0.25, api_name="/segment")
    expected = tiny.segment(photo)
    with Image.open(label_file) as labels, Image.open(overlay_file) as tinted:
        assert np.array_equal(np.asarray(labels), expected)
        assert np.array_equal(np.asarray(tinted), np.asarray(overlay(photo, expected, default_palette(8), 0.25)))
    assert (report["model"], report["height"], report["width"]) == ("tiny-street-scenes", 100, 150)
    shares = [found["share"] for found in report["classes"]]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert report["classes"][0]["share"] == pytest.approx((expected == report["classes"][0]["id"]).mean())


def test_endpoint_says_what_is_wrong_when_the_file_is_no_picture(client, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    path = tmp_path / "photo.png"
    path.write_text("no picture")
    with pytest.raises(AppError, match="no picture that can be read here"):
        client.predict(handle_file(path), api_name="/segment")


def test_endpoint_takes_no_model_that_the_operator_did_not_name(client, photo_file):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="not in the list of choices"):
        client.predict(handle_file(photo_file), model="org/else", api_name="/segment")


def test_uploads_beyond_the_limit_are_refused(client):
    import httpx

    content = bytes(pictures.MAX_BYTES + 1)
    answer = httpx.post(f"{client.src}gradio_api/upload", files={"files": ("photo.png", content)}, timeout=60)
    assert answer.status_code == 413


def test_only_segmenting_is_open_to_programs(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/segment"]


def test_requests_are_refused_readably_when_too_many_are_waiting(app, client, photo_file, monkeypatch):
    import httpx

    may_go_on, segment = threading.Event(), segmenter.Segmenter.segment

    def wait_and_segment(self, photo):
        may_go_on.wait(60)
        return segment(self, photo)

    monkeypatch.setattr(segmenter.Segmenter, "segment", wait_and_segment)
    api = f"{client.src}gradio_api"
    with photo_file.open("rb") as file:
        (path,) = httpx.post(f"{api}/upload", files={"files": file}, timeout=60).json()
    request = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "tiny-street-scenes", 0.5]}
    answers = [httpx.post(f"{api}/call/segment", json=request, timeout=60) for _ in range(app.MAX_QUEUE + 3)]
    may_go_on.set()
    accepted = [answer.json()["event_id"] for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(accepted) >= app.MAX_QUEUE and len(refused) >= 2 and len(accepted) + len(refused) == len(answers)
    assert all("Queue is full. Max size is 32" in answer.text for answer in refused)
    assert "event: complete" in httpx.get(f"{api}/call/segment/{accepted[-1]}", timeout=60).text


def test_endpoint_says_so_when_the_work_takes_too_long(client, photo_file, monkeypatch):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    monkeypatch.setattr(segmenter, "TIME_LIMIT", -1)
    with pytest.raises(AppError, match="took more than -1 seconds for this photo: send a smaller one"):
        client.predict(handle_file(photo_file), api_name="/segment")


def test_endpoint_says_what_is_wrong_when_an_example_was_chosen_before(app, client, tmp_path):
    import httpx

    api, session = f"{client.src}gradio_api", {"session_hash": "one"}
    functions = httpx.get(f"{client.src}config", timeout=60).json()["dependencies"]
    numbers = {each["api_name"]: each["id"] for each in functions}

    def call(name, *arguments):
        """The events of a call in the same session as the other calls, as text."""
        request = {"fn_index": numbers[name], "data": arguments, **session}
        httpx.post(f"{api}/queue/join", json=request, timeout=60).raise_for_status()
        return httpx.get(f"{api}/queue/data", params=session, timeout=60).text

    assert "process_completed" in call("load_example", 0)
    path = tmp_path / "photo.png"
    path.write_text("no picture")
    with path.open("rb") as file:
        (path,) = httpx.post(f"{api}/upload", files={"files": file}, timeout=60).json()
    events = call("segment", {"path": path, "meta": {"_type": "gradio.FileData"}}, "tiny-street-scenes", 0.5)
    assert "no picture that can be read here" in events


def test_uploads_reach_the_reader_unopened_by_a_component_that_gradio_made_anew(app, tmp_path):
    from gradio.data_classes import FileData

    path = tmp_path / "photo.png"
    path.write_text("no picture")
    demo = app.build_demo()
    photo = next(block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "photo")
    anew = photo.__class__(**photo.constructor_args, render=False)  # as Gradio does when an example is clicked
    for component in (photo, anew):
        assert component.preprocess(FileData(path=str(path))) == str(path)

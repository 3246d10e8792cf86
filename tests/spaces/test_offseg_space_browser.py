"""The Space in a real browser: Debian's chromium, driven by playwright; `pytest -m browser tests/spaces`."""

import json

import numpy as np
import pictures
import pytest
import torch
from package_copies import default_palette, overlay
from PIL import Image
from running_space import SPACE, RunningSpace
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

pytest.importorskip("gradio", reason="needs the extra `space`")
expect = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`").expect

EXAMPLE = SPACE / "examples" / "street-3.jpg"
NAMES = {"sky", "building", "road", "pavement", "tree", "car", "person", "sign"}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The Space with its tiny model and with a plain SegFormer that knows nothing."""
    folder = tmp_path_factory.mktemp("space")
    torch.manual_seed(0)
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
    labels = {"id2label": {0: "left", 1: "right"}, "label2id": {"left": 0, "right": 1}}
    plain = SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=16, **labels))
    plain.decode_head.classifier.weight.data *= 50
    plain.save_pretrained(folder / "plain")
    SegformerImageProcessorPil(size={"height": 128, "width": 128}).save_pretrained(folder / "plain")
    space = RunningSpace(folder, models=f"{SPACE / 'tiny-street-scenes'},{folder / 'plain'}")
    yield space
    space.stop()


@pytest.fixture
def open_page(chromium, space):
    """Opens the Space in a window of a given size; in the end there must have been no error and no foreign request."""
    contexts, foreign, errors = [], [], []

    def open_page(width=1280, height=900, **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(space.url)
        return page

    def is_foreign(url):
        return not url.startswith((space.url, "data:", "blob:"))

    expect.set_options(timeout=60_000)
    yield open_page
    for context in contexts:
        context.close()
    assert not foreign and not errors


@pytest.fixture
def page(open_page):
    return open_page()


def upload(page, path):
    page.locator("#photo input[type=file]").first.set_input_files(path)


def segmented(page, path=EXAMPLE):
    """The page once a photo is uploaded, and segmented without another click."""
    upload(page, path)
    expect(page.locator("#viewer .legend li").first).to_be_visible()
    return page


def overlay_pixels(page):
    """What the overlay's canvas holds, as (height, width, 4)."""
    script = """canvas => { const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width,
        canvas.height); return JSON.stringify([height, width, Array.from(data)]); }"""
    height, width, values = json.loads(page.locator("#viewer canvas").evaluate(script))
    return np.array(values, np.uint8).reshape(height, width, 4)


def downloaded(page, button):
    with page.expect_download() as download:
        page.locator(button).click()
    with Image.open(download.value.path()) as file:
        return file.copy()


@pytest.fixture(scope="module")
def expected(tiny):
    """The label map that the tiny model makes of the example in this process."""
    return tiny.segment(pictures.read_photo(EXAMPLE))


def test_page_opens_with_examples_and_nothing_to_download(page):
    expect(page.get_by_role("heading", name="OffSeg")).to_be_visible()
    expect(page.locator("#viewer .empty")).to_be_visible()
    expect(page.locator("#viewer .result")).to_be_hidden()
    assert page.locator("#downloads").evaluate("row => getComputedStyle(row).pointerEvents") == "none"
    assert page.locator("button.gallery-item").count() == 4


def test_photo_is_segmented_when_it_is_uploaded(page, expected):
    segmented(page)
    colours = default_palette(8)
    pixels = overlay_pixels(page)
    assert np.array_equal(pixels[..., :3], colours[expected]) and (pixels[..., 3] == 255).all()
    shares = {
        item.locator("span").inner_text(): item.locator("b").inner_text()
        for item in page.locator("#viewer .legend li").all()
    }
    assert shares["road"] == pictures.percent((expected == 2).mean())
    assert shares.keys() == {name for index, name in enumerate(sorted(shares, key=list(shares).index))} <= NAMES
    expect(page.locator("#viewer .caption")).to_contain_text("768 × 512 pixels in")


def test_photo_is_segmented_once_when_it_replaces_another(page):
    before = segmented(page).locator("#viewer .legend").inner_text()
    sent = []
    page.on("request", lambda request: sent.append(request.post_data) if "queue/join" in request.url else None)
    upload(page, SPACE / "examples" / "street-11.jpg")
    expect(page.locator("#viewer .legend")).not_to_have_text(before)
    page.wait_for_timeout(500)
    assert [json.loads(data)["data"][2:] for data in sent].count([0.5]) == 1  # the opacity, which only this has


def test_photo_is_segmented_when_an_example_is_clicked(page):
    page.locator("button.gallery-item").nth(1).click()
    expect(page.locator("#viewer .legend li").first).to_be_visible()


def test_class_is_named_when_the_pointer_is_on_it(page, expected):
    segmented(page)
    box = page.locator("#viewer canvas").bounding_box()
    names = ["sky", "building", "road", "pavement", "tree", "car", "person", "sign"]
    for y, x in ((450, 300), (100, 200), (150, 30)):
        page.mouse.move(box["x"] + box["width"] * (x + 0.5) / 768, box["y"] + box["height"] * (y + 0.5) / 512)
        expect(page.locator("#viewer .tip")).to_contain_text(names[expected[y, x]])
        expect(page.locator("#viewer .legend li.active span")).to_have_text(names[expected[y, x]])


def test_other_classes_pale_when_one_of_the_legend_is_pointed_at(page, expected):
    segmented(page)
    page.locator("#viewer .legend li", has_text="road").hover()
    assert np.array_equal(overlay_pixels(page)[..., 3], np.where(expected == 2, 255, 40))


def test_photo_is_uncovered_when_the_slider_is_moved(page):
    segmented(page)
    slider = page.locator("#viewer .wipe input")
    slider.fill("40")
    assert page.locator("#viewer canvas").evaluate("canvas => canvas.style.clipPath") == "inset(0px 0px 0px 40%)"
    expect(page.locator("#viewer .seam")).to_be_visible()


def test_overlay_changes_when_the_model_is_switched(page):
    segmented(page)
    before = overlay_pixels(page)
    page.locator("#model input").click()
    page.get_by_role("option", name="plain").click()
    expect(page.locator("#viewer .legend li", has_text="left")).to_be_visible()
    assert not np.array_equal(overlay_pixels(page), before)
    page.get_by_role("tab", name="Offset learning").click()
    expect(page.locator("#offsets .empty")).to_contain_text("plain does not classify pixels by offset learning")


def test_downloads_are_lossless(page, expected):
    segmented(page)
    assert np.array_equal(np.asarray(downloaded(page, "#label-map")), expected)
    tinted = overlay(pictures.read_photo(EXAMPLE), expected, default_palette(8), 0.5)
    assert np.array_equal(np.asarray(downloaded(page, "#overlay")), np.asarray(tinted))


def test_overlay_and_its_file_follow_the_opacity(page, expected):
    segmented(page)
    before = np.asarray(downloaded(page, "#overlay"))
    slider = page.locator("#opacity input[type=range]")
    box = slider.bounding_box()
    with page.expect_response(lambda response: "queue/join" in response.url):
        page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    value = float(slider.input_value())
    assert value > 0.8
    opacity = page.locator("#viewer canvas").evaluate("canvas => getComputedStyle(canvas).opacity")
    assert float(opacity) == pytest.approx(value)
    photo, colours = pictures.read_photo(EXAMPLE), default_palette(8)
    for _ in range(40):  # until the server has painted it anew
        after = np.asarray(downloaded(page, "#overlay"))
        if not np.array_equal(after, before):
            break
        page.wait_for_timeout(250)
    assert np.array_equal(after, np.asarray(overlay(photo, expected, colours, value)))


def test_second_tab_shows_what_the_offsets_do(page):
    segmented(page)
    page.get_by_role("tab", name="Offset learning").click()
    expect(page.locator("#offsets figure")).to_have_count(8)
    expect(page.locator("#offsets")).to_contain_text("Both offsets")
    expect(page.locator("#offsets")).to_contain_text("% of pixels differ")
    attention = page.locator("#offsets figure img").last
    before = attention.get_attribute("src")
    page.locator("#chosen input").click()
    page.get_by_role("option", name="tree").click()
    expect(page.locator("#offsets figcaption", has_text="moved towards tree").last).to_be_visible()
    assert attention.get_attribute("src") != before


def test_everything_is_cleared_when_the_photo_is_removed(page):
    segmented(page)
    page.get_by_role("button", name="Clear").or_(page.get_by_label("Remove Image")).first.click()
    expect(page.locator("#viewer .empty")).to_be_visible()


@pytest.mark.parametrize("name", ["notes.txt", "photo.png"])
def test_error_is_readable_when_the_file_is_text(name, page, tmp_path):
    path = tmp_path / name
    path.write_text("no picture")
    upload(page, path)
    message = page.locator(".toast-wrap, [data-testid=toast-body]").first
    expect(message).to_contain_text("picture that can be read here" if name == "photo.png" else "Invalid file type")
    expect(page.locator("#viewer .result")).to_be_hidden()


@pytest.mark.parametrize("before", ["example", "model", "text"])
def test_error_is_readable_when_this_came_before(before, page, tmp_path):
    path = tmp_path / "photo.png"
    path.write_text("no picture")
    message = page.locator("[data-testid=toast-body]")
    if before == "text":
        upload(page, path)
        expect(message.first).to_contain_text("picture that can be read here")
        message.get_by_role("button").first.click()
        expect(message).to_have_count(0)
    else:
        page.locator("button.gallery-item").first.click()
        expect(page.locator("#viewer .legend li").first).to_be_visible()
    if before == "model":
        page.locator("#model input").click()
        page.get_by_role("option", name="plain").click()
        expect(page.locator("#viewer .legend")).to_contain_text("left")
    page.get_by_role("button", name="Clear").or_(page.get_by_label("Remove Image")).first.click()
    upload(page, path)
    expect(message.first).to_contain_text("picture that can be read here")


def test_old_result_is_gone_when_the_next_file_is_text(page, tmp_path):
    segmented(page)
    path = tmp_path / "photo.png"
    path.write_text("no picture")
    upload(page, path)
    expect(page.locator("#viewer .result")).to_be_hidden()


def test_page_fits_when_the_screen_is_narrow(open_page):
    page = open_page(360, 740, is_mobile=True, has_touch=True)
    segmented(page)
    for tab in ("Segmentation", "Offset learning"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("tab", name="Segmentation").click()
    page.locator("#viewer .stage").tap()
    expect(page.locator("#viewer .tip")).to_be_visible()
    assert page.locator("#viewer canvas").bounding_box()["width"] > 290

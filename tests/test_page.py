"""The page, driven in a real browser against the real service with tiny captioners. Nothing it loads comes from elsewhere."""

import csv
import importlib.util
import io
import json
import re
import shutil
import socket
import threading
from contextlib import contextmanager
from functools import partial
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image

from capdec import gallery, parts
from capdec.backbones.mini import Mini
from capdec.bridges.gaussian_noise import GaussianNoise
from capdec.bridges.memory_projection import MemoryProjection
from capdec.captioner import Captioner
from capdec.protocols import Decoding
from conftest import DECODER

PAGE = resources.files("capdec") / "page"
CHROMIUM = shutil.which("chromium")

browsers = pytest.mark.skipif(not CHROMIUM or importlib.util.find_spec("playwright") is None, reason="needs playwright and Debian's chromium")


def text_of(name):
    return (PAGE / name).read_text(encoding="utf-8")


# What needs no browser


def schemes(css):
    """The colours of a style sheet: {"light": {name: colour}, "dark": ...}."""
    roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    return {name: dict(re.findall(r"--(\w+): (#\w{6})\b", root)) for name, root in zip(("light", "dark"), roots, strict=True)}


def contrast(one, other):
    """WCAG 2's ratio of two colours.

    >>> round(contrast("#000000", "#ffffff"))
    21
    """

    def luminance(colour):
        parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_a_contrast_is_as_wcag_has_it():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable_on_every_ground(scheme):
    colours = schemes(text_of("page.css"))[scheme]
    for text in ("text", "quiet", "accent"):
        for ground in ("page", "card", "ground"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["page"], colours["accent"]) >= 4.5, "the words of a filled button"


def test_its_colours_are_the_gallerys():
    assert schemes(text_of("page.css")) == schemes(gallery.STYLE)


def test_it_names_nothing_but_its_own_files_and_has_nothing_inline():
    html = text_of("index.html")
    icon, *addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert icon.startswith("data:image/svg+xml,") and addresses == ["page/page.css", "page/page.js", "docs"]
    html = html.replace(icon, "")
    assert not re.search(r"<style|style=|\son\w+=|<script(?! src=)", html)
    for text in (html, text_of("page.css"), text_of("page.js")):
        assert not re.search(r"https?:|@import|[\"'(]//", text), "no address of elsewhere"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text_of("page.js"))


def test_without_scripts_it_says_what_it_needs():
    (said,) = re.findall(r"<noscript>(.*?)</noscript>", text_of("index.html"))
    assert "needs JavaScript" in said and "/v1/captions" in said


def test_it_explains_scores_as_the_gallery_does():
    assert gallery.SCORES in text_of("index.html")


# In the browser


class Server:
    """An application on a port of its own, that can go away and come back."""

    def __init__(self, application):
        self.application, self.port = application, 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self):
        import uvicorn

        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self.uvicorn = uvicorn.Server(uvicorn.Config(self.application(), log_level="error", timeout_graceful_shutdown=5))
        self.thread = threading.Thread(target=self.uvicorn.run, args=([listening],), daemon=True)
        self.thread.start()
        while not self.uvicorn.started:
            self.thread.join(0.02)
            assert self.thread.is_alive()

    def stop(self):
        self.uvicorn.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def made(folder, bridge, **settings):
    """An untrained captioner."""
    torch.manual_seed(0)
    backbone = Mini.tiny(folder)
    decoder = parts.build("decoders", DECODER, dim=backbone.dim)
    decoder.fit(["a man rides a horse", "two dogs run over the grass", "a red car on a street"] * 5)
    return Captioner(
        backbone, [bridge], decoder.eval(), {"backbone": "mini", "bridges": ["tiny"], "decoder": DECODER}, Decoding(max_tokens=8, **settings)
    )


@pytest.fixture(scope="module")
def captioners(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioners")
    remembering = MemoryProjection.tiny(folder)
    remembering.memory.texts = [f"a caption that it remembers, number {n}" for n in range(20)]
    reranked = {"rerank": "clip", "candidates": 5, "score_weight": 0.5}
    found = {"plain": made(folder, GaussianNoise.tiny(folder), **reranked), "remembering": made(folder, remembering)}
    found["remembering"].styles = ("", "loud")
    return found


@pytest.fixture(scope="module")
def application(captioners):
    """Makes one that serves both captioners."""
    service = pytest.importorskip("capdec.service", reason="needs the extra serve", exc_type=ImportError)
    return partial(service.app, captioners)


@pytest.fixture(scope="module")
def server(application):
    server = Server(application)
    yield server
    server.stop()


@pytest.fixture
def visit(browser):
    """Opens the page of a server. Afterwards: no error was logged, and no request left the server."""
    opened = []

    def visit(server, **context):
        context = browser.new_context(base_url=server.url, accept_downloads=True, **context)
        context.set_default_timeout(10_000)
        page, requests, errors = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
        opened.append((server, context, requests, errors))
        page.goto("/")
        return page

    yield visit
    for server, context, requests, errors in opened:
        context.close()
        assert [url for url in requests if not url.startswith((server.url, f"blob:{server.url}"))] == []
        assert [error for error in errors if not error.startswith("Failed to load resource")] == [], "what a status other than 200 logs is no fault"


@pytest.fixture
def page(visit, server):
    page = visit(server)
    expect(page.locator("#fields")).to_be_enabled()
    return page


def expect(found):
    from playwright import sync_api

    return sync_api.expect(found)


def photo(name="photo.png", seed=0, size=(32, 24)):
    """A file as Playwright's chooser takes it."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(content, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": content.getvalue()}


BROKEN = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff and no more"}


def choose(page, *files):
    page.set_input_files("#photos", list(files))


def card(page, name):
    return page.locator(".card", has=page.locator("bdi", has_text=re.compile(f"^{re.escape(name)}$")))


def states(page):
    return [each.get_attribute("data-state") for each in page.locator(".card").all()]


def captioned(page, words):
    """Waits until the page says so, and the screen reader's line too."""
    expect(page.locator("#count")).to_have_text(words)
    expect(page.locator("#status")).to_have_text(words)


@contextmanager
def held(page):
    """Requests for captions wait until they are let through: yields them as they come."""
    routes = []
    page.route("**/v1/captions", lambda route: routes.append(route))  # it hangs its own notes on what it is given
    yield routes
    page.unroute("**/v1/captions")


def asked(page):
    """Keeps what is asked beside each photo; the list is read with `page.evaluate("asked")`."""
    page.evaluate(
        """() => {
            const { fetch } = window;
            window.asked = [];
            window.fetch = (address, options) => {
                if (options?.body) asked.push(Object.fromEntries([...options.body].filter(([, value]) => typeof value === "string")));
                return fetch(address, options);
            };
        }"""
    )


def sent(page, requests, count):
    """Waits until so many requests were held, and gives them."""
    while len(requests) < count:
        page.wait_for_timeout(10)
    assert len(requests) == count
    return requests


def answer(route, *results, status=200, **more):
    route.fulfill(status=status, json={"model": "m", "results": list(results), **more})


@browsers
def test_chosen_photos_become_captions_with_alternatives_and_scores(page):
    choose(page, photo("one.png"), photo("two.png", seed=1))
    captioned(page, "2 of 2 captioned")
    for name in ("one.png", "two.png"):
        found = card(page, name)
        assert found.locator(".caption").inner_text() and found.locator("img").get_attribute("alt") == found.locator(".caption").inner_text()
        score = float(found.locator(".source data").get_attribute("value"))
        others = [float(each.get_attribute("value")) for each in found.locator(".others data").all()]
        assert len(others) == 2 and all(isinstance(each, float) for each in (score, *others))
        assert found.locator(".source data").inner_text() == f"{score:.2f}".replace("-", "−")
        assert found.locator("img").evaluate("image => image.naturalWidth") == 32


@browsers
def test_a_photo_that_cannot_be_opened_says_why_and_keeps_nobody_waiting(page):
    choose(page, photo("one.png"), BROKEN, photo("two.png"))
    captioned(page, "2 of 3 captioned, 1 failed")
    said = card(page, "broken.jpg").locator(".error").inner_text()
    assert said.startswith("No caption: ") and len(said) > 30
    expect(card(page, "broken.jpg").get_by_text("no preview")).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)  # it would fail again


@browsers
def test_a_file_too_large_is_refused_without_being_sent(page):
    with held(page) as requests:
        page.evaluate(
            """() => {
                const items = new DataTransfer();
                items.items.add(new File([new Uint8Array(40_000_000)], "large.png", { type: "image/png" }));
                const input = document.getElementById("photos");
                input.files = items.files;
                input.dispatchEvent(new Event("change"));
            }"""
        )
        captioned(page, "0 of 1 captioned, 1 failed")
        assert requests == []
    assert re.search(r"40 MB are too many, the server takes [\d.]+ MB", card(page, "large.png").inner_text())


@browsers
def test_a_picture_is_pasted_from_the_clipboard(page):
    paste = """async name => {
        const canvas = new OffscreenCanvas(20, 20);
        canvas.getContext("2d").fillRect(0, 0, 9, 9);
        const data = new DataTransfer();
        data.items.add(new File([await canvas.convertToBlob()], name, { type: "image/png" }));
        document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
    }"""
    for name in ("image.png", "image.png", "named.png"):
        page.evaluate(paste, name)
    captioned(page, "3 of 3 captioned")
    assert page.locator("bdi").all_inner_texts() == ["pasted 1.png", "pasted 2.png", "named.png"]


@browsers
def test_photos_and_folders_are_dropped_anywhere_on_the_page(page, tmp_path):
    (tmp_path / "trip" / "day one").mkdir(parents=True)
    for name in ("alone.png", "trip/a.png", "trip/day one/b.png"):
        (tmp_path / name).write_bytes(photo()["buffer"])
    (tmp_path / "trip" / "notes.txt").write_text("no photo")
    data = {"items": [], "files": [str(tmp_path / "alone.png"), str(tmp_path / "trip")], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for step in ("dragEnter", "dragOver"):
        devtools.send("Input.dispatchDragEvent", {"type": step, "x": 600, "y": 700, "data": data})
    expect(page.locator("body.dragging")).to_have_count(1)
    devtools.send("Input.dispatchDragEvent", {"type": "drop", "x": 600, "y": 700, "data": data})
    captioned(page, "3 of 3 captioned")
    assert sorted(page.locator("bdi").all_inner_texts()) == ["alone.png", "trip/a.png", "trip/day one/b.png"]
    expect(page.locator("#notice")).to_have_text("1 file left out: not a photo, or not to be read.")
    expect(page.locator("body.dragging")).to_have_count(0)


@browsers
def test_many_photos_go_a_few_at_a_time_and_only_those_near_are_decoded(page):
    flying, most = set(), 0

    def began(request):
        nonlocal most
        if request.url.endswith("captions"):
            flying.add(request)
            most = max(most, len(flying))

    page.on("request", began)
    page.on("requestfinished", lambda request: flying.discard(request))
    choose(page, *(photo(f"{n:02d}.png", seed=n) for n in range(60)))
    expect(page.locator(".card")).to_have_count(60)
    captioned(page, "60 of 60 captioned")
    assert 1 < most <= 5, "four, and one whose end the test has not heard of"
    assert page.locator("bdi").all_text_contents() == [f"{n:02d}.png" for n in range(60)]
    assert 0 < page.locator(".card img[src]").count() < 30
    first, last = page.locator(".card img").first, page.locator(".card img").last
    last.scroll_into_view_if_needed()
    expect(last).to_have_attribute("src", re.compile("^blob:"))
    expect(first).not_to_have_attribute("src", re.compile("."))


@browsers
def test_a_server_that_went_away_is_told_and_asked_again(page, visit, application):
    server = Server(application)
    page = visit(server)
    choose(page, photo("before.png"))
    captioned(page, "1 of 1 captioned")
    server.stop()
    choose(page, *(photo(f"{n}.png") for n in range(6)))
    expect(page.get_by_role("alert").filter(has_text="The server does not answer.")).to_be_visible()
    captioned(page, "1 of 7 captioned, 4 failed; stopped")
    expect(card(page, "0.png").get_by_role("button", name="Try again")).to_be_visible()
    server.start()
    page.locator("#retry").click()
    captioned(page, "7 of 7 captioned")
    expect(page.locator("#problem")).to_be_hidden()
    server.stop()


@browsers
def test_one_photo_is_tried_again(page):
    with held(page) as requests:
        choose(page, photo("one.png"), photo("two.png"))
        for request in sent(page, requests, 2):
            answer(request, status=504, error={"code": "deadline", "message": "no caption within 10 s."})
        captioned(page, "0 of 2 captioned, 2 failed")
    expect(card(page, "two.png").locator(".error")).to_have_text("No caption: no caption within 10 s.")
    card(page, "two.png").get_by_role("button", name="Try again").click()
    captioned(page, "1 of 2 captioned, 1 failed")
    expect(card(page, "two.png").get_by_role("button", name="Remove")).to_be_focused()
    page.locator("#retry").press("Enter")
    captioned(page, "2 of 2 captioned")
    expect(page.locator("#count")).to_be_focused()


@browsers
def test_a_busy_server_is_waited_for(visit, application, captioners, monkeypatch):
    monkeypatch.setattr("capdec.service.LANES", 1)
    let = threading.Event()
    caption = captioners["plain"].caption_embeddings
    server = Server(lambda: application(batch=1, queue=2, max_inputs=1))
    monkeypatch.setattr(captioners["plain"], "caption_embeddings", lambda *given, **settings: let.wait(30) and caption(*given, **settings))
    page = visit(server)
    refused = []
    page.on("response", lambda response: refused.append(response.headers["retry-after"]) if response.status == 429 else None)
    choose(page, *(photo(f"{n}.png", seed=n) for n in range(6)))
    expect(page.locator("#count")).to_have_text("0 of 6 captioned; waiting, the server is busy")
    expect(page.locator("[data-state=captioning]")).to_have_count(3)
    assert set(refused) == {"1"}, "one is in hand, two are in the queue, the fourth is asked to come back"
    let.set()
    captioned(page, "6 of 6 captioned")
    server.stop()


@browsers
def test_stopping_keeps_what_is_there_and_goes_on_where_it_was(page):
    with held(page) as requests:
        choose(page, photo("0.png"))
        answer(sent(page, requests, 1)[0], {"caption": "a stone", "score": -0.5})
        captioned(page, "1 of 1 captioned")
        choose(page, *(photo(f"{n}.png") for n in range(1, 6)))
        sent(page, requests, 5)
        page.get_by_role("button", name="Stop").click()
        captioned(page, "1 of 6 captioned; stopped")
        assert states(page) == ["done"] + ["waiting"] * 5
    page.get_by_role("button", name="Go on").click()
    captioned(page, "6 of 6 captioned")
    assert card(page, "0.png").locator(".caption").inner_text() == "a stone"


@browsers
def test_what_is_chosen_is_what_is_asked(page):
    page.fill("#captions", "2")
    page.fill("#beams", "3")
    page.fill("#max_tokens", "7")
    asked(page)
    choose(page, photo())
    captioned(page, "1 of 1 captioned")
    (found,) = page.evaluate("asked")
    assert found.items() >= {"model": page.input_value("#captioner"), "captions": "2", "beams": "3", "max_tokens": "7"}.items()
    expect(page.locator(".others li")).to_have_count(1)


@browsers
@pytest.mark.parametrize(("field", "typed"), [("captions", "100000"), ("beams", "0"), ("max_tokens", "")])
def test_a_setting_out_of_range_is_brought_into_it(page, field, typed):
    page.fill(f"#{field}", typed)
    page.keyboard.press("Tab")
    least, most = int(page.get_attribute(f"#{field}", "min")), int(page.get_attribute(f"#{field}", "max"))
    assert int(page.input_value(f"#{field}")) == (most if typed == "100000" else least)
    assert int(page.input_value("#captions")) <= int(page.input_value("#beams")), "a search returns no more than it has beams"
    choose(page, photo())
    captioned(page, "1 of 1 captioned")


@browsers
@pytest.mark.parametrize("beams", ["1", "3"])
def test_fewer_beams_than_the_captioner_has_candidates_will_do(page, beams):
    page.get_by_label("Beams").fill(beams)
    page.keyboard.press("Tab")
    assert page.input_value("#captions") == beams
    choose(page, photo())
    captioned(page, "1 of 1 captioned")


@browsers
def test_a_style_that_the_captioner_learned_can_be_chosen(page):
    style = page.get_by_label("Style", exact=True)
    expect(style).to_be_hidden()
    page.get_by_label("Captioner").select_option("remembering")
    assert style.locator("option").all_text_contents() == ["plain", "loud"]
    choose(page, photo())
    captioned(page, "1 of 1 captioned")
    asked(page)
    style.select_option("loud")
    page.get_by_role("button", name="Caption all again").click()
    captioned(page, "1 of 1 captioned")
    assert page.evaluate("asked")[0]["style"] == "loud"
    style.select_option("plain")  # said too: the captioner's own may be another
    page.get_by_role("button", name="Caption all again").click()
    captioned(page, "1 of 1 captioned")
    assert page.evaluate("asked")[-1]["style"] == ""


@browsers
def test_another_captioner_captions_all_again_and_shows_its_memory(page):
    choose(page, photo("one.png"), photo("two.png"), BROKEN)
    captioned(page, "2 of 3 captioned, 1 failed")
    expect(page.get_by_role("button", name="Caption all again")).to_be_hidden()
    expect(page.get_by_label("Nearest captions")).to_be_hidden()
    page.get_by_label("Captioner").select_option("remembering")
    expect(page.locator("#captioner-about")).to_contain_text("Learned from text")
    page.get_by_label("Nearest captions").fill("2")
    page.get_by_role("button", name="Caption all again").click()
    captioned(page, "2 of 3 captioned, 1 failed")
    expect(page.get_by_role("button", name="Caption all again")).to_be_hidden()
    memory = card(page, "two.png").locator("details")
    memory.locator("summary").click()
    expect(memory.locator("li")).to_have_count(2)
    cosines = [float(each.get_attribute("value")) for each in memory.locator("data").all()]
    assert cosines == sorted(cosines, reverse=True) and all(-1 <= cosine <= 1 for cosine in cosines)


@browsers
def test_a_setting_the_server_refuses_is_told_once(page):
    with held(page) as requests:
        choose(page, *(photo(f"{n}.png") for n in range(6)))
        for request in sent(page, requests, 4):
            request.fulfill(status=422, json={"error": {"code": "bad_setting", "message": "no such beams here."}})
        captioned(page, "0 of 6 captioned; stopped")
        assert page.get_by_role("alert").all_inner_texts() == ["no such beams here."] and states(page) == ["waiting"] * 6
    page.locator("#retry").click()
    captioned(page, "6 of 6 captioned")


@browsers
def test_a_server_with_a_key_is_given_it(visit, application):
    server = Server(lambda: application(api_key="open-sesame"))
    page = visit(server)
    expect(page.get_by_role("alert")).to_have_text("This server asks for its API key.")
    choose(page, photo())
    expect(page.locator("#count")).to_have_text("0 of 1 captioned; stopped")
    page.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server refused this API key.")
    page.get_by_label("API key").fill("open-sesame")
    page.get_by_role("button", name="Use this key").click()
    captioned(page, "1 of 1 captioned")
    expect(page.locator("#key-form")).to_be_hidden()
    page.reload()
    expect(page.locator("#fields")).to_be_enabled()
    expect(page.locator("#key-form")).to_be_hidden()
    server.stop()


@browsers
def test_a_server_without_a_key_is_not_asked_for_one(page):
    expect(page.get_by_label("API key")).to_be_hidden()


HOSTILE = '<img src=x onerror="document.title=1">'


@browsers
def test_words_are_shown_as_words_whatever_they_hold(page):
    with held(page) as requests:
        choose(page, photo(f"{HOSTILE}.png"))
        other = {"caption": HOSTILE, "score": -1.0}
        answer(
            sent(page, requests, 1)[0],
            {"caption": HOSTILE, "score": -0.5, "alternatives": [other], "neighbours": [{"caption": HOSTILE, "cosine": 0.5}]},
        )
        captioned(page, "1 of 1 captioned")
    for place in (".caption", ".others li span", "details li span"):
        assert page.locator(place).text_content() == HOSTILE and page.locator(place).get_attribute("dir") == "auto"
    assert page.locator(".card img").count() == 1 and page.title() == "Captions for your photos"


def finished(page, *results):
    """Cards with these answers of the server, by name."""
    with held(page) as requests:
        for count, (name, result) in enumerate(results, 1):
            choose(page, photo(name))
            answer(sent(page, requests, count)[-1], result, status=422 if "error" in result else 200)
            expect(page.locator("[data-state=done], [data-state=error]")).to_have_count(count)


def downloaded(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Download {name}").click()
    assert download.value.suggested_filename == f"captions.{name.lower()}"
    return download.value.path().read_text(encoding="utf-8")


ANSWERS = (
    ("=1+1.png", {"caption": 'a "quoted", long\nline', "score": -0.5, "alternatives": [{"caption": "+cmd", "score": -1.0}]}),
    ("b.png", {"caption": "@sum(a1)", "score": 0.25, "alternatives": []}),
    ("c.png", {"error": {"code": "bad_image", "message": "-2 bytes, so to say"}}),
    ("ü 写真.png", {"caption": "ein Hündchen", "score": -2.0, "alternatives": [{"caption": "x", "score": -3.0}, {"caption": "y", "score": -4.0}]}),
)


@browsers
def test_json_holds_everything(page):
    finished(page, *ANSWERS)
    rows = json.loads(downloaded(page, "JSON"))
    assert [row["name"] for row in rows] == [name for name, _ in ANSWERS]
    for row, (_, answer) in zip(rows, ANSWERS, strict=True):
        assert {key: row[key] for key in answer} == answer
        assert row["model"] == page.input_value("#captioner") and row["decoding"]["captions"] == 3


@browsers
def test_csv_is_read_back_and_no_cell_of_it_is_a_formula(page):
    finished(page, *ANSWERS)
    text = downloaded(page, "CSV")
    assert text.startswith("\ufeff"), "so that spreadsheets read it as UTF-8"
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    assert list(rows[0]) == ["name", "caption", "score", "alternative_1", "alternative_2", "model", "error"]
    assert [row["name"] for row in rows] == ["'=1+1.png", "b.png", "c.png", "ü 写真.png"]
    assert [row["caption"] for row in rows] == ['a "quoted", long\nline', "'@sum(a1)", "", "ein Hündchen"]
    assert [row["score"] for row in rows] == ["-0.5", "0.25", "", "-2"], "numbers stay numbers"
    assert [row["alternative_1"] for row in rows] == ["'+cmd", "", "", "x"]
    assert rows[2]["error"] == "'-2 bytes, so to say" and rows[3]["alternative_2"] == "y"


@browsers
def test_captions_are_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    finished(page, *ANSWERS)
    card(page, "b.png").get_by_role("button", name="Copy").click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "@sum(a1)"
    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("button", name="Copied")).to_have_count(1)
    lines = ['\'=1+1.png\ta "quoted", long line', "b.png\t'@sum(a1)", "ü 写真.png\tein Hündchen"]
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(lines)


@browsers
def test_a_caption_is_copied_where_the_browser_keeps_its_clipboard_from_pages(page):
    finished(page, *ANSWERS[:2])
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    with page.expect_console_message(lambda message: message.text.startswith("copied")) as said:
        page.evaluate("addEventListener('copy', () => console.log('copied ' + document.activeElement.value), { once: true })")
        card(page, "b.png").get_by_role("button", name="Copy").click()
    assert said.value.text == "copied @sum(a1)"
    expect(card(page, "b.png").get_by_role("button", name="Copy")).to_be_focused()


@browsers
def test_removing_and_clearing(page):
    with held(page) as requests:
        choose(page, *(photo(f"{n}.png") for n in range(3)))
        sent(page, requests, 3)
        with page.expect_event("requestfailed") as left:  # nobody waits for it any more
            card(page, "1.png").get_by_role("button", name="Remove").click()
        expect(card(page, "2.png").get_by_role("button", name="Remove")).to_be_focused()
        for route in requests:
            if route.request != left.value:
                answer(route, {"caption": "a stone", "score": -0.5})
        captioned(page, "2 of 2 captioned")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".card")).to_have_count(2)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#photos")).to_be_focused()
    expect(page.locator("#results")).to_be_hidden()


@browsers
@pytest.mark.parametrize("width", [320, 360])
def test_a_narrow_window_needs_no_sideways_scrolling_and_is_wide_enough_for_fingers(visit, server, width):
    page = visit(server, viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    expect(page.locator("#fields")).to_be_enabled()
    assert page.evaluate(fits)
    page.get_by_label("Captioner").select_option("remembering")
    choose(page, photo("a_name_without_any_place_to_break_it_in_two" * 3 + ".png"), BROKEN, photo())
    captioned(page, "2 of 3 captioned, 1 failed")
    page.get_by_label("Beams").fill("4")
    page.keyboard.press("Tab")
    page.locator("summary").first.click()
    expect(page.get_by_role("button", name="Caption all again")).to_be_visible()
    assert page.evaluate(fits)
    for target in page.locator("button, select, .button, summary, input:not(.unseen)").all():
        if target.is_visible():
            box = target.bounding_box()
            assert box["height"] >= 44 and box["width"] >= 44, target.evaluate("element => element.outerHTML")


def focused(page):
    """What has the focus: its id, or what a card's button does."""
    return page.evaluate("document.activeElement.id || document.activeElement.dataset.do || document.activeElement.tagName")


@browsers
def test_everything_is_reached_by_keyboard_in_order_and_seen_to_be(page):
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        assert focused(page) == "photos"
        page.keyboard.press("Space")
    chooser.value.set_files([photo("one.png"), photo("two.png")])
    captioned(page, "2 of 2 captioned")
    walked = []
    for _ in range(14):
        page.keyboard.press("Tab")
        walked.append(focused(page))
        label = "document.activeElement.matches('.unseen') ? document.activeElement.nextElementSibling : document.activeElement"
        style = page.evaluate(f"(({{ outlineStyle, outlineWidth }}) => [outlineStyle, outlineWidth])(getComputedStyle({label}))")
        assert style == ["solid", "3px"], walked
    assert walked == [
        "folder", "captioner", "captions", "beams", "max_tokens", "copy", "json", "csv", "clear", "copy", "remove", "copy", "remove", "A",
    ]  # fmt: skip
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    captioned(page, "1 of 1 captioned")
    assert focused(page) == "remove"


@browsers
def test_every_control_has_a_name_and_what_it_means_is_tied_to_it(page):
    choose(page, photo("one.png"), BROKEN)
    captioned(page, "1 of 2 captioned, 1 failed")
    tree = page.locator("body").aria_snapshot()
    assert 'group "Settings"' in tree and "alert" not in tree
    for control in ('button "Choose photos"', 'combobox "Captioner"', 'spinbutton "Beams"', 'button "Copy: one.png"', 'button "Remove: broken.jpg"'):
        assert control in tree, tree
    for described in page.locator("[aria-describedby]").all():
        for name in described.get_attribute("aria-describedby").split():
            assert page.locator(f"#{name}").count() == 1
    assert page.get_attribute("html", "lang") == "en" and page.get_by_role("heading", level=1).count() == 1


@browsers
@pytest.mark.parametrize("reduced", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_asked_for_that(visit, server, reduced):
    page = visit(server, reduced_motion=reduced)
    with held(page):
        choose(page, photo())
        expect(page.locator("[data-state=captioning]")).to_have_count(1)
        moves = page.locator("[data-state=captioning] .state").evaluate("state => getComputedStyle(state, '::after').animationName")
        follows = page.locator("#drop").evaluate("drop => getComputedStyle(drop).transitionProperty")
    assert (moves, follows) == (("none", "none") if reduced == "reduce" else ("working", "border-color, background-color"))

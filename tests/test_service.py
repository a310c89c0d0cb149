"""The whole service on a tiny captioner, and once as a process with the embedded one."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from capdec import contract, generation, parts, service
from capdec.captioner import Captioner
from capdec.confidence import Confidence, Signal
from capdec.errors import SettingError
from capdec.protocols import Decoding
from capdec.service import app

SHORT = {"max_tokens": 4, "beams": 2}


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size).save(file, "JPEG")
    return file.getvalue()


def vector(seed: int, dim: int = 16) -> list[float]:
    return np.random.default_rng(seed).normal(size=dim).tolist()


@contextmanager
def served(captioner, **settings):
    made = app({"tiny": captioner}, **settings)
    with TestClient(made, raise_server_exceptions=False) as client:
        client.service = made.state.service
        yield client


@pytest.fixture
def client(tiny_captioner):
    with served(tiny_captioner) as client:
        yield client


@pytest.fixture
def held(tiny_captioner, monkeypatch):
    """A captioner that waits at a gate; `entered` counts those who came to it."""
    gate, entered, generate = threading.Event(), threading.Semaphore(0), tiny_captioner.caption_embeddings
    gate.set()

    def wait(*given, **named):
        entered.release()
        assert gate.wait(20)
        return generate(*given, **named)

    monkeypatch.setattr(tiny_captioner, "caption_embeddings", wait)
    monkeypatch.setattr(service, "LANES", 1)  # one batch at the gate holds all others
    tiny_captioner.gate, tiny_captioner.entered = gate, entered
    yield tiny_captioner
    gate.set()


def held_up(held, client, pool):
    """The future of a request that is in the captioner's hand until the gate opens."""
    held.gate.clear()
    while held.entered.acquire(blocking=False):
        pass
    first = pool.submit(ask, client, {"embedding": vector(0)})
    assert held.entered.acquire(timeout=10)
    return first


def ask(client, *inputs, headers=None, **more):
    return client.post("/v1/captions", json={"inputs": inputs, "decoding": SHORT, **more}, headers=headers)


def error(answer, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) >= {"error"} and set(answer.json()["error"]) == {"code", "message"}
    assert answer.json()["error"]["code"] == code, answer.text
    message = answer.json()["error"]["message"]
    assert message and "\n" not in message and "/src/" not in message and "Traceback" not in message
    return message


# --- captions


def test_a_form_and_json_say_what_the_captioner_says(client, tiny_captioner):
    decoding = Decoding(captions=2, **SHORT)
    expected = tiny_captioner.caption([Image.open(io.BytesIO(jpeg(n))) for n in range(2)], decoding)
    files = [("image", (f"{n}.jpg", jpeg(n))) for n in range(2)]
    form = client.post("/v1/captions", files=files, data={"captions": "2", "max_tokens": "4", "beams": "2"}).json()
    texts = [base64.b64encode(jpeg(n)).decode() for n in range(2)]
    inputs = [{"image": texts[0], "name": "0.jpg"}, {"image": f"data:image/jpeg;base64,{texts[1]}", "name": "1.jpg"}]
    assert client.post("/v1/captions", json={"inputs": inputs, "decoding": {"captions": 2, **SHORT}}).json() == form
    assert form["model"] == "tiny" and [result["name"] for result in form["results"]] == ["0.jpg", "1.jpg"]
    for result, caption in zip(form["results"], expected, strict=True):
        assert result["caption"] == caption.text and result["score"] == pytest.approx(caption.score, abs=1e-3)
        assert [other["caption"] for other in result["alternatives"]] == [other.text for other in caption.alternatives]


def test_embeddings_need_no_photo(client, tiny_captioner):
    expected = tiny_captioner.caption_embeddings(np.array([vector(n) for n in range(3)]), Decoding(**SHORT))
    results = ask(client, *({"embedding": vector(n)} for n in range(3))).json()["results"]
    assert [(result["name"], result["caption"]) for result in results] == [(f"input {n + 1}", expected[n].text) for n in range(3)]


def test_what_cannot_be_captioned_has_an_error_in_its_place(client):
    inputs = [
        {"embedding": vector(0)}, {"image": base64.b64encode(b"no photo").decode(), "name": "x.jpg"}, {"image": "%%%"}, {"embedding": [0.0] * 16},
        {"embedding": [1.0] * 15}, {"embedding": [1e300] * 16}, {"url": "http://127.0.0.1/a.png"}, {"image": "data:image/png,abc"},
    ]  # fmt: skip
    answer = ask(client, *inputs)
    codes = [result.get("error", {}).get("code") for result in answer.json()["results"]]
    assert answer.status_code == 200
    assert codes == [None, "bad_image", "bad_image", "bad_embedding", "bad_embedding", "bad_embedding", "bad_url", "bad_image"]
    assert answer.json()["results"][1]["name"] == "x.jpg"


def test_where_nothing_could_be_captioned_the_status_says_so(client):
    error(client.post("/v1/captions", files=[("image", ("../../etc/passwd", b"root:x:0:0"))]), 422, "bad_image")
    assert "None of the 2" in error(ask(client, {"embedding": [1.0]}, {"embedding": [0.0] * 16}), 422, "bad_embedding")
    answer = client.post(
        "/v1/captions", content='{"inputs": [{"embedding": [' + ", ".join(["NaN"] * 16) + "]}]}", headers={"content-type": "application/json"}
    )
    error(answer, 422, "bad_embedding")
    assert len(answer.json()["results"]) == 1


def test_a_draw_depends_on_its_place_in_a_request_and_not_on_what_else_is_asked(tiny_captioner):
    decoding = {"strategy": "nucleus", "seed": 5, "max_tokens": 6}
    expected = tiny_captioner.caption_embeddings(np.array([vector(n) for n in range(5)]), Decoding(**decoding))
    with served(tiny_captioner, batch=2) as client:

        def all_five(_):
            body = {"inputs": [{"embedding": vector(n)} for n in range(5)], "decoding": decoding}
            return [result["caption"] for result in client.post("/v1/captions", json=body).json()["results"]]

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(all_five, range(8))) == [[caption.text for caption in expected]] * 8
        broken = [{"embedding": [0.0] * 16}, *({"embedding": vector(n)} for n in range(1, 5))]
        results = client.post("/v1/captions", json={"inputs": broken, "decoding": decoding}).json()["results"]
        assert [result.get("caption") for result in results] == [None, *(caption.text for caption in expected[1:])]


def test_agreement_depends_on_the_place_in_a_request_and_not_on_what_else_is_asked(tiny_captioner):
    signal = Signal(mean=0.5, deviation=0.2, weight=1.0)
    tiny_captioner.decoding = Decoding(max_tokens=6)
    tiny_captioner.confidence = Confidence({"agreement": signal}, 0.0, 0.5, tiny_captioner.decoding, draws=2)
    asked = []
    signals = tiny_captioner.signals
    tiny_captioner.signals = lambda *given: (asked.append(given[3]), signals(*given))[1]
    with served(tiny_captioner, batch=8) as client:
        asked.clear()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: client.post("/v1/captions", json={"inputs": [{"embedding": vector(n)}]}).raise_for_status(), range(8)))
        assert asked == [0] * 8, "each request for itself"


def test_many_clients_each_get_their_own(client, tiny_captioner):
    vectors = np.array([vector(n) for n in range(120)])
    expected = [(str(number), caption.score) for number, caption in enumerate(tiny_captioner.caption_embeddings(vectors, Decoding(**SHORT)))]
    assert len({round(score, 4) for _, score in expected}) > 90, "scores tell them apart"

    def one(number):
        result = ask(client, {"embedding": vectors[number].tolist(), "name": str(number)}).json()["results"][0]
        return result["name"], pytest.approx(result["score"], abs=2e-4)

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(one, range(120))) == expected
    assert client.service.batcher.waiting == 0 and client.service.active == 0


def test_the_memorys_nearest_captions_are_told_where_it_keeps_its_texts(client, tiny_captioner):
    assert "neighbours" not in ask(client, {"embedding": vector(0)}, neighbours=3).json()["results"][0]
    error(ask(client, {"embedding": vector(0)}, decoding={"rerank": "neighbours"}), 422, "bad_setting")
    bridge = parts.build("bridges", {"name": "memory_projection", "keep_texts": True, "temperature": 0.1}, dim=16)
    bridge.memory.rows, bridge.memory.texts = torch.nn.functional.normalize(torch.randn(40, 16), dim=-1).bfloat16(), [f"text {n}" for n in range(40)]
    with served(Captioner(tiny_captioner.backbone, [bridge], tiny_captioner.decoder, tiny_captioner.spec)) as other:
        assert other.get("/v1/models").json()["models"][0]["has_neighbours"] is True
        photo = tiny_captioner.backbone.encode_image([Image.open(io.BytesIO(jpeg()))])
        for given, row in (({"embedding": vector(1)}, torch.tensor([vector(1)])), ({"image": base64.b64encode(jpeg()).decode()}, photo)):
            cosines, places = (torch.nn.functional.normalize(row, dim=-1) @ bridge.memory.rows.float().T).topk(3)
            near = ask(other, given, neighbours=3).json()["results"][0]["neighbours"]
            assert [one["caption"] for one in near] == [f"text {place}" for place in places[0].tolist()]
            assert [one["cosine"] for one in near] == pytest.approx(cosines[0].tolist(), abs=1e-3)


def test_a_style_is_asked_for_by_its_name(client, tiny_captioner):
    error(ask(client, {"embedding": vector(0)}, decoding={"style": "loud"}), 422, "bad_setting")
    stylish = Captioner(tiny_captioner.backbone, [], tiny_captioner.decoder, tiny_captioner.spec, styles=("", "loud"))
    with served(stylish) as other:
        model = other.get("/v1/models").json()["models"][0]
        assert model["styles"] == ["", "loud"] and model["has_lengths"] is False
        said = ask(other, {"embedding": vector(0)}, decoding={"style": "loud"}).json()["results"][0]["caption"]
        assert said == stylish.caption_embeddings(torch.tensor([vector(0)]), Decoding(style="loud"))[0].text
        error(ask(other, {"embedding": vector(0)}, decoding={"length": "long"}), 422, "bad_setting")


def test_candidates_in_a_language_that_the_backbone_does_not_read_are_not_chosen_by_it(tiny_captioner):
    tiny_captioner.language = "de"
    with served(tiny_captioner) as client:
        assert ask(client, {"embedding": vector(0)}).status_code == 200
        error(ask(client, {"embedding": vector(0)}, decoding={"rerank": "clip", "candidates": 3}), 422, "bad_setting")


def test_a_captioners_own_way_of_choosing_gives_way_to_what_is_asked_for():
    own = Decoding(beams=5, candidates=5, rerank="clip", score_weight=0.5)
    assert generation.changed(own, {"beams": 3}) == Decoding(beams=3, candidates=3, rerank="clip", score_weight=0.5)
    assert generation.changed(own, {"beams": 1}) == Decoding(beams=1)
    assert generation.changed(own, {"strategy": "greedy"}) == Decoding(strategy="greedy")
    assert generation.changed(own, {"captions": 2}) == Decoding(captions=2, candidates=5, rerank="clip", score_weight=0.5)
    with pytest.raises(SettingError, match="6 captions"):
        generation.changed(own, {"candidates": 6})


# --- what is refused


NO_REQUEST = [
    (b"", 400, "bad_request"),
    (b"{", 400, "bad_request"),
    (b"\xff\xfe", 400, "bad_request"),
    (b"[" * 100_000, 400, "bad_request"),
    (b'{"a":' * 5000, 400, "bad_request"),
    (b'{"inputs": [{"image": "\\ud800"}]}', 400, "bad_request"),
    (b"[]", 422, "bad_setting"),
    (b"{}", 422, "bad_setting"),
    (b'{"inputs": []}', 422, "bad_setting"),
    (b'{"inputs": [1]}', 422, "bad_setting"),
    (b'{"inputs": [{"photo": "x"}]}', 422, "bad_setting"),
    (b'{"inputs": [{"image": "eA==", "url": "http://x"}]}', 422, "bad_setting"),
    (b'{"inputs": [{"image": 3}]}', 422, "bad_image"),
    (b'{"inputs": [{"embedding": ["a"]}]}', 422, "bad_embedding"),
    (b'{"inputs": [{"embedding": null}]}', 422, "bad_embedding"),
    (b'{"inputs": [{"embedding": [1]}], "model": "nobody"}', 404, "no_such_model"),
    (b'{"inputs": [{"embedding": [1]}], "decoding": {"beems": 3}}', 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "decoding": {"beams": 1000}}', 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "decoding": {"beams": 2, "captions": 3}}', 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "decoding": {"temperature": NaN}}', 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "decoding": {"beams": true}}', 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "decoding": {"seed": ' + b"9" * 400 + b"}}", 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "deadline": 1e9}', 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "deadline": 0}', 422, "bad_setting"),
    (b'{"inputs": [{"embedding": [1]}], "neighbours": -1}', 422, "bad_setting"),
    (b'{"inputs": [' + b", ".join([b'{"embedding": [1]}'] * 65) + b"]}", 422, "too_many_inputs"),
]


def test_json_that_is_no_request_is_a_clear_error(client):
    for body, status, code in NO_REQUEST:
        error(client.post("/v1/captions", content=body, headers={"content-type": "application/json"}), status, code)


def test_whole_numbers_may_come_as_json_writes_them(client):
    assert ask(client, {"embedding": vector(0)}, neighbours=0.0).status_code == 200


NO_FORM = [
    ([("photo", ("a.jpg", b"x"))], {}, "bad_setting"),
    ([("image", ("a.jpg", b"x"))], {"beams": "many"}, "bad_setting"),
    ([("image", ("a.jpg", b"x"))], {"beams": ["2", "3"]}, "bad_setting"),
    ([("image", ("a.jpg", b"x"))], {"colour": "red"}, "bad_setting"),
    ([("image", ("a.jpg", b"x"))], {"image": "text"}, "bad_setting"),
    ([("image", (f"{n}.jpg", b"x")) for n in range(65)], {}, "too_many_inputs"),
    ([("image", ("a.jpg", b""))], {}, "bad_image"),
]


def test_a_form_that_is_no_request_is_a_clear_error(client):
    for files, data, code in NO_FORM:
        error(client.post("/v1/captions", files=files, data=data), 422, code)


def test_what_is_neither_a_form_nor_json_is_refused(client):
    error(client.post("/v1/captions", content=b"x", headers={"content-type": "image/jpeg"}), 415, "unsupported_media_type")
    error(client.post("/v1/captions"), 415, "unsupported_media_type")
    error(
        client.post("/v1/captions", content=b"x", headers={"content-type": "application/json", "content-encoding": "gzip"}),
        415,
        "unsupported_media_type",
    )
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        error(client.post("/v1/captions", content=b"--y\r\nno form", headers={"content-type": kind}), 400, "bad_request")
    big = client.post("/v1/captions", data={"model": "x" * 70_000}, files=[("image", ("a.jpg", b"x"))])
    error(big, 400, "bad_request")


def test_bytes_are_counted_whatever_the_client_says_of_them(tiny_captioner):
    with served(tiny_captioner, max_body=10_000) as client:
        for content in (b"x" * 20_000, iter([b"x" * 6_000] * 3)):
            assert "10,000 bytes" in error(
                client.post("/v1/captions", content=content, headers={"content-type": "application/json"}), 413, "too_large"
            )
        assert ask(client, {"embedding": vector(0)}).status_code == 200


def test_values_are_counted_before_they_are_made_objects(tiny_captioner, monkeypatch):
    monkeypatch.setattr(contract, "_JSON", None)  # nothing is to be parsed
    with served(tiny_captioner, max_inputs=2) as client:
        for one in (b"1,", b'{"image":""},'):
            answer = client.post("/v1/captions", content=b'{"inputs": [' + one * 40_000 + b"]}", headers={"content-type": "application/json"})
            error(answer, 413, "too_large")


def test_pixels_are_counted_before_they_are_decoded(tiny_captioner):
    with served(tiny_captioner, max_pixels=1000) as client:
        file = io.BytesIO()
        Image.new("RGB", (40, 40)).save(file, "PNG")
        assert "40 x 40" in error(client.post("/v1/captions", files=[("image", ("a.png", file.getvalue()))]), 422, "bad_image")


def test_a_server_without_work_to_give_is_a_setting_error(tiny_captioner):
    for settings in ({"queue": 3, "max_inputs": 4}, {"api_key": ""}, {"api_key": "é"}):
        with pytest.raises(SettingError):
            app({"tiny": tiny_captioner}, **settings)
    with pytest.raises(SettingError):
        app({})


def test_what_is_not_there_is_a_404_without_a_path_of_the_server(client):
    for path in ["/nope", "/v1", "/v1/captions/", "/page/../service.py", "/page/%2e%2e%2fservice.py", "/docs-files/%00", "/docs-files/../core.py"]:
        error(client.get(path), 404, "not_found")


def test_another_method_is_a_405_that_says_which_are_allowed(client):
    answer = client.get("/v1/captions")
    error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_a_key_is_asked_for_below_v1_alone(tiny_captioner):
    with served(tiny_captioner, api_key="secret") as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic secret"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer \xe9"},
        ):
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            answer = ask(client, {"embedding": vector(0)}, headers=raw)
            error(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            error(client.get("/v1/models", headers=raw), 401, "unauthorized")
        assert ask(client, {"embedding": vector(0)}, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")] == [200] * 5


def test_addresses_are_fetched_where_that_is_allowed_and_only_public_ones(tiny_captioner):
    with served(tiny_captioner, allow_urls=True) as client:
        for url in (
            "http://127.0.0.1/a.png",
            "http://localhost/",
            "file:///etc/passwd",
            "/etc/passwd",
            "http://[::1]/",
            "ftp://example.org/x",
            "gopher:x",
        ):
            message = error(ask(client, {"url": url}), 422, "bad_url")
            assert "root:" not in message


# --- when there is too much, too late, or an end


def test_a_fault_of_the_captioner_is_its_items_alone_and_says_nothing_of_the_server(client, tiny_captioner, monkeypatch):
    generate = tiny_captioner.caption_embeddings

    def fails(embeddings, *given, **named):
        if (torch.as_tensor(embeddings)[:, 0] == 7).any():
            raise RuntimeError("/home/secret/weights.bin")
        return generate(embeddings, *given, **named)

    monkeypatch.setattr(tiny_captioner, "caption_embeddings", fails)
    results = ask(client, {"embedding": vector(0)}, {"embedding": [7.0] * 16}, {"embedding": vector(1)}).json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [None, "internal", None]
    assert "secret" not in error(ask(client, {"embedding": [7.0] * 16}), 500, "internal")


def test_an_error_nobody_thought_of_is_a_500_in_the_same_shape(client, monkeypatch):
    monkeypatch.setattr(contract, "from_json", lambda body, inputs: 1 / 0)
    error(ask(client, {"embedding": vector(0)}), 500, "internal")


def test_a_full_queue_is_a_429_and_says_when_to_come_again(held):
    with served(held, queue=4, max_inputs=4, batch=1) as client, ThreadPoolExecutor(8) as pool:
        first = held_up(held, client, pool)
        waiting = pool.submit(ask, client, *({"embedding": vector(n)} for n in range(3)))
        while client.service.batcher.waiting < 3:
            time.sleep(0.01)
        answer = ask(client, {"embedding": vector(0)}, {"embedding": vector(1)})
        error(answer, 429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        held.gate.set()
        assert first.result().status_code == waiting.result().status_code == 200
        assert ask(client, {"embedding": vector(0)}).status_code == 200


def test_a_request_whose_time_is_over_is_a_504_and_leaves_the_queue(held):
    with served(held, batch=1) as client, ThreadPoolExecutor(1) as pool:
        first = held_up(held, client, pool)
        error(ask(client, {"embedding": vector(1)}, {"embedding": vector(2)}, deadline=0.1), 504, "deadline")
        assert client.service.batcher.waiting == 0
        held.gate.set()
        assert first.result().status_code == 200


def test_a_client_that_leaves_takes_its_inputs_out_of_the_queue(held):
    body = json.dumps({"inputs": [{"embedding": vector(1)}, {"embedding": vector(2)}]}).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/captions", "raw_path": b"/v1/captions", "query_string": b"", "root_path": "",
        "http_version": "1.1", "scheme": "http", "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
    }  # fmt: skip

    async def leave(client) -> list:
        said, came = [], asyncio.Queue()
        came.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def send(message):
            said.append(message)

        asking = asyncio.create_task(client.app(dict(scope), came.get, send))
        while client.service.batcher.waiting < 2:
            await asyncio.sleep(0.01)
        came.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(asking, 10)
        return said

    with served(held, batch=1) as client, ThreadPoolExecutor(1) as pool:
        first = held_up(held, client, pool)
        assert asyncio.run(leave(client)) == [] and client.service.batcher.waiting == 0
        held.gate.set()
        assert first.result().status_code == 200
        assert 'status="499"' in client.get("/metrics").text


def test_when_it_is_closing_it_says_so_and_finishes_what_it_has(held):
    with served(held) as client, ThreadPoolExecutor(1) as pool:
        assert client.get("/readyz").status_code == 200
        first = held_up(held, client, pool)
        client.service.closing = True
        error(client.get("/readyz"), 503, "shutting_down")
        error(ask(client, {"embedding": vector(0)}), 503, "shutting_down")
        assert client.get("/healthz").json() == {"status": "ok"}
        held.gate.set()
        assert first.result().status_code == 200


# --- what it says of itself


def test_models_and_limits_are_told(client, tiny_captioner):
    told = client.get("/v1/models").json()
    (model,) = told["models"]
    assert model["name"] == "tiny" and model["dim"] == 16 and model["fingerprint"] == tiny_captioner.fingerprint
    assert model["decoding"]["beams"] == 5 and model["has_neighbours"] is False and told["urls"] is False
    assert told["limits"]["inputs"] == 64 and told["limits"]["beams"] == contract.BEAMS
    assert "/" not in model["description"], "a folder's place is nobody's business"


def test_the_description_knows_both_bodies_and_every_answer(client):
    schema = client.get("/openapi.json").json()
    post = schema["paths"]["/v1/captions"]["post"]
    assert set(post["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert set(post["responses"]) == {"200", "400", "404", "413", "415", "422", "429", "500", "503", "504"}
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
    assert references <= set(schema["components"]["schemas"])
    assert [schema["components"]["schemas"][one]["properties"]["model"]["enum"] for one in ("CaptionRequest", "CaptionForm")] == [["tiny"]] * 2
    assert schema["components"]["schemas"]["Search"]["properties"]["beams"]["maximum"] == contract.BEAMS


def test_the_documentation_asks_nothing_of_other_hosts(client):
    page = client.get("/docs").text
    assert not re.findall(r"https?://", page)
    for file in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(file).status_code == 200


def test_metrics_count_requests_inputs_and_batches(client):
    ask(client, {"embedding": vector(0)}, {"embedding": [1.0]})
    client.get("/nope")
    lines = client.get("/metrics").text.splitlines()
    assert (
        'capdec_requests_total{route="/v1/captions",status="200"} 1.0' in lines and 'capdec_requests_total{route="other",status="404"} 1.0' in lines
    )
    assert 'capdec_inputs_total{outcome="captioned"} 1.0' in lines and 'capdec_inputs_total{outcome="bad_embedding"} 1.0' in lines
    assert "capdec_queue_length 0.0" in lines and "capdec_batch_size_count 2.0" in lines  # the first warmed it up


def test_every_answer_keeps_browsers_safe(client):
    for answer in (
        client.get("/healthz"),
        client.get("/nope"),
        client.get("/v1/captions"),
        ask(client, {"embedding": [1.0]}),
        client.post("/v1/captions"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff" and "default-src 'none'" in answer.headers["content-security-policy"]


# --- the process


@contextmanager
def process(*words: str):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "capdec", "serve", "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as running:
        try:
            line = running.stdout.readline()
            yield running, line.rpartition(" ")[2].strip()
        finally:
            running.kill()


def test_told_to_end_under_load_it_answers_what_it_took_and_ends_well():
    with process() as (running, address), ThreadPoolExecutor(16) as pool:
        started = threading.Semaphore(0)

        def keep_asking(number):
            statuses = []
            with httpx.Client(base_url=address, timeout=30) as client:
                while True:
                    try:
                        answer = client.post("/v1/captions", files=[("image", (f"{number}.jpg", jpeg(number)))])
                    except httpx.ConnectError:  # it is gone
                        return statuses
                    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as fault:
                        # an idle connection that was closed as the next request went out was not taken: nothing of an answer had come
                        statuses.append("closed" if statuses else repr(fault))
                        return statuses
                    statuses.append(answer.status_code)
                    started.release()
                    if answer.status_code == 200:
                        assert answer.json()["results"][0]["name"] == f"{number}.jpg"
                    else:
                        assert answer.json()["error"]["code"] == "shutting_down"
                        return statuses

        asking = [pool.submit(keep_asking, number) for number in range(12)]
        for _ in range(24):
            assert started.acquire(timeout=60)
        running.send_signal(signal.SIGTERM)
        answers = [one.result(timeout=60) for one in asking]
        assert running.wait(timeout=60) == 0 and running.stderr.read() == ""
        assert all(statuses and statuses[0] == 200 for statuses in answers)
        assert {status for statuses in answers for status in statuses} <= {200, 503, "closed"}


def test_what_leaves_and_what_is_no_http_troubles_nobody():
    with process("--deadline", "20") as (running, address):
        host, _, port = address.removeprefix("http://").partition(":")

        def say(content: bytes) -> bytes:
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(content)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
                return answer

        answer = say(b"no http at all\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400") and b'"bad_request"' in answer and b"nosniff" not in answer[:20]
        body = jpeg()
        form = b'--X\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + body + b"\r\n--X--\r\n"
        head = b"POST /v1/captions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=X\r\nContent-Length: %d\r\n\r\n" % len(form)
        for sent in (head[:40], head + form[:100], head + form):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(sent)
        assert httpx.post(f"{address}/v1/captions", files=[("image", ("a.jpg", body))], timeout=30).status_code == 200
        lines = httpx.get(f"{address}/metrics").text
        assert "capdec_queue_length 0.0" in lines
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 0


def test_a_port_that_is_taken_is_a_line_and_not_a_traceback():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "capdec", "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "cannot be listened on" in done.stderr and "Traceback" not in done.stderr

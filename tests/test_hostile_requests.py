"""The service and those who mean no good: each request has an answer that says what is wrong, and the next one is answered as ever."""

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from fastapi.testclient import TestClient

from capdec.service import app
from hostile import requests as hostile


def says_what_is_wrong(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert set(error) == {"code", "message"} and re.fullmatch("[a-z_]+", error["code"])
    assert error["message"] and "\n" not in error["message"] and len(error["message"]) < 1000
    for secret in ("Traceback", "site-packages", "/src/", "root:", "object at 0x"):
        assert secret not in error["message"], error


@pytest.fixture
def client(tiny_captioner):
    with TestClient(app({"tiny": tiny_captioner}), raise_server_exceptions=False) as client:
        yield client


def test_every_hostile_request_is_told_what_is_wrong_and_the_next_is_answered(client):
    asked = list(hostile.bodies())
    assert len({one.name for one in asked}) == len(asked) > 300
    good = {"inputs": [hostile.EMBEDDING], "decoding": hostile.QUICK}
    expected = client.post("/v1/captions", json=good).json()
    for one in asked:
        kind = {"Content-Type": one.kind} if one.kind else {}
        answer = client.request(one.method, one.path, content=one.content, headers={**kind, **one.headers})
        said = (one.name, answer.status_code, answer.text[:300])
        assert answer.status_code == 200 if one.good else answer.status_code < 500 and (answer.status_code >= 400 or one.good is None), said
        if answer.status_code >= 400:
            says_what_is_wrong(answer)
        else:
            assert all(("caption" in result) != ("error" in result) for result in answer.json()["results"]), said
        assert client.post("/v1/captions", json=good).json() == expected, said


@contextmanager
def process():
    command = [sys.executable, "-m", "capdec", "serve", "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as running:
        try:
            yield running, int(running.stdout.readline().rpartition(":")[2])
        finally:
            running.kill()


def exchanged(port: int, content: bytes) -> bytes:
    """All that comes back until the other side hangs up, or is silent for 2 seconds."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        try:
            connection.sendall(content)
            while more := connection.recv(65_536):
                received += more
        except (TimeoutError, ConnectionError):
            pass
    return received


def test_bytes_that_are_hardly_http_are_refused_or_dropped_and_the_process_goes_on():
    with process() as (running, port), ThreadPoolExecutor(16) as pool:
        cases = list(hostile.bytes_on_the_wire())
        for (name, _), received in zip(cases, pool.map(lambda case: exchanged(port, case[1]), cases), strict=True):
            statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]
            assert received == b"" or (statuses and all(status < 500 for status in statuses)), (name, received[:300])
            if statuses and statuses[-1] >= 400:
                assert b'"error":{"code":"' in received and b"Traceback" not in received, (name, received[:300])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            answer = client.post("/v1/captions", files=[("image", ("photo.jpg", hostile.PHOTO))], data=hostile.QUICK)
            assert answer.status_code == 200 and answer.json()["results"][0]["caption"] is not None
        running.terminate()
        assert running.wait(20) == 0 and "Traceback" not in running.stderr.read()

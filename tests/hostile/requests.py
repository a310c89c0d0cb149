"""Requests of the service as nobody should make them: bodies in JSON and forms, and bytes that are hardly HTTP. `good`: captions come (True), or an
error alone (False)."""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hostile import encoded, noise
from hostile.images import png


class Asked(NamedTuple):
    name: str
    content: bytes
    kind: str = "application/json"
    good: bool | None = False
    headers: Mapping[str, str] = {}
    method: str = "POST"
    path: str = "/v1/captions"


PHOTO = encoded(noise(), "JPEG")
IMAGE = {"image": base64.b64encode(PHOTO).decode()}
EMBEDDING = {"embedding": [1.0] * 16}
QUICK = {"beams": 1, "captions": 1, "max_tokens": 2}


def bodies() -> Iterator[Asked]:
    yield from _not_json()
    yield from _misshapen()
    yield from _settings()
    yield from _inputs()
    yield from _forms()
    yield from _elsewhere()


def _not_json() -> Iterator[Asked]:
    good = json.dumps({"inputs": [EMBEDDING], "decoding": QUICK}).encode()
    named = {
        "nothing": b"",
        "a space": b" ",
        "zeros": bytes(1000),
        "noise": b"\xab\xcd" * 500,
        "a text": b"captions, please",
        "half of it": good[: len(good) // 2],
        "without its last byte": good[:-1],
        "with more behind": good + b"}",
        "twice": good * 2,
        "in single quotes": good.replace(b'"', b"'"),
        "with a comment": b"/* */" + good,
        "with a comma too many": good[:-1] + b",}",
        "in UTF-16": good.decode().encode("utf-16"),
        "in UTF-32": good.decode().encode("utf-32"),
        "not in UTF-8": good.replace(b"inputs", b"inp\xffts"),
        "compressed, and not said so": gzip.compress(good),
        "lists 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "lists 100,000 deep and open": b"[" * 100_000,
        "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "inputs 100,000 deep": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "a photo": PHOTO,
        "a form": b"image=abc&beams=1",
        "xml": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "half a character": b'{"inputs": [{"embedding": [1], "name": "\\ud800"}]}',
        "half a character, the other": b'{"inputs": [{"embedding": [1], "name": "\\udfff"}]}',
        "half a character for a key": b'{"\\ud800": 1}',
        "a line end in a text": b'{"inputs": [{"embedding": [1], "name": "a\nb"}]}',
        "a zero in a text": b'{"inputs": [{"embedding": [1], "name": "a\0b"}]}',
        "an escape cut short": b'{"inputs": [{"embedding": [1], "name": "\\u12',
        "a number of a megabyte": b'{"inputs": ' + b"9" * 10**6 + b"}",
        "a hexadecimal number": b'{"inputs": [{"embedding": [0x1]}]}',
        "a number with a plus": b'{"inputs": [{"embedding": [+1]}]}',
    }
    for name, content in named.items():
        yield Asked(f"json: {name}", content)
    yield Asked("json: with a mark before it", b"\xef\xbb\xbf" + good, good=None)


def _misshapen() -> Iterator[Asked]:
    named = {
        "null": None,
        "a number": 7,
        "a list": [1, 2],
        "a text": "captions",
        "true": True,
        "an empty object": {},
        "inputs that are null": {"inputs": None},
        "inputs that are a text": {"inputs": "abc"},
        "inputs that are an object": {"inputs": {"0": EMBEDDING}},
        "no inputs": {"inputs": []},
        "65 inputs": {"inputs": [EMBEDDING] * 65},
        "100,000 inputs": {"inputs": [{}] * 100_000},
        "an input that is null": {"inputs": [None]},
        "an input that is a text": {"inputs": ["abc"]},
        "an input that is a list": {"inputs": [[EMBEDDING]]},
        "an input of nothing": {"inputs": [{}]},
        "an input of two kinds": {"inputs": [{**IMAGE, **EMBEDDING}]},
        "an input of a kind that is not": {"inputs": [{"path": "/etc/passwd"}]},
        "an input with more": {"inputs": [{**EMBEDDING, "path": "/etc/passwd"}]},
        "an unknown key": {"inputs": [EMBEDDING], "captioner": "flickr"},
        "a key of a megabyte": {"inputs": [EMBEDDING], "k" * 10**6: 1},
        "a key with line ends": {"inputs": [EMBEDDING], "a\n\r\u2028b": 1},
        "keys of Python": {"inputs": [EMBEDDING], "__class__": {"__init__": 1}},
        "a model that is a number": {"inputs": [EMBEDDING], "model": 7},
        "a model that is null": {"inputs": [EMBEDDING], "model": None},
        "a model of no name": {"inputs": [EMBEDDING], "model": ""},
        "a model that is a path": {"inputs": [EMBEDDING], "model": "../../etc/passwd"},
        "a model with a zero": {"inputs": [EMBEDDING], "model": "ti\0ny"},
        "a model of a megabyte": {"inputs": [EMBEDDING], "model": "m" * 10**6},
        "a deadline of 0": {"inputs": [EMBEDDING], "deadline": 0},
        "a deadline before now": {"inputs": [EMBEDDING], "deadline": -1},
        "a deadline of a year": {"inputs": [EMBEDDING], "deadline": 3e7},
        "a deadline of a moment": {"inputs": [EMBEDDING], "deadline": 1e-300},
        "a deadline that is a text": {"inputs": [EMBEDDING], "deadline": "10"},
        "a deadline that is true": {"inputs": [EMBEDDING], "deadline": True},
        "a deadline that is infinite": {"inputs": [EMBEDDING], "deadline": float("inf")},
        "a deadline that is no number": {"inputs": [EMBEDDING], "deadline": float("nan")},
        "neighbours before the first": {"inputs": [EMBEDDING], "neighbours": -1},
        "a million neighbours": {"inputs": [EMBEDDING], "neighbours": 10**6},
        "neighbours that are a list": {"inputs": [EMBEDDING], "neighbours": [3]},
        "decoding that is a list": {"inputs": [EMBEDDING], "decoding": [QUICK]},
        "decoding that is null": {"inputs": [EMBEDDING], "decoding": None},
        "decoding that is a text": {"inputs": [EMBEDDING], "decoding": "beam"},
    }
    for name, value in named.items():
        yield Asked(f"shape: {name}", json.dumps(value).encode())
    twice = b'{"inputs": [{"embedding": [1]}], "inputs": ' + json.dumps([EMBEDDING]).encode() + b', "decoding": ' + json.dumps(QUICK).encode() + b"}"
    yield Asked("shape: inputs twice", twice, good=None)


def _settings() -> Iterator[Asked]:
    named: dict[str, object] = {
        "beams": [0, -1, 17, 10**6, 10**30, 1.5, "5", True, None, [5], {}, float("nan"), float("inf"), 1e308],
        "captions": [0, -3, 17, 2**63, "all", False],
        "candidates": [-1, 10**9, 0.1],
        "max_tokens": [0, -1, 10**9, "30", 1e400],
        "length_penalty": [float("nan"), float("-inf"), 11, -11, "1", True],
        "no_repeat_ngram_size": [-1, 10**9],
        "top_p": [0, -0.1, 1.1, float("nan")],
        "temperature": [0, -1, 1e-9, 1e9, float("inf")],
        "seed": [-1, 2**31, 2**64, 1.5, "7"],
        "strategy": ["", "BEAM", "__import__('os')", 7, None, ["beam"]],
        "rerank": ["best", 0, True],
        "score_weight": [float("nan"), 1e30, "much"],
        "neighbours": [0, 51, -1, 2.5],
        "device": ["cuda"],
        "Beams": [1],
        "": [1],
    }
    for key, values in named.items():
        for value in values:
            content = json.dumps({"inputs": [EMBEDDING], "decoding": {**QUICK, key: value}}).encode()
            yield Asked(f"setting: {key} {str(value)[:40]!r}", content)
    for key, value in {"candidates and captions": {"captions": 5, "candidates": 2}, "more captions than beams": {"captions": 5, "beams": 2}}.items():
        yield Asked(f"setting: {key}", json.dumps({"inputs": [EMBEDDING], "decoding": value}).encode(), good=None)
    for key, value in {"beams that are 1.0": {"beams": 1.0}, "a penalty that is whole": {"length_penalty": 1}, "nothing": {}}.items():
        yield Asked(f"setting: {key}", json.dumps({"inputs": [EMBEDDING], "decoding": {**QUICK, **value}}).encode(), good=True)


def _inputs() -> Iterator[Asked]:
    bomb, code = base64.b64encode(png(30_000, 30_000, data=b"")).decode(), IMAGE["image"]
    wrong: dict[str, dict[str, object]] = {
        "an image of nothing": {"image": ""},
        "an image of spaces": {"image": " \n\t"},
        "an image that is no base64": {"image": "%%%"},
        "an image that is cut": {"image": code[: len(code) // 2 // 4 * 4]},
        "an image whose padding is missing": {"image": code.rstrip("=")[:-1]},
        "an image of padding": {"image": "===="},
        "an image of letters beyond ASCII": {"image": "äöü" + code},
        "an image in base64's other letters": {"image": "-_-_" * 100},
        "an image that is a path": {"image": "/etc/passwd"},
        "an image that is an address": {"image": "http://127.0.0.1/photo.jpg"},
        "an image that is a text": {"image": base64.b64encode(b"hello").decode()},
        "an image that is a bomb": {"image": bomb},
        "an image that is a number": {"image": 7},
        "an image that is null": {"image": None},
        "an image that is a list": {"image": [1, 2]},
        "an image that is true": {"image": True},
        "a data address of nothing": {"image": "data:"},
        "a data address without base64": {"image": "data:image/jpeg," + code},
        "a data address of noise": {"image": "data:image/jpeg;base64,%%"},
        "a data address of 1000 kinds": {"image": "data:" + "a;" * 1000 + ",abcd"},
        "an address, where none is fetched": {"url": "http://example.org/photo.jpg"},
        "an address of a file": {"url": "file:///etc/passwd"},
        "an address of this machine": {"url": "http://127.0.0.1:1/"},
        "an address of the machine's keeper": {"url": "http://169.254.169.254/latest/meta-data"},
        "an address that is a path": {"url": "/etc/passwd"},
        "an address of nothing": {"url": ""},
        "an address with line ends": {"url": "http://a\r\nHost: b/"},
        "an address of a megabyte": {"url": "http://" + "a" * 10**6},
        "an address that is a number": {"url": 7},
        "an embedding of nothing": {"embedding": []},
        "an embedding of one number": {"embedding": [1.0]},
        "an embedding of a million numbers": {"embedding": [1] * 10**6},
        "an embedding one too narrow": {"embedding": [1.0] * 15},
        "an embedding one too wide": {"embedding": [1.0] * 17},
        "an embedding of zeros": {"embedding": [0.0] * 16},
        "an embedding of less than nothing": {"embedding": [1e-320] * 16},
        "an embedding beyond float32": {"embedding": [1e300] * 16},
        "an embedding as long as float32 is": {"embedding": [3e38] * 16},
        "an embedding of NaN": {"embedding": [float("nan")] * 16},
        "an embedding with one NaN": {"embedding": [1.0] * 15 + [float("nan")]},
        "an embedding with one infinity": {"embedding": [1.0] * 15 + [float("-inf")]},
        "an embedding of 400 digits": {"embedding": [10**400] * 16},
        "an embedding of nulls": {"embedding": [None] * 16},
        "an embedding of texts": {"embedding": ["1"] * 16},
        "an embedding of truths": {"embedding": [True] * 16},
        "an embedding of embeddings": {"embedding": [[1.0] * 16]},
        "an embedding that is a text": {"embedding": "1" * 16},
        "an embedding that is an object": {"embedding": {str(n): 1.0 for n in range(16)}},
        "an embedding that is null": {"embedding": None},
        "a name that is a number": {**EMBEDDING, "name": 7},
        "a name that is null": {**EMBEDDING, "name": None},
        "a name that is a list": {**EMBEDDING, "name": ["a"]},
    }
    for name, value in wrong.items():
        yield Asked(f"input: {name}", json.dumps({"inputs": [value], "decoding": QUICK}).encode())
    names = [
        "",
        " ",
        "../../etc/passwd",
        "a\0b",
        "\x1b[31mred",
        "a\n\rb\u2028c",
        "\u202egpj.exe",
        "n" * 10**6,
        "<script>alert(1)</script>",
        "🐕" * 500,
        "CON",
        '";\\',
    ]
    for number, name in enumerate(names):
        yield Asked(f"input: name {number}", json.dumps({"inputs": [{**EMBEDDING, "name": name}], "decoding": QUICK}).encode(), good=True)
    mixed = {"inputs": [{"image": "%%%"}, EMBEDDING, {"embedding": [1.0]}, IMAGE, {"url": "file:///etc/passwd"}], "decoding": QUICK}
    yield Asked("input: good ones among bad ones", json.dumps(mixed).encode(), good=True)
    yield Asked("input: 64 times the same", json.dumps({"inputs": [EMBEDDING] * 64, "decoding": QUICK}).encode(), good=True)
    lines = {"inputs": [{"image": "data:image/png;base64,\n" + "\n".join(code[n : n + 76] for n in range(0, len(code), 76))}], "decoding": QUICK}
    yield Asked("input: base64 in lines, of another kind than it says", json.dumps(lines).encode(), good=True)


def part(name: str | bytes | None, content: bytes, file: str | bytes | None = None, *more: bytes) -> bytes:
    def quoted(text: str | bytes) -> bytes:
        return text if isinstance(text, bytes) else text.encode()

    said = (
        b"form-data" + (b"" if name is None else b'; name="' + quoted(name) + b'"') + (b"" if file is None else b'; filename="' + quoted(file) + b'"')
    )
    return b"--b\r\n" + b"\r\n".join([b"Content-Disposition: " + said, *more]) + b"\r\n\r\n" + content + b"\r\n"


def _forms() -> Iterator[Asked]:
    kind, end = "multipart/form-data; boundary=b", b"--b--\r\n"
    photo, quick = part("image", PHOTO, "photo.jpg"), part("beams", b"1") + part("max_tokens", b"2") + part("captions", b"1")
    good = photo + quick + end
    for name, said in {
        "without a boundary": "multipart/form-data",
        "with an empty boundary": "multipart/form-data; boundary=",
        "with another boundary": "multipart/form-data; boundary=c",
        "with a boundary of 5000 letters": "multipart/form-data; boundary=" + "b" * 5000,
        "with a boundary of signs": 'multipart/form-data; boundary="\\\\\\";;"',
        "of the kind mixed": "multipart/mixed; boundary=b",
        "of no kind": "multipart/; boundary=b",
    }.items():
        yield Asked(f"form: {name}", good, said)
    wrong = {
        "nothing": b"",
        "an end alone": end,
        "noise": b"\xab" * 1000,
        "its end cut off": good[:-9],
        "half of it": good[: len(good) // 2],
        "a part without headers": b"--b\r\n\r\nabc\r\n" + end,
        "a part without a name": part(None, PHOTO, "photo.jpg") + end,
        "a part of another disposition": b"--b\r\nContent-Disposition: attachment\r\n\r\nabc\r\n" + end,
        "a header without a colon": b"--b\r\nContent-Disposition\r\n\r\nabc\r\n" + end,
        "a header of a megabyte": part("image", PHOTO, "a" * 10**6) + end,
        "10,000 headers": part("image", PHOTO, "a.jpg", *[b"X: y"] * 10_000) + end,
        "a header of zeros": part("image", PHOTO, "a.jpg", bytes(100)) + end,
        "line ends of the old kind": good.replace(b"\r\n", b"\n"),
        "no photo": quick + end,
        "a photo that is a field": part("image", b"abc") + end,
        "a photo of another name": part("file", PHOTO, "photo.jpg") + end,
        "a photo of no bytes": part("image", b"", "photo.jpg") + end,
        "a photo that is a text": part("image", b"hello", "photo.jpg") + end,
        "a photo that is a bomb": part("image", png(30_000, 30_000, data=b""), "photo.png") + end,
        "a field that is a file": photo + part("beams", b"1", "beams.txt") + end,
        "a field of no name": photo + part("", b"1") + end,
        "a field twice": photo + part("beams", b"1") * 2 + end,
        "an unknown field": photo + part("path", b"/etc/passwd") + end,
        "a field of 100,000 bytes": photo + part("model", b"m" * 100_000) + end,
        "3000 fields": photo + b"".join(part(f"f{n}", b"1") for n in range(3000)) + end,
        "3000 photos": part("image", b"a", "a.jpg") * 3000 + end,
        "65 photos": photo * 65 + end,
        "beams that are a word": photo + part("beams", b"many") + end,
        "beams that are a fraction": photo + part("beams", b"1.5") + end,
        "beams of nothing": photo + part("beams", b"") + end,
        "beams of 5000 digits": photo + part("beams", b"9" * 5000) + end,
        "beams in Arabic digits beyond the limit": photo + part("beams", "٩٩".encode()) + end,
        "a penalty of nan": photo + part("length_penalty", b"nan") + end,
        "a deadline of inf": photo + part("deadline", b"inf") + end,
        "a deadline of -1": photo + part("deadline", b"-1") + end,
        "a model that is no text": photo + part("model", b"\xff\xfe") + end,
        "JSON in a field": photo + part("decoding", b'{"beams": 1}') + end,
    }
    for name, content in wrong.items():
        yield Asked(f"form: {name}", content, kind)
    yield Asked("form: a file as it is", PHOTO, "image/jpeg")
    yield Asked("form: fields in the address's way", b"beams=1&image=abc", "application/x-www-form-urlencoded")
    yield Asked("form: within JSON's kind", good)
    yield Asked("form: JSON in its kind", json.dumps({"inputs": [EMBEDDING]}).encode(), kind)
    for number, name in enumerate(
        [
            "",
            ".",
            "../../../etc/passwd",
            "..\\..\\x.jpg",
            "C:\\x.jpg",
            "a\0b.jpg",
            "n" * 300,
            b"\xff\xfe.jpg",
            "%2e%2e%2fx",
            "ü.jpg",
            'a\\"b.jpg',
            "photo.jpg; x=y",
        ]
    ):
        yield Asked(f"form: file name {number}", part("image", PHOTO, name) + quick + end, kind, None)
    escapes = part("image", PHOTO, b"\\ud800+2AA-\\x00") + quick + end
    for charset in (
        "utf-7",
        "unicode_escape",
        "raw_unicode_escape",
        "utf-16",
        "punycode",
        "idna",
        "hex",
        "rot13",
        "undefined",
        "none",
        "a" * 5000,
        "../x",
    ):
        yield Asked(f"form: a file name in {charset[:20]}", escapes, f"{kind}; charset={charset}", None)
        yield Asked(f"form: a field name in {charset[:20]}", photo + part(b"\\ud800+2AA-", b"1") + end, f"{kind}; charset={charset}")
        yield Asked(f"form: a model's name in {charset[:20]}", photo + part("model", b"\\ud800+2AA-") + end, f"{kind}; charset={charset}")
    yield Asked("form: text before and behind", b"hello\r\n" + good + b"goodbye", kind, None)
    yield Asked(
        "form: a part's own encoding", part("image", base64.b64encode(PHOTO), "a.jpg", b"Content-Transfer-Encoding: base64") + quick + end, kind, None
    )
    yield Asked("form: a photo of another kind than it says", part("image", PHOTO, "a.png", b"Content-Type: text/html") + quick + end, kind, True)


def _elsewhere() -> Iterator[Asked]:
    good = json.dumps({"inputs": [EMBEDDING], "decoding": QUICK}).encode()
    for kind in ("", "text/plain", "application/JSON-LD", "application/json/x", "json", "*/*", "application/octet-stream", "a" * 5000):
        yield Asked(f"kind: {kind[:30]!r}", good, kind)
    for kind in ("application/json; charset=utf-16", "Application/JSON", "application/json;", "application/json; boundary=b"):
        yield Asked(f"kind: {kind!r}", good, kind, True)
    for encoding in ("gzip", "br", "identity, gzip", "nonsense"):
        yield Asked(f"encoding: {encoding}", gzip.compress(good), headers={"Content-Encoding": encoding})
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CAPTION"):
        yield Asked(f"method: {method}", b"", method=method)
    for path in ("/v1/captions/", "/v1/captions/../models", "/v1//captions", "/V1/CAPTIONS", "/v1/captions%00", "/v1", "/page/../../etc/passwd"):
        yield Asked(f"path: {path}", good, path=path)
    for path in ("/page/%2e%2e%2fpyproject.toml", "/docs-files/../../../etc/passwd", "/docs-files/%2e%2e/x", "/static/x", "/.env", "/" + "a" * 5000):
        yield Asked(f"path: {path[:40]}", b"", method="GET", path=path)
    for header in (
        {"Accept": "nonsense"},
        {"Range": "bytes=0-1"},
        {"X-Forwarded-For": "127.0.0.1" * 500},
        {"Host": "evil.example"},
        {"Expect": "200-ok"},
    ):
        yield Asked(f"header: {next(iter(header))}", good, headers=header, good=True)
    for query in ("?beams=1000000", "?" + "a=b&" * 2000, "?%ff%fe=%00"):
        yield Asked(f"query: {query[:20]}", good, path="/v1/captions" + query, good=True)


def bytes_on_the_wire() -> Iterator[tuple[str, bytes]]:
    """What no client's library would send. A server may answer or hang up."""
    body = json.dumps({"inputs": [{"embedding": [1.0]}]}).encode()
    head = b"POST /v1/captions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    sized = b"Content-Length: %d\r\n" % len(body)
    yield from {
        "nothing": b"",
        "a line end": b"\r\n",
        "zeros": bytes(1000),
        "noise": b"\xab\xcd\xef" * 1000,
        "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/0.9": b"GET /\r\n",
        "HTTP/1.0": b"GET /healthz HTTP/1.0\r\n\r\n",
        "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n",
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "two hosts": b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "an address of a megabyte": b"GET /" + b"a" * 10**6 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        "a header of a megabyte": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 10**6 + b"\r\n\r\n",
        "20,000 headers": b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n",
        "a header with a zero": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "a folded header": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "a space before the colon": b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
        "an address that is no text": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        "an address of another place": b"GET http://evil.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "an address with a broken escape": b"GET /%zz%f HTTP/1.1\r\nHost: a\r\n\r\n",
        "a path with a zero in it": b"GET /page/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "a path out of it": b"GET /page/../../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        "a star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "a tunnel": b"CONNECT evil.example:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "a web socket": b"GET /v1/captions HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: YQ==\r\n\r\n",
        "a length of -1": head + b"Content-Length: -1\r\n\r\n" + body,
        "a length of letters": head + b"Content-Length: many\r\n\r\n" + body,
        "a length of 10^30": head + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n" + body,
        "a length of a terabyte": head + b"Content-Length: 1000000000000\r\n\r\n" + body,
        "two lengths": head + sized + b"Content-Length: 3\r\n\r\n" + body,
        "a length and chunks": head + sized + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + body,
        "a length too short": head + b"Content-Length: 5\r\n\r\n" + body,
        "a length in other digits": head + "Content-Length: ٣\r\n\r\n".encode() + body,
        "a chunk of letters": head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        "a chunk of -5": head + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n",
        "a chunk of 2^64": head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
        "a chunk that says too little": head + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        "10,000 chunks of a byte": head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 10_000 + b"0\r\n\r\n",
        "another transfer encoding": head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "a promise of a body": head + b"Expect: 100-continue\r\n" + sized + b"\r\n" + body,
        "two requests at once": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2,
        "500 requests at once": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 500,
        "a request within a request": head + b"Content-Length: 40\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + b" " * 7,
        "a method of 5000 letters": b"A" * 5000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
        "a key that is no text": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        "a kind that is no text": b"POST /v1/captions HTTP/1.1\r\nHost: a\r\nContent-Type: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
        "half a head": b"POST /v1/captions HTTP/1.1\r\nHost: a\r\nContent-",
        "half a body": head + b"Content-Length: 1000\r\n\r\n" + body,
    }.items()

"""Names resolve to what a test says they do; the only server is this test's own, which stands for the public internet where a test lets it."""

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from capdec import public_addresses
from capdec.errors import AddressError
from capdec.images import open_image

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255"),
        *("224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%2", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::"),
        *("2002:c0a8:101::1", "::7f00:1", "2001:0:7f00:1::1", "fec0::1", "3fff::1", "192.88.99.1", "168.63.129.16", "::ffff:168.63.129.16"),
    ],
)
def test_addresses_that_the_internet_does_not_reach_are_not_public(address):
    assert not public_addresses.is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"])
def test_addresses_that_it_reaches_are(address):
    assert public_addresses.is_public(address)


@pytest.fixture
def names(monkeypatch):
    """Host -> its addresses, or a list of such for one time after the other. `asked` counts."""
    known: dict[str, list] = {}
    asked: list[str] = []

    def resolve(host, port, *_, **__):
        asked.append(host)
        addresses = known.get(host) or [host]
        if isinstance(addresses[0], list):
            addresses = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in one], socket.SOCK_STREAM, 6, "", (one, port, 0, 0) if ":" in one else (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    known["asked"] = asked
    return known


@pytest.fixture
def internet(monkeypatch, names):
    """A server that answers for PUBLIC, whatever the port; `reached` are the addresses that were connected to."""
    reached: list[tuple] = []
    photo = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(photo, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
            elif self.path == "/drip":
                try:
                    for _ in range(100):
                        self.wfile.write(b"H")
                        time.sleep(0.05)
                except OSError:
                    pass
            elif self.path == "/secret":
                self.send_error(418, "the secret")
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(photo.getvalue())

        def log_message(self, *_) -> None:
            """Quiet."""

    connect = socket.socket.connect
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True

        def rerouted(self, address):
            reached.append(address)
            return connect(self, ("127.0.0.1", listening.server_port) if address[0] == PUBLIC else address)

        monkeypatch.setattr(public_addresses._Socket, "connect", rerouted)
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield reached
        listening.shutdown()


def refused(url: str, **settings) -> str:
    with pytest.raises(AddressError) as caught:
        open_image(url, public_only=True, **settings)
    return str(caught.value)


def test_a_public_photo_opens_also_behind_redirections(internet, names):
    names["example.org"] = [PUBLIC]
    assert open_image("http://example.org/photo.png", public_only=True).size == (9, 7)
    assert open_image("http://example.org/to/http://example.org:443/photo.png", public_only=True).size == (9, 7)
    assert internet == [(PUBLIC, 80), (PUBLIC, 80), (PUBLIC, 443)]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], [PUBLIC, "192.168.0.1"], ["192.168.0.1", PUBLIC]]
)
def test_a_name_with_any_address_of_a_network_inside_is_refused_and_nothing_connected_to(internet, names, addresses):
    names["inside.example"] = addresses
    for url in ("http://inside.example/x.png", "https://inside.example/x.png"):
        assert "public address" in refused(url) and not any(address in refused(url) for address in addresses)
    assert internet == []


def test_a_redirection_to_a_network_inside_is_refused(internet, names):
    names["example.org"] = [PUBLIC]
    for target in ("http://127.0.0.1/", "http://[::1]/", "http://10.0.0.1:80/", "ftp://example.org/", "file:///etc/passwd", "http://example.org:22/"):
        assert "could not be fetched" in refused(f"http://example.org/to/{target}")
    assert set(internet) == {(PUBLIC, 80)}


def test_a_name_that_is_rebound_after_the_look_gains_nothing(internet, names):
    names["rebound.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert open_image("http://rebound.example/photo.png", public_only=True).size == (9, 7)
    assert internet == [(PUBLIC, 80)] and names["asked"] == ["rebound.example"]


def test_other_ports_and_proxies_are_not_used(internet, names, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    names["example.org"] = [PUBLIC]
    assert open_image("http://example.org/photo.png", public_only=True).size == (9, 7)
    refused("http://example.org:8080/photo.png")
    refused("http://example.org:22/photo.png")
    assert internet == [(PUBLIC, 80)]


def test_a_server_that_drips_its_head_is_given_up_in_time(internet, names):
    names["example.org"] = [PUBLIC]
    started = time.monotonic()
    refused("http://example.org/drip", timeout=0.3)
    assert time.monotonic() - started < 3


def test_a_server_does_not_get_its_words_into_the_message(internet, names):
    names["example.org"] = [PUBLIC]
    message = refused("http://example.org/secret")
    assert "418" in message and "the secret" not in message

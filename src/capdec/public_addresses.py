"""Fetching for strangers: urllib handlers that connect to the public internet and nowhere else, and that are done in time
(but for the looking up of a name, which takes what the system gives it).

A host's name is resolved once, every address that it has is looked at, and the connection goes to one of just those: a name that points elsewhere a
moment later gains nothing. Each redirection is a new connection, and is looked at as the first was. There is no proxy, which would resolve anew.
"""

import functools
import http.client
import ipaddress
import socket
import ssl
import time
import urllib.request
from typing import Any

PORTS = (80, 443)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
INNER = tuple(map(ipaddress.ip_network, ("fec0::/10", "3fff::/20", "192.88.99.0/24", "168.63.129.16/32")))
"""Called global by Python (3.11), and not the internet: sites' own, documentation, relays into IPv6, and what Azure tells its virtual machines."""


def handlers(seconds: float) -> list[urllib.request.BaseHandler]:
    """For http and https. All that one opener with them does, its redirections and each byte of their answers, is over in so many seconds."""
    end = time.monotonic() + seconds
    return [_HTTPHandler(end), _HTTPSHandler(end)]


def is_public(address: str) -> bool:
    """Whether an IP address is one that the whole internet reaches; an IPv6 address that wraps an IPv4 one is what it wraps.

    >>> [is_public(one) for one in ("93.184.216.34", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "2606:2800:21f::1")]
    [True, False, False, False, True]
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
    if any(ip.version == network.version and ip in network for network in INNER):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local or ip.is_unspecified)


def _connected(host: str, port: int, end: float) -> "_Socket":
    """To one of the host's addresses. Raises OSError; PermissionError where any of them, or the port, is not public."""
    if port not in PORTS:
        raise PermissionError(f"port {port} is none of {PORTS}")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found or not all(is_public(str(address[0])) for *_, address in found):
        raise PermissionError("not every address of this host is public")
    problem = OSError("no address answered")
    for family, kind, protocol, _, address in found:
        made = _Socket(family, kind, protocol)
        made.end = end
        try:
            made.settimeout(_left(end))
            made.connect(address)
            return made
        except OSError as error:
            made.close()
            problem = error
    raise problem


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left


class _Socket(socket.socket):
    """A timeout of a socket holds for each piece that arrives; this one's `end`, of time.monotonic, for all of them."""

    end: float

    def recv_into(self, *given: Any) -> int:
        self.settimeout(_left(self.end))
        return super().recv_into(*given)


class _TLSSocket(ssl.SSLSocket):
    end: float

    def recv_into(self, *given: Any) -> int:
        self.settimeout(_left(self.end))
        return super().recv_into(*given)


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    return context


class _HTTP(http.client.HTTPConnection):
    def __init__(self, host: str, end: float, **given: Any):
        super().__init__(host, **given)
        self.end = end

    def connect(self) -> None:
        self.sock = _connected(self.host, self.port, self.end)


class _HTTPS(http.client.HTTPSConnection):
    def __init__(self, host: str, end: float, **given: Any):
        super().__init__(host, context=_tls(), **given)
        self.end = end

    def connect(self) -> None:
        plain = _connected(self.host, self.port, self.end)
        try:
            secure = _tls().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        assert isinstance(secure, _TLSSocket)
        secure.end, self.sock = self.end, secure


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, end: float):
        super().__init__()
        self.end = end

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(functools.partial(_HTTP, end=self.end), request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, end: float):
        super().__init__()
        self.end = end

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(functools.partial(_HTTPS, end=self.end), request)

"""Outgoing HTTP of the platform's programs, over urllib3: connections, the retry policy, and causes of failures.

The storage's client has its own policy in `retry`. Programs with an event loop ask through aiohttp.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, Self
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import parse_url

from .common import TLS_DIR
from .tls import AUTHORITY


class Retries(urllib3.Retry):
    """Policy that repeats an idempotent request once after a lost connection, and nothing after silence or an answer.

    Longer patience belongs to the caller, who knows what else there is to do.
    """

    def increment(self, *args: Any, **options: Any) -> Self:
        if isinstance(error := options.get("error"), ReadTimeoutError):
            raise error
        return super().increment(*args, **options)


RETRIES = Retries(total=None, connect=False, read=1, other=False, redirect=False, respect_retry_after_header=False)


def inside(name: str = "", **options: Any) -> urllib3.PoolManager:
    """Return connections to the platform's own programs, which no proxy sees.

    By https the peer must prove `name`, or else the URL's host, to the authority that is mounted at the time.
    """
    named = {"ca_certs": f"{TLS_DIR}/{AUTHORITY}", "server_hostname": name or None}
    return urllib3.PoolManager(**{"retries": RETRIES, **named, **options})


def outside(url: str, proxy: str = "", **options: Any) -> urllib3.PoolManager:
    """Return connections to the server of `url`, through `proxy` or the one that the environment names for it."""
    options = {"retries": RETRIES.new(redirect=3), **options}
    if not (proxy := proxy or proxy_of(url)):
        return urllib3.PoolManager(**options)
    account = parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(account)) if account else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)


def proxy_of(url: str) -> str:
    """Return the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY choose for a URL, or nothing."""
    place = parse_url(url)
    if proxy_bypass(place.netloc or ""):
        return ""
    proxy = getproxies().get(place.scheme or "", "")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def cause(error: BaseException) -> str:
    """Return what went wrong at the root, in the same words each time: urllib3 adds the addresses of its objects."""
    while True:
        reasons = (getattr(error, "reason", None), error.__cause__, *reversed(error.args))
        deeper = next((reason for reason in reasons if isinstance(reason, BaseException)), None)
        if deeper is None or isinstance(deeper, socket.gaierror):
            break
        error = deeper
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return text.rpartition(": ")[2] if text.startswith("HTTP") else text

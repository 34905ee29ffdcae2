"""A gateway of one namespace that takes every route at once, with prepared answers for the operator."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bare import Api
from ultramarine_contract.meta import CONFIG_MAP, Manifest
from ultramarine_contract.routes import DeploymentFigures, RouteState
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import routes_in

POD = "gateway-0"


@dataclass
class Answers:
    """Answers of the gateway: the true ones, except for endpoints with prepared bytes in `odd`."""

    api: Api
    odd: dict[str, bytes] = field(default_factory=dict)
    port: int = 0

    def of(self, endpoint: str) -> bytes:
        """The body of an answer to GET /routes?endpoint=NAME."""
        return self.odd.get(endpoint) or json.dumps({"endpoints": {endpoint: self.truth(endpoint)}}).encode()

    def truth(self, endpoint: str) -> Manifest:
        """Return the routing by the present ConfigMap; each deployment is busy and has a pod."""
        answer = self.api.http.get(CONFIG_MAP.path(self.api.namespace, f"{endpoint}-routes"))
        routes = routes_in(answer.json()) if answer.is_success else None
        if routes is None:
            return RouteState(pod=POD).document()
        figures = DeploymentFigures(requests=100, rate=1.0, concurrency=1.0, latency=((1.0, 90), (2.0, 100)))
        names = [deployment.name for deployment in routes.deployments]
        ready, counted = dict.fromkeys(names, 1), dict.fromkeys(names, figures)
        return RouteState(routes.version, pod=POD, ready=ready, figures=counted).document()

    @contextmanager
    def listening(self) -> Iterator[Answers]:
        """Answer until the end of the block."""
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query).get("endpoint", [""])[0]
                body = answers.of(asked)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the output of the test clean."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

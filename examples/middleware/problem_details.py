"""Errors of an API as JSON (RFC 9457), whoever makes them, and a header that says which endpoint's answer was slow.

    aioingress.io/middleware: problem-details
    aioingress.io/middleware.problem-details: "0.5"      # seconds from which an answer counts as slow

Where the proxy itself has to answer (no endpoint, time-out, too large a body), clients get `application/problem+json` instead of a page. Nothing here guards
anything, so a failure lets the request pass.
"""

import json
import time
from http import HTTPStatus

from ingress.middleware.api import Middleware, Reply, Request, Response


class ProblemDetails(Middleware):
    name = "problem-details"
    on_failure = "pass"

    def __init__(self, config: str) -> None:
        super().__init__(config)
        try:
            self._slow_s = float(config or "1")
        except ValueError:
            raise ValueError(f"{config!r} is not a number of seconds") from None

    def on_request(self, request: Request) -> Reply | None:
        request.state[self.name] = time.monotonic()
        return None

    def on_response(self, request: Request, response: Response) -> None:
        began = request.state.get(self.name)
        if began is not None and time.monotonic() - began >= self._slow_s:
            response.headers.add("Server-Timing", f"total;dur={1000 * (time.monotonic() - began):.0f}")

    def on_error(self, request: Request, status: int) -> Reply | None:
        title = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
        problem = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "instance": f"urn:request:{request.request_id}",
        }
        return Reply(status, json.dumps(problem), content_type="application/problem+json")

"""Bound what connections that send no request cost the playground's server: their number and their time.

Uvicorn limits all connections together, and waits without an end for the headers of a request. A few hundred
connections that send one header per minute would keep everybody else out.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_WAITING = 64  # connections that have sent no complete headers; a browser opens six
HEADERS_S = 10.0  # from the connection, or from the end of the last answer, to the end of a request's headers


def bounded_protocol(*, max_waiting: int = MAX_WAITING, headers_s: float = HEADERS_S) -> type[H11Protocol]:
    """Make the protocol of one server, for the argument `http` of `uvicorn.Config`.

    A connection whose headers are not complete in time is closed. If there are more than `max_waiting` such
    connections, the one that has waited longest is closed. A connection whose request is being answered is not counted.

    Args:
        max_waiting: number of connections without complete headers.
        headers_s: time for the headers of one request, s.
    """
    waiting: dict[BoundedProtocol, asyncio.TimerHandle] = {}  # the longest waiting first

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._begin_to_wait()
            if len(waiting) > max_waiting:
                next(iter(waiting))._give_up()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()  # which takes the next request if it has already come
            self._stop_to_wait()
            self._begin_to_wait()
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_to_wait()
            super().connection_lost(exc)

        def _look(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_to_wait()

        def _begin_to_wait(self) -> None:
            if not self.transport.is_closing():
                waiting[self] = self.loop.call_later(headers_s, self._give_up)

        def _stop_to_wait(self) -> None:
            timer = waiting.pop(self, None)
            if timer is not None:
                timer.cancel()

        def _give_up(self) -> None:
            self._stop_to_wait()
            self.transport.abort()

    return BoundedProtocol

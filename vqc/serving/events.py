"""What happens, told to whoever listens: server-sent events for ``GET /v1/events``.

A listener that reads too slowly is dropped; it connects again and asks for the history.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Literal

from vqc.errors import VqcError

EventName = Literal["inspection", "review", "model", "drift"]
MOST_LISTENERS = 32
MOST_BEHIND = 256  # events that a listener may have unread
QUIET_S = 15.0  # after which a comment keeps the connection open


class TooManyListenersError(VqcError):
    """No further one is taken."""


class Events:
    """Takes events from any thread and gives them to listeners in the event loop."""

    def __init__(self) -> None:
        self._listeners: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}
        self._closed = False
        self._lock = threading.Lock()

    def publish(self, event: EventName, data: str) -> None:
        """Tell all listeners; ``data`` is JSON in one line."""
        self._send(f"event: {event}\ndata: {data}\n\n")

    def close(self) -> None:
        """End the connections of all listeners."""
        self._closed = True
        self._send(None)

    def subscribe(self) -> AsyncIterator[str]:
        """The events from now on, as text of an event stream.

        Raises:
            TooManyListenersError: there are ``MOST_LISTENERS``.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(MOST_BEHIND)
        with self._lock:
            if len(self._listeners) >= MOST_LISTENERS:
                raise TooManyListenersError(f"{MOST_LISTENERS} listeners are connected already")
            self._listeners[queue] = asyncio.get_running_loop()
        if self._closed:
            queue.put_nowait(None)
        return self._stream(queue)

    async def _stream(self, queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        try:
            yield ": connected\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), QUIET_S)
                except asyncio.TimeoutError:
                    text = ": still here\n\n"
                if text is None:
                    return
                yield text
        finally:
            with self._lock:
                self._listeners.pop(queue, None)

    def _send(self, text: str | None) -> None:
        with self._lock:
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            loop.call_soon_threadsafe(self._give, queue, text)

    def _give(self, queue: asyncio.Queue[str | None], text: str | None) -> None:
        if queue.full():
            while not queue.empty():
                queue.get_nowait()
            text = None  # the end of this connection
        queue.put_nowait(text)

"""The application: its parts, its routes, what guards them; and the process that runs it.

``create_app(settings)`` opens the parts; ``InspectionServer`` runs them until the process is told to stop.
"""

from __future__ import annotations

import mimetypes
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import Lifespan

from vqc.errors import ConfigError
from vqc.serving.challenger import attach_challenger
from vqc.serving.drift import DriftWatch
from vqc.serving.server import Serving
from vqc.serving.settings import ServingSettings
from vqc.serving.watched_folder import attach_watched_folder
from vqc.serving.web import line_routes, model_routes, problems, routes
from vqc.serving.web.security import Security
from vqc.serving.web.uploads import BodyLimit, Uploads
from vqc.serving.webhook import attach_webhook

STATIC = Path(__file__).parent / "static"
KEEP_ALIVE_S = 30
STOPPING_S = 30  # in which what is in the queue is finished


def create_app(settings: ServingSettings) -> FastAPI:
    """The application around a ``Serving``, which is its ``state.serving``.

    Raises:
        UserError: the model or the history cannot be opened.
    """
    serving = Serving(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        serving.close()

    app = build_app(lifespan=lifespan)
    app.state.serving = serving
    app.state.drift = DriftWatch(serving)
    try:
        app.state.challenger = attach_challenger(serving)
        attach_webhook(serving)
        attach_watched_folder(serving)
    except BaseException:
        serving.close()
        raise
    app.state.uploads = Uploads(settings)
    app.add_middleware(BodyLimit, serving=serving)
    app.add_middleware(Security, settings=settings)
    return app


def build_app(*, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """The routes without what is behind them: enough to describe them."""
    app = FastAPI(
        title="vqc serve",
        version="1",
        description="Looks at photographs of parts and says which are defective.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(routes.router)
    app.include_router(model_routes.router)
    app.include_router(line_routes.router)
    problems.install(app)
    if STATIC.is_dir():
        mimetypes.add_type("text/javascript", ".js")  # a registry of Windows may say text/plain, which no browser runs
        app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
    return app


class InspectionServer(uvicorn.Server):
    """The process around the application: ``run`` serves until SIGINT, SIGTERM or ``stop``, then finishes what is in
    the queue.
    """

    def __init__(self, settings: ServingSettings, *, on_start: Callable[[str], None] = lambda url: None) -> None:
        """Take the port and load the model; ``on_start`` is called with the address when requests are answered.

        Raises:
            UserError: the model or the history cannot be opened, or the port is taken.
        """
        self._listening = _listen(settings)
        try:
            app = create_app(settings)
        except BaseException:
            self._listening.close()
            raise
        self.serving: Serving = app.state.serving
        self._on_start = on_start
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOPPING_S,
            )
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._listening.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets=[self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start(self.url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Streams of events would keep their connections, and the process, for ever. Not in this thread: the signal may
        # have come while it held a lock.
        threading.Thread(target=self.serving.drain).start()
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """End ``run``, from another thread."""
        self.serving.drain()
        self.should_exit = True


def _listen(settings: ServingSettings) -> socket.socket:
    """Before the model is loaded: a port that is taken is the user's mistake."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, because asyncio sends without delay (TCP_NODELAY) only on sockets that say so: else answers wait 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name != "nt":  # there it would let two servers share a port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            "--port", [f"cannot listen at {settings.host}:{settings.port}: {error.strerror or error}"]
        ) from None
    return listening

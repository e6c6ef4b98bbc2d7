"""The experiment's server: it shows a study to participants and stores their answers.

    GET  /                  the page, and /page/... its files
    GET  /stimuli/ID.png    the study's pictures
    POST /api/session       begin; the reply has a token that authorises all further requests
    GET  /api/session       the trials to show, and the answers given so far
    POST /api/consent, /api/answer, /api/finish, /api/screen_out, /api/withdraw

The right answers leave the server only after both questions of a trial are answered, as in the
paper's experiment.

Source: paper, appendix B.
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opponent.core.errors import RunError
from opponent.study.design.study import Study
from opponent.study.server.experiment import Experiment
from opponent.study.server.guard import LIMITS, LOG, Guard, Limits, Pieces, refused
from opponent.study.server.hosts import Hosts, read_names
from opponent.study.server.site import File
from opponent.study.server.store import Store

if TYPE_CHECKING:
    from opponent.study.server.connections import Bounds

# Where answers go, and where those of a pilot do: they are no participants'.
ANSWERS, PILOT = "answers.sqlite3", "pilot.sqlite3"


def _file(file: File) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        headers = {"etag": file.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Pieces(file.content, media_type=file.type, headers=headers)

    return show


async def _nothing(request: Request) -> Response:
    """GET /favicon.ico, which browsers request by themselves."""
    return Response(status_code=204, headers={"cache-control": "max-age=86400"})


def create_app(
    study: Study | str | Path,
    *,
    files: Mapping[str, File] | None = None,
    limits: Limits | None = LIMITS,
    answers: str = ANSWERS,
    names: Iterable[str] | None = None,
) -> Starlette:
    """The server as an ASGI application.

    Args:
        study: a study, or its folder.
        files: of the page (`site.page_files`); without them there is only the interface.
        limits: of one client; None for no limits.
        answers: the file in the study's folder that answers go into.
        names: the hosts that a request may name, besides addresses and localhost; None checks
            nothing, for where another program does.
    Returns:
        The application.
    Raises:
        RunError: the study is damaged, or has changed since its first answer.
        ValueError: one of `names` is not the name of a host.
    """
    allowed = None if names is None else read_names(names)
    study = study if isinstance(study, Study) else Study(study)
    store = Store(study.folder / answers, create=True)
    try:
        experiment = Experiment(study, store, limits)
    except BaseException:
        store.close()
        raise

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        experiment.close()
        store.close()

    routes = [
        Route("/api/session", experiment.begin, methods=["POST"]),
        Route("/api/session", experiment.show, methods=["GET"]),
        Route("/api/consent", experiment.consent, methods=["POST"]),
        Route("/api/answer", experiment.answer, methods=["POST"]),
        Route("/api/finish", experiment.finish, methods=["POST"]),
        Route("/api/screen_out", experiment.screen_out, methods=["POST"]),
        Route("/api/withdraw", experiment.withdraw, methods=["POST"]),
        Route("/stimuli/{id:str}.png", experiment.stimulus, methods=["GET"]),
        Route("/favicon.ico", _nothing, methods=["GET"]),
        *(Route(path, _file(file), methods=["GET"]) for path, file in (files or {}).items()),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: refused}, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.experiment = experiment
    # The one that is added last is the outer one.
    if allowed is not None:
        app.add_middleware(Hosts, names=allowed)
    app.add_middleware(Guard, limits=limits)
    return app


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    """A socket for which, from here on, clients wait instead of being refused."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise RunError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    return listener


def serve(
    study: Study | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    files: Mapping[str, File] | None = None,
    limits: Limits | None = LIMITS,
    proxy: str | None = None,
    answers: str = ANSWERS,
    names: Iterable[str] = (),
    bounds: "Bounds | None" = None,
) -> None:
    """Serve a study until Ctrl-C.

    Args:
        study: a study, or its folder.
        host: the address to listen at.
        port: to listen at; 0 takes a free one, which the log names.
        files: of the page (`site.page_files`); without them there is only the interface.
        limits: of one client; None for no limits.
        proxy: the address of a reverse proxy. Only its X-Forwarded-For header is believed.
        answers: the file in the study's folder that answers go into.
        names: the names by which participants reach the server. Requests to others are refused;
            addresses and localhost are always allowed.
        bounds: of connections; None for `connections.BOUNDS`. Where the process may not open as
            many files, there are fewer connections.
    Raises:
        RunError: the study cannot be served, or the address cannot be listened at.
        ValueError: one of `names` is not the name of a host.
    """
    import uvicorn

    from opponent.study.server.connections import BOUNDS, Book, watched, within_files

    app = create_app(study, files=files, limits=limits, answers=answers, names=names)
    bounds = within_files(bounds or BOUNDS)
    listener = _listen(host, port, bounds.backlog)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=watched(Book(bounds, proxy)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=proxy is not None,
        forwarded_allow_ips=proxy,
        backlog=bounds.backlog,
        timeout_graceful_shutdown=5,
    )
    shown = f"[{host}]" if ":" in host else host
    LOG.info("serving at http://%s:%d/", shown, listener.getsockname()[1])
    with listener, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])

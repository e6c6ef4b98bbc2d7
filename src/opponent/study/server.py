"""The experiment's server: it shows a study to participants and stores what they answer.

    GET  /                  the page, and /page/... its files
    GET  /stimuli/ID.png    the study's pictures
    POST /api/session       begin; answers with a token that authorises all that follows
    GET  /api/session       what to show, and what is answered already
    POST /api/consent, /api/answer, /api/finish, /api/screen_out, /api/withdraw

Which image is right never leaves the server before the trial is answered. The right answers are
told after both questions of a trial, as in the paper's experiment.

Source: paper, appendix B.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from opponent.core.errors import RunError
from opponent.study.forms import ANSWER, CONSENT, SCREENING, SESSION, fields
from opponent.study.guard import LIMITS, LOG, Buckets, Guard, Limits, Refusal, refused
from opponent.study.site import File
from opponent.study.store import Answer, Participant, Refused, Store
from opponent.study.study import QUESTIONS, Shown, Study
from opponent.study.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

MAX_AGENT = 400
BACKLOG = 1024


class Experiment:
    """A study being run: what each request does.

    Args:
        study: what is shown.
        store: where answers go.
        limits: what one session may ask.
    Raises:
        RunError: the study is not the one that was answered before, or cannot be shown.
    """

    def __init__(self, study: Study, store: Store, limits: Limits | None) -> None:
        self.study, self.store = study, store
        self.fingerprint = study.fingerprint()
        self.settings = study.settings
        self._check()
        self.per_session = limits and Buckets(limits.session, limits.clients)
        self._writer = Writer(store)
        self.blocks = lru_cache(maxsize=512)(study.session)

    def _check(self) -> None:
        before = self.store.fingerprint()
        if before is not None and before != self.fingerprint:
            raise RunError(
                f"{self.study.folder} has changed since its first answer: study.json or "
                "trials.parquet is not what was answered; put them back, or move "
                f"{self.store.path.name} away to begin a new study"
            )
        url = self.settings["completion_url"]
        if url and not (isinstance(url, str) and re.match("https?://[^/]", url)):
            raise RunError(f"completion_url in study.json is {url!r}: not an http(s) address")

    def session(self, number: int) -> tuple[Shown, ...]:
        """The trials of the participant of that number, in order."""
        return tuple(shown for block in self.blocks(number) for shown in block.trials)

    async def stored(self, act: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What the store does, told when it is on the disk."""
        try:
            return await self._writer.do(lambda: act(*given, **named))
        except Refused as error:
            raise Refusal(409, error.reason, str(error), stored=error.stored) from None

    async def who(self, request: Request) -> Participant:
        """Who asks, by the token.

        Raises:
            Refusal: there is none, it is nobody's, or it asks too much.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        found = None
        if scheme.lower() == "bearer" and re.fullmatch(r"[A-Za-z0-9_-]{43}", token):
            found = await self.stored(self.store.find, token)
        if found is None:
            raise Refusal(401, "token", "there is no session with that token")
        if self.per_session and (wait := self.per_session.wait(found.id)):
            raise Refusal(429, "rate", "too many requests in one session", wait=wait)
        return found

    def close(self) -> None:
        """Finish what is being stored."""
        self._writer.close()

    # What is asked

    async def begin(self, request: Request) -> Response:
        """POST /api/session."""
        data = await fields(request, SESSION, *SESSION)
        agent = request.headers.get("user-agent", "")
        browser = {"user_agent": "".join(x if x.isprintable() else "?" for x in agent)[:MAX_AGENT]}
        token, participant = await self.stored(
            self.store.start,
            prolific_pid=data.get("PROLIFIC_PID", ""),
            study_id=data.get("STUDY_ID", ""),
            session_id=data.get("SESSION_ID", ""),
            browser=browser | data.get("browser", {}),
        )
        return JSONResponse({"token": token, "state": participant.state}, status_code=201)

    async def show(self, request: Request) -> Response:
        """GET /api/session."""
        participant = await self.who(request)
        given = await self.stored(self.store.given, participant.id)
        consent = self.settings["consent"]
        about = {
            "title": self.settings["title"],
            "state": participant.state,
            "consent": {
                "version": str(consent["version"]),
                "text": consent["text"],
                "given": participant.consented,
            },
            "breaks": bool(self.settings["breaks"]),
            "min_window": list(self.settings["min_window"]),
            "from_prolific": participant.from_prolific,
        }
        if participant.state != "started":
            return JSONResponse(about | {"end": self._end(participant, participant.state)})
        # A catch trial must look like any other.
        blocks = [
            {
                "practice": block.layer == "practice",
                "trials": [
                    {"trial": x.trial.id, "examples": x.examples, "choices": x.choices}
                    for x in block.trials
                ],
            }
            for block in self.blocks(participant.number)
        ]
        answers = [{"trial": x.trial, "question": x.question, "choice": x.choice} for x in given]
        trials = dict.fromkeys(x.trial for x in given)
        feedback = {id: told for id in trials if (told := self._feedback(id, given))}
        return JSONResponse(about | {"blocks": blocks, "answers": answers, "feedback": feedback})

    def _feedback(self, trial: str, given: list[Answer]) -> dict[str, Any] | None:
        """What was right in a trial, once both its questions are answered."""
        answers = [x for x in given if x.trial == trial]
        if len(answers) < len(QUESTIONS):
            return None
        right = self.study.trial(trial)
        return {
            x.question: {
                "choice": x.choice,
                "correct": x.correct,
                "right_choice": right.answer(x.question),
            }
            for x in answers
        }

    async def consent(self, request: Request) -> Response:
        """POST /api/consent."""
        participant = await self.who(request)
        data = await fields(request, CONSENT)
        if data["version"] != str(self.settings["consent"]["version"]):
            raise Refusal(409, "version", "that is not the consent's present version")
        state = await self.stored(
            self.store.consent, participant.id, data["version"], data["agreed"]
        )
        return JSONResponse(self._end(participant, state))

    async def answer(self, request: Request) -> Response:
        """POST /api/answer."""
        participant = await self.who(request)
        data = await fields(request, ANSWER, "shown_at")
        given = await self.stored(
            self.store.answer,
            participant.id,
            self.session(participant.number),
            fingerprint=self.fingerprint,
            **data,
        )
        feedback = self._feedback(data["trial"], given)
        told = feedback[data["question"]] if feedback else {"correct": None, "right_choice": None}
        return JSONResponse(
            {
                "stored": {key: data[key] for key in ("trial", "question", "choice")},
                "correct": told["correct"],
                "right_choice": told["right_choice"],
                "feedback": feedback,
            }
        )

    async def finish(self, request: Request) -> Response:
        """POST /api/finish."""
        participant = await self.who(request)
        wanted = len(QUESTIONS) * len(self.session(participant.number))
        state = await self.stored(self.store.end, participant.id, "complete", answers=wanted)
        return JSONResponse(self._end(participant, state))

    async def screen_out(self, request: Request) -> Response:
        """POST /api/screen_out."""
        participant = await self.who(request)
        await fields(request, SCREENING)
        state = await self.stored(self.store.end, participant.id, "screened_out")
        return JSONResponse(self._end(participant, state))

    async def withdraw(self, request: Request) -> Response:
        """POST /api/withdraw."""
        participant = await self.who(request)
        state = await self.stored(self.store.end, participant.id, "withdrawn")
        return JSONResponse(self._end(participant, state))

    def _end(self, participant: Participant, state: str) -> dict[str, Any]:
        """How a session ended, and where its participant goes with which code.

        Who withdraws takes their consent back, and goes with the code for no consent.
        """
        # What the study is about is told to those who have seen it, not before.
        debriefing = self.settings["debriefing"] if state in ("complete", "withdrawn") else None
        code = redirect = None
        if state != "started" and participant.from_prolific:
            key = "no_consent" if state == "withdrawn" else state
            code = self.settings["codes"].get(key) or None
            url = self.settings["completion_url"]
            redirect = url.replace("{code}", quote(code, safe="")) if url and code else None
        return {"state": state, "redirect": redirect, "code": code, "debriefing": debriefing}

    async def stimulus(self, request: Request) -> Response:
        """GET /stimuli/ID.png: looked up among the study's, never made into a path."""
        id = request.path_params["id"]
        if id not in self.study.stimuli:
            raise Refusal(404, "stimulus", "the study has no such picture")
        keep = {"cache-control": "private, max-age=86400, immutable"}
        return FileResponse(self.study.stimulus(id), media_type="image/png", headers=keep)


def _file(file: File) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        headers = {"etag": file.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.type, headers=headers)

    return show


async def _nothing(request: Request) -> Response:
    """GET /favicon.ico, which browsers ask for by themselves."""
    return Response(status_code=204, headers={"cache-control": "max-age=86400"})


def create_app(
    study: Study | str | Path,
    *,
    files: Mapping[str, File] | None = None,
    limits: Limits | None = LIMITS,
) -> Starlette:
    """The server as an ASGI application; answers go into the study's `answers.sqlite3`.

    Args:
        study: a study, or its folder.
        files: of the page (`site.page_files`); without them there is only the interface.
        limits: how much one client may ask; None for no limits.
    Raises:
        RunError: the study is damaged, or not the one that was answered before.
    """
    study = study if isinstance(study, Study) else Study(study)
    store = Store(study.folder / "answers.sqlite3", create=True)
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
    app.add_middleware(Guard, limits=limits)
    return app


def serve(
    study: Study | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    files: Mapping[str, File] | None = None,
    limits: Limits | None = LIMITS,
    proxy: str | None = None,
) -> None:
    """Serve a study until Ctrl-C.

    Args:
        study: a study, or its folder.
        host, port: where to listen; port 0 takes a free one, which the log names.
        files: of the page.
        limits: how much one client may ask.
        proxy: the address of a reverse proxy, whose word on who the client is (X-Forwarded-For) is
            taken; without one that header is not believed.
    Raises:
        RunError: the study cannot be served, or the address cannot be listened to.
    """
    import socket

    import uvicorn

    app = create_app(study, files=files, limits=limits)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # From here on clients wait for the server instead of being refused.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise RunError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=proxy is not None,
        forwarded_allow_ips=proxy,
        # Files that a process may hold open are often 1,024.
        limit_concurrency=900,
        backlog=BACKLOG,
        timeout_graceful_shutdown=5,
    )
    shown = f"[{host}]" if ":" in host else host
    LOG.info("serving at http://%s:%d/", shown, listener.getsockname()[1])
    with listener, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])

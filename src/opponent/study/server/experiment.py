"""A study that is being run: the reply to each request of the interface."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar
from urllib.parse import quote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from opponent.core.errors import RunError
from opponent.study.design.settings import QUESTIONS
from opponent.study.design.study import Shown, Study
from opponent.study.server.forms import (
    AnswerForm,
    ConsentForm,
    ScreeningForm,
    SessionForm,
    read_form,
)
from opponent.study.server.guard import Buckets, Limits, Pieces, Refusal
from opponent.study.server.store import Answer, Participant, Refused, Store
from opponent.study.server.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

# Characters of the browser's name that are kept.
MAX_AGENT = 400


class Experiment:
    """A study that is being run: the reply to each request.

    Args:
        study: what participants see.
        store: where their answers go.
        limits: of one session; None for no limits.
    Raises:
        RunError: the study has changed since its first answer, or cannot be shown.
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
        url = self.settings.completion_url
        if url and not re.match("https?://[^/]", url):
            raise RunError(f"completion_url in study.json is {url!r}: not an http(s) address")

    def session(self, number: int) -> tuple[Shown, ...]:
        """The trials that a participant sees, in order.

        Args:
            number: of the participant.
        """
        return tuple(shown for block in self.blocks(number) for shown in block.trials)

    async def stored(self, act: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Run an action of the store, and return its result once it is on the disk.

        Args:
            act: a method of the store.
            given, named: what it is called with.
        Raises:
            Refusal: the store refuses.
        """
        try:
            return await self._writer.do(lambda: act(*given, **named))
        except Refused as error:
            raise Refusal(409, error.reason, str(error), stored=error.stored) from None

    async def participant(self, request: Request) -> Participant:
        """The participant whose token the request has.

        Raises:
            Refusal: there is no valid token, or too many requests came with it.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        participant = None
        if scheme.lower() == "bearer" and re.fullmatch(r"[A-Za-z0-9_-]{43}", token):
            participant = await self.stored(self.store.find, token)
        if participant is None:
            raise Refusal(401, "token", "there is no session with that token")
        if self.per_session and (wait := self.per_session.wait(participant.id)):
            raise Refusal(429, "rate", "too many requests in one session", wait=wait)
        return participant

    def close(self) -> None:
        """Finish what is being stored."""
        self._writer.close()

    # Requests

    async def begin(self, request: Request) -> Response:
        """POST /api/session."""
        form = await read_form(request, SessionForm)
        agent = request.headers.get("user-agent", "")
        browser = {"user_agent": "".join(x if x.isprintable() else "?" for x in agent)[:MAX_AGENT]}
        token, participant = await self.stored(
            self.store.start,
            prolific_pid=form.prolific_pid,
            study_id=form.study_id,
            session_id=form.session_id,
            browser=browser | msgspec.to_builtins(form.browser),
        )
        return JSONResponse({"token": token, "state": participant.state}, status_code=201)

    async def show(self, request: Request) -> Response:
        """GET /api/session."""
        participant = await self.participant(request)
        given = await self.stored(self.store.given, participant.id)
        consent = self.settings.consent
        about = {
            "title": self.settings.title,
            "state": participant.state,
            "consent": {
                "version": str(consent.version),
                "text": consent.text,
                "given": participant.consented,
            },
            "breaks": self.settings.breaks,
            "min_window": self.settings.min_window,
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
        feedback = {id: right for id in trials if (right := self._feedback(id, given))}
        return JSONResponse(about | {"blocks": blocks, "answers": answers, "feedback": feedback})

    def _feedback(self, trial: str, given: list[Answer]) -> dict[str, dict[str, object]] | None:
        """The right answers of a trial, once both its questions are answered; None before."""
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
        participant = await self.participant(request)
        form = await read_form(request, ConsentForm)
        if form.version != str(self.settings.consent.version):
            raise Refusal(409, "version", "that is not the consent's present version")
        state = await self.stored(self.store.consent, participant.id, form.version, form.agreed)
        return JSONResponse(self._end(participant, state))

    async def answer(self, request: Request) -> Response:
        """POST /api/answer."""
        participant = await self.participant(request)
        form = await read_form(request, AnswerForm)
        given = await self.stored(
            self.store.answer,
            participant.id,
            self.session(participant.number),
            trial=form.trial,
            question=form.question,
            choice=form.choice,
            reaction_ms=form.reaction_ms,
            shown_at=form.shown_at or None,
            fingerprint=self.fingerprint,
        )
        feedback = self._feedback(form.trial, given)
        right = feedback[form.question] if feedback else {"correct": None, "right_choice": None}
        return JSONResponse(
            {
                "stored": {
                    "trial": form.trial, "question": form.question, "choice": form.choice,
                },
                "correct": right["correct"],
                "right_choice": right["right_choice"],
                "feedback": feedback,
            }
        )  # fmt: skip

    async def finish(self, request: Request) -> Response:
        """POST /api/finish."""
        participant = await self.participant(request)
        expected = len(QUESTIONS) * len(self.session(participant.number))
        state = await self.stored(self.store.end, participant.id, "complete", answers=expected)
        return JSONResponse(self._end(participant, state))

    async def screen_out(self, request: Request) -> Response:
        """POST /api/screen_out."""
        participant = await self.participant(request)
        await read_form(request, ScreeningForm)
        state = await self.stored(self.store.end, participant.id, "screened_out")
        return JSONResponse(self._end(participant, state))

    async def withdraw(self, request: Request) -> Response:
        """POST /api/withdraw."""
        participant = await self.participant(request)
        state = await self.stored(self.store.end, participant.id, "withdrawn")
        return JSONResponse(self._end(participant, state))

    def _end(self, participant: Participant, state: str) -> dict[str, str | None]:
        """How a session ended, and the code and address with which its participant returns.

        A participant who withdraws takes their consent back, and gets the code for no consent.
        """
        # Participants read what the study is about once they have seen it, not before.
        debriefing = self.settings.debriefing if state in ("complete", "withdrawn") else None
        code = redirect = None
        if state != "started" and participant.from_prolific:
            codes = self.settings.codes
            code = {
                "complete": codes.complete,
                "screened_out": codes.screened_out,
                "no_consent": codes.no_consent,
                "withdrawn": codes.no_consent,
            }[state] or None
            url = self.settings.completion_url
            redirect = url.replace("{code}", quote(code, safe="")) if url and code else None
        return {"state": state, "redirect": redirect, "code": code, "debriefing": debriefing}

    async def stimulus(self, request: Request) -> Response:
        """GET /stimuli/ID.png: the id is looked up in the study, never used as a path."""
        id = request.path_params["id"]
        if id not in self.study.stimuli:
            raise Refusal(404, "stimulus", "the study has no such picture")
        # Without the file's time and an ETag made of it: the order of writing tells the answers.
        headers = {"cache-control": "private, max-age=86400, immutable"}
        data = await run_in_threadpool(self.study.stimulus(id).read_bytes)
        return Pieces(data, media_type="image/png", headers=headers)

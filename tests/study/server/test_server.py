"""The experiment's server: sessions by its interface."""

import asyncio
from pathlib import Path

import httpx
import pytest
from tests.support.session import begin, body, shown, within
from tests.support.study import small_study

from opponent.core.errors import RunError
from opponent.study.design.study import Study
from opponent.study.server.server import create_app
from opponent.study.server.store import Store


def test_a_session_from_consent_to_the_redirect(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c, PROLIFIC_PID="5f1e", STUDY_ID="s1", SESSION_ID="x1")
        trials = await shown(c, header)
        for trial in trials:
            right = study.trial(trial["trial"])
            first = await c.post("/api/answer", json=body(trial, "mei", 2), headers=header)
            # The first answer's truth would help with the second.
            assert first.json()["feedback"] is None
            assert first.json()["correct"] is None
            reply = await c.post("/api/answer", json=body(trial, "mii", 5), headers=header)
            answer = reply.json()
            assert answer["stored"]["choice"] == trial["choices"][5]
            assert answer["correct"] == (trial["choices"][5] == right.mii)
            assert answer["right_choice"] == right.mii
            assert answer["feedback"] == {
                name: {
                    "choice": trial["choices"][place],
                    "correct": trial["choices"][place] == right.answer(name),
                    "right_choice": right.answer(name),
                }
                for name, place in (("mei", 2), ("mii", 5))
            }
        end = await c.post("/api/finish", headers=header)
        assert end.json() == {
            "state": "complete",
            "code": "C0MPLETE",
            "redirect": "https://app.prolific.com/submissions/complete?cc=C0MPLETE",
            "debriefing": study.settings.debriefing,
        }
        assert (await c.post("/api/finish", headers=header)).json() == end.json()
        again = (await c.get("/api/session", headers=header)).json()
        assert again["end"] == end.json()

    with Store(study.folder / "answers.sqlite3") as store:
        rows = store.answers().to_pylist()
        (person,) = store.participants().to_pylist()
    assert [(x["question"], x["place"]) for x in rows] == [("mei", 2), ("mii", 5)] * (
        len(rows) // 2
    )
    assert {x["shown_at"] for x in rows} == {"2026-01-02T03:04:05.678Z"}
    assert {x["reaction_ms"] for x in rows} == {1234}
    assert len(rows) == 2 * len(study.trials)
    assert person["state"] == "complete"


def test_each_end_has_its_own_code(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        url = "https://app.prolific.com/submissions/complete?cc="
        header = await begin(c, consent=False, PROLIFIC_PID="a")
        reply = await c.post("/api/consent", json={"version": "1", "agreed": False}, headers=header)
        assert reply.json()["redirect"] == url + "NOCONSENT"
        # Who has seen nothing is told nothing.
        assert reply.json()["debriefing"] is None
        header = await begin(c, PROLIFIC_PID="b")
        reply = await c.post("/api/screen_out", json={"reason": "window"}, headers=header)
        assert reply.json()["redirect"] == url + "SCREENED"
        header = await begin(c, PROLIFIC_PID="c")
        reply = await c.post("/api/withdraw", headers=header)
        assert (reply.json()["state"], reply.json()["code"]) == ("withdrawn", "NOCONSENT")
        # Who does not come from Prolific is not sent there.
        header = await begin(c)
        reply = await c.post("/api/withdraw", headers=header)
        assert (reply.json()["code"], reply.json()["redirect"]) == (None, None)

    with Store(study.folder / "answers.sqlite3") as store:
        states = store.participants().column("state").to_pylist()
    assert states == ["no_consent", "screened_out", "withdrawn", "withdrawn"]


def test_the_page_never_learns_which_is_right(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        reply = await c.get("/api/session", headers=await begin(c))
        data = reply.json()
        expected = study.session(0)
        assert [x["practice"] for x in data["blocks"]] == [True, False, False, False]
        for block, want in zip(data["blocks"], expected, strict=True):
            assert set(block) == {"practice", "trials"}
            for trial, expected_trial in zip(block["trials"], want.trials, strict=True):
                assert trial == {
                    "trial": expected_trial.trial.id,
                    "examples": list(expected_trial.examples),
                    "choices": list(expected_trial.choices),
                }
        text = reply.text
        for word in ("catch", "mixed4a", "kmeans", study.settings.debriefing, "C0MPLETE"):
            assert word not in text


def test_a_reload_sees_what_is_stored(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        first, second = (await shown(c, header))[:2]
        for trial, question, place in ((first, "mei", 1), (first, "mii", 0), (second, "mei", 8)):
            sent = body(trial, question, place)
            assert (await c.post("/api/answer", json=sent, headers=header)).status_code == 200
        data = (await c.get("/api/session", headers=header)).json()
        assert data["answers"] == [
            {"trial": first["trial"], "question": "mei", "choice": first["choices"][1]},
            {"trial": first["trial"], "question": "mii", "choice": first["choices"][0]},
            {"trial": second["trial"], "question": "mei", "choice": second["choices"][8]},
        ]
        assert list(data["feedback"]) == [first["trial"]]


def test_sent_twice_is_stored_once(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        trial = (await shown(c, header))[0]
        sent = body(trial, "mei", 1)
        replies = await asyncio.gather(
            *(c.post("/api/answer", json=sent, headers=header) for _ in range(10))
        )
        assert {x.status_code for x in replies} == {200}
        assert len({x.text for x in replies}) == 1
        other = await c.post("/api/answer", json=body(trial, "mei", 2), headers=header)
        assert other.status_code == 409
        assert other.json()["error"] == "conflict"
        assert other.json()["stored"] == trial["choices"][1]

    with Store(study.folder / "answers.sqlite3") as store:
        assert len(store.answers()) == 1


def test_a_changed_study_is_not_served(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        await begin(c)

    path = study.folder / "study.json"
    changed = path.read_text().replace("C0MPLETE", "C1")
    path.write_text(changed)

    @within(Study(study.folder))
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        trial = (await shown(c, header))[0]
        await c.post("/api/answer", json=body(trial, "mei", 2), headers=header)

    create_app(study.folder).state.experiment.close()
    path.write_text(changed.replace("C1", "C2"))
    with pytest.raises(RunError, match="has changed since its first answer"):
        create_app(study.folder)


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", features=1, completion_url="javascript:alert(1)")
    with pytest.raises(RunError, match="not an http"):
        create_app(study)

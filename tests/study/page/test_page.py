"""The experiment's page in a real browser: a participant from consent to the redirect.

jsPsych comes from npm: `npm ci --ignore-scripts --prefix src/opponent/study/page`, or lies in a
folder that OPPONENT_JSPSYCH names.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route
from tests.support.server import Server
from tests.support.study import small_study
from tests.support.visit import FREE, RETURN, Visit

from opponent.study.server.guard import Limits
from opponent.study.server.site import File

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
IDS = "?PROLIFIC_PID={}&STUDY_ID=s1&SESSION_ID=x1"
UNLIMITED = Limits(calls=(1e6, 1e6), sessions=(1e6, 1e6), session=(1e6, 1e6), files=(1e6, 1e6))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: dict[str, File]) -> Iterator[Server]:
    """A study whose texts are hostile, being served."""
    folder = tmp_path_factory.mktemp("page") / "study"
    small_study(
        folder,
        features=1,
        layers=("conv2d0", "mixed5a"),
        title=f"Title {HOSTILE}",
        consent={"version": "v1", "text": f"Consent {HOSTILE}\n\nA second paragraph."},
        debriefing=f"Debriefing {HOSTILE}",
    )
    with Server(folder, files=files, limits=UNLIMITED) as server:
        yield server


@pytest.mark.slow
def test_a_whole_session(browser: Browser, server: Server) -> None:
    """Practice until right, trials by mouse and keyboard, a reload amid a trial, the redirect."""
    with Visit(browser, server, IDS.format("whole")) as visit:
        page = visit.page
        assert visit.title() == f"Title {HOSTILE}"
        assert f"Consent {HOSTILE}" in page.inner_text("main")
        visit.to_practice()

        # Wrong first: it is told, and the practice goes on until it is right.
        mei, mii = visit.places()
        wrong = [place for place in range(9) if place not in (mei, mii)]
        visit.answer("mei", wrong[0])
        page.wait_for_selector(".cell.first")
        first = page.locator(".choices .cell").nth(wrong[0])
        assert first.is_disabled()
        assert first.get_attribute("aria-label") == f"Image {wrong[0] + 1}, your 1st answer"
        # What was chosen first cannot be chosen again, by no key either.
        page.wait_for_selector(FREE)
        page.keyboard.press(str(wrong[0] + 1))
        assert page.locator(".confirm").is_disabled()
        visit.answer("mii", wrong[1])
        page.wait_for_selector(".cell.told")
        assert visit.page.inner_text(".ask h1") == "Neither was right."
        marks = page.locator(".choices .cell")
        assert marks.nth(mei).get_attribute("aria-label") == f"Image {mei + 1}, excites most"
        assert marks.nth(mii).get_attribute("aria-label") == f"Image {mii + 1}, inhibits most"
        assert (
            marks.nth(wrong[1]).get_attribute("aria-label") == f"Image {wrong[1] + 1}, ✗ your 2nd"
        )
        visit.press("Try again")
        visit.answer_both(mei, mii, keys=True)
        assert visit.page.inner_text(".ask h1") == "Both are right."
        page.keyboard.press("Enter")
        visit.press("Start part 1")

        number = next(iter(visit.stored("whole")[1].values()))["number"]
        shown = [x for block in visit.study.session(number) for x in block.trials][1:]
        for i, shown_trial in enumerate(shown):
            assert visit.trial() == shown_trial.trial.id
            assert visit.choices() == list(shown_trial.choices)
            if i == 1:
                # Between the two questions of a trial.
                visit.answer("mei", 3)
                page.wait_for_selector(".cell.first")
                page.wait_for_selector(FREE)
                page.reload()
                assert visit.title() == "Welcome back"
                assert "finished 1 of 4 sets" in page.inner_text("main")
                visit.press("Continue")
                page.wait_for_selector(FREE)
                assert page.locator(".choices .cell").nth(3).is_disabled()
                visit.answer("mii", 7)
                page.wait_for_selector(".cell.told")
            else:
                visit.answer_both((2 * i) % 9, (2 * i + 4) % 9, keys=i % 2 == 0)
            assert "stored" in page.inner_text(".step")
            visit.press("Continue")
            if i == 1:
                assert visit.title() == "Part 1 of 2 is done"
                assert "2 of 4 sets of images are done" in page.inner_text("main")
                visit.press("Start part 2")

        page.wait_for_selector("#return")
        assert f"Debriefing {HOSTILE}" in page.inner_text("main")
        state, stored = visit.stored("whole")
        assert state == "complete"
        assert {key: row["choice"] for key, row in stored.items()} == visit.clicked
        assert len(stored) == 2 * len(visit.study.trials)
        for key, row in stored.items():
            assert row["correct"] == (row["choice"] == visit.study.trial(key[0]).answer(key[1]))
            assert 0 < row["reaction_ms"] < 60_000
            assert row["shown_at"] < row["answered_at"]
        # The end outlives a reload, and leads back.
        page.reload()
        page.click("#return")
        page.wait_for_url(f"{RETURN}C0MPLETE")
        assert visit.complaints == []
        assert visit.outside() == []


def test_the_keyboard_is_enough(browser: Browser, server: Server) -> None:
    """With a focus that is seen; consent is not given by Enter alone."""
    with Visit(browser, server, IDS.format("keys")) as visit:
        page = visit.page
        page.wait_for_selector("main h1")
        page.keyboard.press("Enter")
        assert "Consent" in page.inner_text("main")
        page.keyboard.press("Tab")
        for title in ("What this is about", "What you do", "Practice first"):
            page.keyboard.press("Enter")
            page.get_by_role("heading", name=title).wait_for()
        page.keyboard.press("Enter")
        page.wait_for_selector(FREE)
        page.keyboard.press("5")
        focused = page.locator(".choices .cell:focus-visible")
        assert focused.get_attribute("aria-label") == "Image 5, your choice"
        outline = focused.evaluate("x => getComputedStyle(x).outlineStyle")
        assert outline == "solid"
        # Arrows move the focus and choose nothing; Enter chooses, and once more confirms.
        page.keyboard.press("ArrowUp")
        assert focused.get_attribute("aria-label") == "Image 2"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert focused.get_attribute("aria-label") == "Image 3"
        assert page.locator(".chosen").get_attribute("aria-label") == "Image 5, your choice"
        page.keyboard.press("Enter")
        assert page.locator(".chosen").get_attribute("aria-label") == "Image 3, your choice"
        page.keyboard.press("Enter")
        page.wait_for_selector(".cell.first")
        assert page.locator(".cell.first").get_attribute("aria-label") == "Image 3, your 1st answer"
        _, stored = visit.stored("keys")
        assert [row["place"] for row in stored.values()] == [2]
        assert visit.complaints == []


def test_an_answer_is_sent_until_it_is_stored(browser: Browser, server: Server) -> None:
    """Nothing is told as stored while the network is away, nor is anything lost."""
    with Visit(browser, server, IDS.format("offline")) as visit:
        page = visit.page
        visit.to_practice()
        visit.choices()
        visit.context.set_offline(True)
        visit.answer("mei", 4)
        page.wait_for_selector("#network:not([hidden])")
        assert "Your last answer is not stored yet" in page.inner_text("#network")
        assert page.locator(".cell.first").count() == 0
        assert visit.stored("offline")[1] == {}
        visit.context.set_offline(False)
        page.wait_for_selector(".cell.first")
        assert page.locator("#network").is_hidden()
        assert [x["place"] for x in visit.stored("offline")[1].values()] == [4]
        assert all("ERR_INTERNET_DISCONNECTED" in x for x in visit.complaints)


def test_a_reply_that_is_lost_does_no_harm(browser: Browser, server: Server) -> None:
    """The server stored the answer, and its word did not arrive: the same is sent again."""
    with Visit(browser, server, IDS.format("lost")) as visit:
        lost: list[str] = []

        def lose(route: Route) -> None:
            if lost:
                route.continue_()
            else:
                lost.append(route.fetch().text())
                route.abort()

        visit.context.route("**/api/answer", lose)
        visit.to_practice()
        visit.answer("mei", 6)
        visit.page.wait_for_selector(".cell.first")
        assert len(lost) == 1
        assert [x["place"] for x in visit.stored("lost")[1].values()] == [6]


def test_one_may_stop_at_any_time(browser: Browser, server: Server) -> None:
    with Visit(browser, server, IDS.format("stop")) as visit:
        page = visit.page
        visit.to_practice()
        visit.answer("mei", 0)
        page.wait_for_selector(".cell.first")
        visit.press("Stop taking part")
        # Keys do not reach the trial behind.
        page.keyboard.press("3")
        visit.press("Go on with the study")
        assert page.locator(".chosen").count() == 0
        visit.press("Stop taking part")
        visit.press("Stop and delete my answers")
        page.wait_for_selector("#return")
        assert visit.title() == "You have stopped"
        assert visit.stored("stop") == ("withdrawn", {})
        page.click("#return")
        page.wait_for_url(f"{RETURN}NOCONSENT")


def test_one_need_not_take_part(browser: Browser, server: Server) -> None:
    with Visit(browser, server, IDS.format("no")) as visit:
        visit.press("I do not want to take part")
        visit.page.wait_for_selector("#return")
        assert visit.title() == "You do not take part"
        assert "Debriefing" not in visit.page.inner_text("main")
        assert visit.stored("no") == ("no_consent", {})


def test_a_small_window_is_told_and_may_grow(browser: Browser, server: Server) -> None:
    for pid, grows in (("grows", True), ("small", False)):
        with Visit(browser, server, IDS.format(pid)) as visit:
            visit.page.set_viewport_size({"width": 900, "height": 500})
            visit.press("I agree, and want to take part")
            visit.page.wait_for_selector("#size")
            assert visit.page.inner_text("#size") == "900 × 500"
            if grows:
                visit.page.set_viewport_size({"width": 1024, "height": 640})
                visit.page.get_by_role("heading", name="What this is about").wait_for()
                assert visit.stored(pid)[0] == "started"
            else:
                visit.press("I cannot make it larger")
                visit.page.wait_for_selector("#return")
                assert visit.stored(pid)[0] == "screened_out"


def test_pictures_that_do_not_load_are_tried_again(browser: Browser, server: Server) -> None:
    with Visit(browser, server, IDS.format("pictures")) as visit:
        visit.context.route("**/stimuli/*.png", lambda route: route.abort())
        visit.press("I agree, and want to take part")
        visit.press("Continue")
        visit.press("Continue")
        visit.page.get_by_role("heading", name="Some images could not be loaded").wait_for()
        visit.context.unroute("**/stimuli/*.png")
        visit.press("Try again")
        visit.press("Start the practice")
        visit.page.wait_for_selector(FREE)
        broken = "x => x.filter(y => !y.naturalWidth).length"
        assert visit.page.eval_on_selector_all("img", broken) == 0


def test_a_session_is_not_taken_over(browser: Browser, server: Server) -> None:
    """Who knows the link of one who has answered sees nothing of theirs; a bad link is told."""
    with Visit(browser, server, IDS.format("mine")) as visit:
        visit.to_practice()
        visit.answer("mei", 0)
        visit.page.wait_for_selector(".cell.first")
        with Visit(browser, server, IDS.format("mine")) as other:
            other.page.get_by_role("heading", name="You have already started").wait_for()
        with Visit(browser, server, "?PROLIFIC_PID={{%25PROLIFIC_PID%25}}") as bad:
            bad.page.get_by_role("heading", name="This link is not complete").wait_for()
        with Visit(browser, server, f"?PROLIFIC_PID={HOSTILE}") as bad:
            bad.page.get_by_role("heading", name="This link is not complete").wait_for()
            assert all("400" in x for x in bad.complaints)
        # The first goes on as if nothing had been.
        visit.answer("mii", 1)
        visit.page.wait_for_selector(".cell.told")


def test_two_windows_cannot_answer_differently(browser: Browser, server: Server) -> None:
    with Visit(browser, server, IDS.format("two")) as visit:
        visit.to_practice()
        visit.choices()
        second = visit.context.new_page()
        second.goto(visit.page.url)
        for text in ("Continue", "Continue", "Start the practice"):
            second.get_by_role("button", name=text, exact=True).click()
        second.wait_for_selector(FREE)
        second.locator(".choices .cell").nth(5).click()
        second.click(".confirm")
        second.wait_for_selector(".cell.first")
        visit.answer("mei", 2)
        visit.page.get_by_role("heading", name="This was answered elsewhere").wait_for()
        assert [x["place"] for x in visit.stored("two")[1].values()] == [5]


def test_all_fits_the_smallest_window(browser: Browser, server: Server) -> None:
    with Visit(browser, server, IDS.format("fits")) as visit:
        visit.to_practice()
        visit.choices()
        overflow = "document.documentElement.scrollHeight > innerHeight"
        for size in ((1024, 640), (1440, 900), (2560, 1300)):
            visit.page.set_viewport_size({"width": size[0], "height": size[1]})
            assert not visit.page.evaluate(overflow)
            assert not visit.page.evaluate(overflow.replace("Height", "Width"))
            box = visit.page.locator(".choices .cell").first.bounding_box()
            assert box is not None
            assert box["width"] == pytest.approx(box["height"])
            assert box["width"] > 120


def test_another_person_may_start_where_there_is_no_prolific(
    browser: Browser, server: Server
) -> None:
    with Visit(browser, server) as visit:
        visit.press("I do not want to take part")
        visit.press("Start for another person")
        visit.page.get_by_role("button", name="I agree, and want to take part").wait_for()

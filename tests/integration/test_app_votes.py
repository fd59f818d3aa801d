"""Votes in a real browser: three raters at once, a browser and a server that are killed, and what the report says."""

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import contextmanager

import pytest

import forked
from mmdpo.cli import main
from mmdpo.votes.store import VoteStore
from tests.app_browser import CHROMIUM, DESK, PHONE, open_browser, open_page, wait_for_address
from tests.voted_runs import read_folders, write_run

ITEMS = 6
SECRET = ("alpharun", "betarun")
"""The names of the runs, which no rater may see; the second is held against the first."""
KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown", "both_bad": "b"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on scenes of the embedded world, whose answers begin with a word that tells the test whose they are."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(
            folder / name,
            {f"test-0-{number}": f"{word} {number} cups" for number in range(ITEMS)},
            benchmark="world",
            prompts={f"test-0-{number}": f"describe {number}" for number in range(ITEMS)},
        )
        for name, word in zip(SECRET, ("One:", "Two:"), strict=True)
    ]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def voting(tmp_path_factory, runs):
    """A server that several tests vote on, each with raters of its own: its address and its file."""
    folder = tmp_path_factory.mktemp("voting")
    with running(Server(folder, "--runs", *runs, "--votes", folder / "votes.sqlite")) as address:
        yield address, folder / "votes.sqlite"


class Server:
    """`mmdpo app` on one port, which may be killed and started again."""

    def __init__(self, cwd, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.cwd, self.options, self.process = cwd, options, None

    def start(self):
        self.process = forked.start("app", "--port", self.port, *self.options, cwd=self.cwd)
        return wait_for_address(self.process)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(server):
    try:
        yield server.start()
    finally:
        server.kill()


@contextmanager
def other_browser(browser, folder):
    """Gives a Chromium that is a process of this test, which may kill it, and that process."""
    flags = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    process = subprocess.Popen([CHROMIUM, *flags, "about:blank"], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        told, deadline = folder / "DevToolsActivePort", time.monotonic() + 60
        while not told.exists() or "\n" not in told.read_text():
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.1)
        port = told.read_text().split()[0]
        yield browser.browser_type.connect_over_cdp(f"http://127.0.0.1:{port}"), process
    finally:
        kill_browser(process)


def kill_browser(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def come_in(page, address, name):
    """Opens the page and enters a name, by the keyboard alone."""
    page.set_default_timeout(30_000)
    page.goto(address)
    wait_for_the_field(page)
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.locator("#vote .progress").wait_for()


def wait_for_the_field(page):
    """Waits until keys reach the field of the name, which the page selects a moment after it is drawn."""
    page.wait_for_function("() => document.activeElement?.matches('.enter input, .enter textarea')")


def done(page):
    return int(page.locator("#vote .progress").inner_text().partition(" of ")[0])


def wait_until_done(page, count):
    page.locator("#vote .progress", has_text=f"{count} of {ITEMS}").wait_for()


def see(page):
    """Returns what a rater sees: the number of the item, and whose answer stands left and right."""
    prompt, *answers = page.locator("#vote .said").all_inner_texts()
    order = [SECRET[("One:", "Two:").index(answer.partition(" ")[0])] for answer in answers]
    return int(prompt.split()[-1]), order


def judge(rater, item):
    """Returns what a rater thinks of an item, whenever it is asked: the name of a run, a tie or both bad."""
    return (SECRET[1], SECRET[0], "tie", "both_bad", SECRET[1], SECRET[1])[(item + len(rater)) % 6]


def press(page, rater):
    """Presses the key for what the rater thinks of the item that is shown; returns the item."""
    item, order = see(page)
    thought = judge(rater, item)
    page.keyboard.press(KEYS[("left", "right")[order.index(thought)] if thought in order else thought])
    return item


def vote(page, rater, count=1):
    for _ in range(count):
        before = done(page)
        press(page, rater)
        wait_until_done(page, before + 1)


def check_blind(page):
    asked = [page.request.get(page.url + path).text() for path in ("config", "gradio_api/info")]
    assert not page.request.get(page.url + "gradio_api/file=votes.sqlite").ok
    for text in (page.content(), page.locator("#vote-held textarea").input_value(), *asked):
        assert text
        assert not any(name in text for name in SECRET)


@pytest.mark.slow
def test_three_raters_at_once_a_killed_browser_and_a_killed_server(tmp_path, runs, browser):
    file = tmp_path / "votes.sqlite"
    server = Server(tmp_path, "--runs", *runs, "--votes", file)
    names = ("anna", "ben", "cleopatra")
    with running(server) as address:
        store, pages = VoteStore.read(file), [browser.new_context().new_page() for _ in names[:2]]
        with other_browser(browser, tmp_path / "own") as (own, process):
            pages.append(own.contexts[0].new_page())
            for page, name in zip(pages, names, strict=True):
                come_in(page, address, name)
            assert [f"test-0-{see(page)[0]}" for page in pages] == [store.order(name)[0].item for name in names]
            for _ in range(2):  # nobody waits for another one
                counts = [done(page) for page in pages]
                for page, name in zip(pages, names, strict=True):
                    press(page, name)
                for page, count in zip(pages, counts, strict=True):
                    wait_until_done(page, count + 1)
            check_blind(pages[0])
            press(pages[2], names[2])
            kill_browser(process)  # with a vote under way, which counts once or is asked for again
        vote(pages[0], names[0])
        press(pages[1], names[1])
        server.kill()  # the same
        for page in pages[:2]:
            page.context.close()

        server.start()
        seen = Counter(vote.rater for vote in store.votes().counting)
        assert seen["anna"] == 3
        assert seen["ben"] in (2, 3)
        assert seen["cleopatra"] in (2, 3)
        for name in names:
            with open_page(browser, address) as page:
                come_in(page, address, name.upper())
                assert done(page) == seen[name]
                vote(page, name, ITEMS - seen[name])
                page.get_by_text("You have voted on all items").wait_for()
                check_blind(page)
    check_report(file, tmp_path / "report", names)


def check_report(file, out, names):
    """Compares the report with what the raters thought."""
    thought = Counter(judge(name, item) for name in names for item in range(ITEMS))
    assert main(["votes", "report", str(file), "--out", str(out), "--resamples", "200"]) == 0
    content = json.loads((out / "votes.json").read_text())
    row = next(row for row in content["results"] if row["type"] is None)
    assert (row["first"], row["second"], row["votes"], row["items_voted"]) == (*SECRET, len(names) * ITEMS, ITEMS)
    assert row["counts"] == {
        "win": thought[SECRET[1]],
        "lose": thought[SECRET[0]],
        "tie": thought["tie"],
        "both_bad": thought["both_bad"],
    }
    by_rater = {of["rater"]: (of["votes"], of["tie"], of["both_bad"]) for of in content["raters"]}
    for name in names:
        own = Counter(judge(name, item) for item in range(ITEMS))
        assert by_rater[name] == (ITEMS, own["tie"], own["both_bad"])


def test_two_tabs_back_reasons_and_buttons(voting, browser):
    address, file = voting
    with open_page(browser, address) as page:
        wait_for_the_field(page)
        page.keyboard.press("Enter")
        page.get_by_text("enter your name").wait_for()
        come_in(page, address, "Anna")
        other = page.context.new_page()
        come_in(other, address, "anna")
        first = see(page)
        assert see(other) == first
        assert page.locator("#vote img").get_attribute("alt") == "The image that was asked about"
        page.keyboard.press("r")
        page.keyboard.type("b, because: → is wrong")  # keys in the field are text
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowLeft")
        wait_until_done(page, 1)
        assert page.get_by_label("Reason").input_value() == ""

        other.keyboard.press("ArrowRight")  # the item that this tab still shows has a vote
        other.get_by_text("Not counted: you have voted otherwise").wait_for()
        wait_until_done(other, 1)
        second = see(other)
        assert second == see(page) != first
        other.keyboard.press("ArrowDown")
        wait_until_done(other, 2)
        page.keyboard.press("ArrowDown")  # the same vote twice
        wait_until_done(page, 2)

        page.keyboard.press("Backspace")
        page.get_by_text("Your vote: tie").wait_for()
        page.keyboard.press("Backspace")
        page.get_by_text("Your vote: answer 1 is better").wait_for()
        assert see(page) == first
        assert page.get_by_label("Reason").input_value() == "b, because: → is wrong"
        page.get_by_role("button", name="both bad").click()
        page.get_by_text("Your vote").wait_for(state="detached")
        wait_until_done(page, 2)
        third = see(page)
        page.keyboard.press("Backspace")
        page.get_by_text("Your vote: both bad").wait_for()
        page.keyboard.press("g")
        page.get_by_text("Your vote").wait_for(state="detached")
        assert see(page) == third

        # Keys that come faster than items do are about the item that was seen.
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        counted = None
        while counted != (counted := done(page)):  # until the last of them has come
            page.wait_for_timeout(1500)
        assert counted in (3, 4, 5)
        page.get_by_role("button", name="Tie").focus()
        page.keyboard.press("Enter")
        wait_until_done(page, counted + 1)
    votes = VoteStore.read(file).votes()
    own = [vote for vote in votes.counting if vote.rater == "anna"]
    assert len(own) == counted + 1
    assert Counter(vote.choice for vote in own)["both_bad"] == 1
    assert [(vote.choice, vote.reason) for vote in votes.replaced] == [("left", "b, because: → is wrong")]


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_all_of_it_is_seen_without_scrolling_sideways(voting, browser, size):
    with open_page(browser, voting[0], size=size, dark=size == PHONE) as page:
        come_in(page, voting[0], "a rater who only looks")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        for name in ("Answer 1 is better", "Tie", "both bad", "Answer 2 is better"):
            assert page.get_by_role("button", name=name).is_visible()


def test_runs_that_cannot_be_voted_on_are_said_in_one_line(tmp_path, runs, capsys):
    file = tmp_path / "votes.sqlite"
    assert main(["app", "--runs", str(runs[0]), "--votes", str(file)]) == 2
    assert "votes need the results of two runs or more" in capsys.readouterr().err
    third = write_run(tmp_path / "third", {f"test-0-{number}": "Three" for number in range(ITEMS)}, benchmark="world")
    other = write_run(tmp_path / "other", {f"test-0-{number}": "Four" for number in range(ITEMS)}, benchmark="world")
    VoteStore.open(file, read_folders(runs).study)
    assert main(["app", "--runs", str(third), str(other), "--votes", str(file)]) == 2
    assert f"{file}: was made for votes on alpharun, betarun" in capsys.readouterr().err

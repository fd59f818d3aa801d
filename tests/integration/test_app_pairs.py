"""The page of pairs in a browser: rows found, sorted, flagged and dropped; and what nobody may get out of it."""

import json
import socket
import urllib.error
import urllib.request

import pytest

from mmdpo.cli import main
from mmdpo.world.pairs import make_pairs
from tests import forked
from tests.app_browser import PHONE, open_browser, open_page, serve, wait_until_calm

ROWS = 60
MARKUP = '<img src=x onerror="document.title=1"><b id=bold>a cup</b> $x$ **bold** <script>document.title=2</script>'
"""Stands in the chosen answer of row 2."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty pairs of the embedded world: row 2 has markup in an answer, row 3 no answer, in row 4 one word differs."""
    folder = tmp_path_factory.mktemp("app")
    lines = []
    for number, row in enumerate(make_pairs(ROWS, seed=11), start=1):
        row["images"][0].save(folder / f"{number}.png")
        answers = {name: row[name][0]["content"][0]["text"] for name in ("chosen", "rejected")}
        answers |= {2: {"chosen": MARKUP}, 3: {"rejected": ""}}.get(number, {})
        if number == 4:
            answers = {"chosen": "a red cup on a table", "rejected": "a red dog on a table"}
        lines.append(json.dumps({"id": row["id"], "prompt": "<image>describe", **answers, "images": [f"{number}.png"]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "secret.txt").write_text("not for browsers")
    (folder / "users").write_text("ann:pass:word\n")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with serve("--data", "pairs.jsonl", "--decisions", "decisions.jsonl", cwd=folder, start=forked.start) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    with open_page(browser, address) as page:
        page.locator(".rows button").first.wait_for()
        yield page


def numbers(page):
    return [int(text) for text in page.locator(".rows .number").all_text_contents()]


def wait_for_rows(page, *expected):
    page.wait_for_function(
        "expected => [...document.querySelectorAll('.rows .number')].map(each => each.textContent).join() == expected",
        arg=",".join(map(str, expected)),
    )


def wait_for_row(page, number):
    page.locator(".pair h2", has_text=f"Row {number} ").wait_for()


def choose(page, label, option):
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")


def test_rows_are_found_sorted_and_read_with_the_keyboard(page, folder):
    assert numbers(page) == list(range(1, 26))
    wait_for_row(page, 1)
    page.keyboard.press("j")
    wait_for_row(page, 2)
    page.keyboard.press("n")
    wait_for_rows(page, *range(26, 51))
    page.keyboard.press("/")
    page.keyboard.type("RED CUP")
    wait_for_rows(page, 4)
    wait_for_row(page, 4)
    assert page.locator(".pair mark").all_text_contents() == ["cup", "dog"]
    page.get_by_label("Search").fill("nobody says that")
    page.get_by_text("No row is like that").wait_for()
    page.get_by_label("Search").blur()
    page.keyboard.press("d")
    page.get_by_text("no row is shown, so there is nothing to decide about").wait_for()
    assert not (folder / "decisions.jsonl").exists()
    page.get_by_label("Search").fill("")
    wait_for_rows(page, *range(1, 26))
    choose(page, "Only rows that are, or where", "faulty")
    wait_for_rows(page, 3)
    page.get_by_role("alert").get_by_text("`rejected` is empty").wait_for()


def test_pictures_have_words_and_the_corrupted_one_follows_its_options(page):
    wait_for_row(page, 1)
    alts = page.locator(".pair img").evaluate_all("all => all.map(e => e.alt)")
    assert alts == ["Image of row 1", "Image of row 1, corrupted (crop_0_20)"]
    before = page.locator(".pair img").nth(1).get_attribute("src")
    page.get_by_text("Corrupted image").click()
    choose(page, "corruption", "blank")
    page.get_by_alt_text("Image of row 1, corrupted (blank)").wait_for()
    assert page.locator(".pair img").nth(1).get_attribute("src") != before
    wait_until_calm(page)  # else what comes from the server may take the place of what is typed
    page.get_by_label("corruption_options").fill('{"hue": 3}')
    page.get_by_role("alert").get_by_text("has no option 'hue'").wait_for()
    choose(page, "corruption", "random_image")
    page.get_by_alt_text("Image of row 1, corrupted (random_image)").wait_for()


def test_markup_in_an_answer_is_shown_and_not_run(page):
    page.locator(".rows button", has_text="onerror").click()
    wait_for_row(page, 2)
    said = page.locator(".chosen .said")
    assert said.inner_text() == MARKUP
    assert page.locator("#bold").count() == 0
    assert page.title() == "mmdpo"


def decide(page, number, key, said):
    page.locator(".rows button", has=page.locator(f".number:text-is('{number}')")).click()
    wait_for_row(page, number)
    page.keyboard.press(key)
    page.get_by_text(f"Row {number} is {said}").wait_for()


def test_flags_and_drops_are_written_with_their_reasons(page, folder):
    wait_for_row(page, 1)
    page.keyboard.press("r")
    page.keyboard.type("too <b>short</b>")
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    page.get_by_text("Row 1 is dropped: too <b>short</b>. Written to decisions.jsonl").wait_for()
    decide(page, 3, "d", "dropped.")
    decide(page, 4, "f", "flagged.")
    decide(page, 5, "d", "dropped.")
    page.keyboard.press("u")
    page.get_by_text("Row 5 is kept.").wait_for()
    assert page.locator(".rows .badge").all_text_contents() == ["dropped", "faulty", "dropped", "flagged"]
    choose(page, "Only rows that are, or where", "dropped")
    wait_for_rows(page, 1, 3)
    decide(page, 3, "u", "kept.")
    wait_for_row(page, 1)  # the last of the list has left it: the one before is shown
    wait_for_rows(page, 1)
    lines = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    assert [(line["row"], line["decision"], line["reason"]) for line in lines] == [
        (1, "drop", "too <b>short</b>"), (3, "drop", ""), (4, "flag", ""), (5, "drop", ""), (5, "keep", ""),
        (3, "keep", ""),
    ]  # fmt: skip


@pytest.mark.slow
def test_checks_and_training_honour_what_was_decided(page, folder, monkeypatch, capsys):
    for number in (1, 3):
        decide(page, number, "d", "dropped.")
    monkeypatch.chdir(folder)
    assert main(["data", "check", "pairs.jsonl", "--decisions", "decisions.jsonl"]) == 0, "row 3 alone is faulty"
    assert "decisions.jsonl drops 2 of 60 rows" in capsys.readouterr().out
    options = ["--model_name_or_path", "world", "--dataset_name", "pairs.jsonl", "--output_dir", "run"]
    assert main(["train", *options, "--decisions", "decisions.jsonl", "--use_cpu", "true", "--dry_run"]) == 0
    assert "58" in capsys.readouterr().out


def test_it_fits_a_phone(browser, address):
    with open_page(browser, address, size=PHONE, dark=True) as page:
        page.locator(".pair h2").first.wait_for()
        widest = page.evaluate("document.documentElement.scrollWidth")
        assert widest <= PHONE[0]
        paper = page.evaluate("getComputedStyle(document.querySelector('.rows button')).backgroundColor")
        assert paper == "rgb(34, 48, 63)", "dark, where the system is"


# -- what nobody may get ----------------------------------------------------------------------------------------------


def status_of(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    "path",
    ["{folder}/secret.txt", "{folder}/1.png", "{folder}/decisions.jsonl", "secret.txt", "/etc/passwd",
     "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/proc/self/environ", "file:///etc/passwd"],
)  # fmt: skip
def test_no_file_is_served(address, folder, path):
    for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/gradio_api/proxy="):
        status, body = status_of(f"{address}{route}{path.format(folder=folder)}")
        assert status in (400, 401, 403, 404, 405, 422), (route, path, status)
        assert b"not for browsers" not in body
        assert b"root:" not in body


def test_only_this_machine_is_served(address):
    port = int(address.rsplit(":", 1)[1])
    with socket.socket() as other:
        other.settimeout(5)
        outer = _outer_address()
        if outer is None:
            pytest.skip("this machine has no other address than its own")
        assert other.connect_ex((outer, port)) != 0


def _outer_address():
    """Returns an address by which others reach this machine, None where there is none; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return None if probe.getsockname()[0].startswith("127.") else probe.getsockname()[0]


def test_a_browser_is_told_to_load_from_here_alone(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_other_sites_may_not_ask(address):
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}/config", headers={"Origin": "https://elsewhere.example"}), timeout=20
    ) as answer:
        assert answer.headers.get("access-control-allow-origin") is None


def test_a_password_is_asked_for(browser, folder):
    with serve(
        "--data", "pairs.jsonl", "--decisions", "others.jsonl", "--auth", "users", cwd=folder, start=forked.start
    ) as address:
        for route in ("/config", "/gradio_api/info", "/gradio_api/file=secret.txt"):
            assert status_of(f"{address}{route}")[0] == 401
        assert b"pairs.jsonl" not in status_of(address)[1]
        with open_page(browser, address, auth=("ann", "pass:word")) as page:
            page.locator(".rows button").first.wait_for()

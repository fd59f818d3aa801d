"""An OpenAI-compatible endpoint that behaves badly, over real HTTP."""

import base64
import io
import time
from email.utils import formatdate

import pytest
from PIL import Image

from chat_server import Act, serve
from mmdpo.generation.endpoint import Budget, BudgetSpentError, ChatEndpoint, EndpointError, RefusedError
from mmdpo.generation.endpoint_answers import EndpointAnswerer
from mmdpo.generation.questions import GenerationSettings, Question
from mmdpo.records import derive_seed

ASKED = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]
GREEDY = GenerationSettings(max_new_tokens=5)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr("mmdpo.generation.endpoint._FIRST_WAIT", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")


def ask(behave, settings=GREEDY, **options):
    with serve(behave) as server:
        return ChatEndpoint(server.url, "some-model", **options).complete(ASKED, settings), server


def first(act):
    """Fails once, then replies."""
    return lambda request, number: act if number == 0 else Act("at last")


def test_a_reply_and_what_was_sent_for_it():
    reply, server = ask(lambda request, number: Act("a cup"))
    assert (reply.text, reply.model, reply.finish_reason) == ("a cup", "model-of-2024", "stop")
    assert reply.usage == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    sent = server.requests[0]
    assert sent.pop("key") == "Bearer sk-very-secret"
    path = "/v1/chat/completions"
    assert sent == {"messages": ASKED, "model": "some-model", "max_tokens": 5, "temperature": 0.0, "path": path}
    sampled = GenerationSettings(max_new_tokens=5, temperature=0.7, top_p=0.9, seed=3)
    sent = ask(lambda request, number: Act(), sampled)[1].requests[0]
    assert {"temperature": 0.7, "top_p": 0.9, "seed": 3}.items() <= sent.items()


@pytest.mark.parametrize(
    "act",
    [
        Act(status=500),
        Act(status=429),
        Act(body=b'{"choices": [{"message'),
        Act(body=b"<html>Bad gateway</html>", headers={"Content-Type": "text/html"}),
        Act(body=b'{"choices": []}'),
        Act(cut=True),
        Act(delay=3.0),
    ],
    ids=["500", "429", "malformed", "html", "no choice", "cut off", "slow"],
)
def test_a_failure_is_tried_again(act):
    reply, server = ask(first(act), timeout=2.0)  # a busy machine may take a second to answer
    assert reply.text == "at last"
    assert len(server.requests) == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_server_says_how_long_to_wait(form):
    # A date counts whole seconds, so two of them ahead are at least one.
    said = {"seconds": lambda: "0.4", "date": lambda: formatdate(time.time() + 2, usegmt=True)}[form]
    _, server = ask(lambda request, number: Act(status=429, headers={"Retry-After": said()}) if not number else Act())
    assert server.times[1] - server.times[0] > {"seconds": 0.4, "date": 0.9}[form]


def test_waits_grow(monkeypatch):
    monkeypatch.setattr("mmdpo.generation.endpoint._FIRST_WAIT", 0.1)
    monkeypatch.setattr("mmdpo.generation.endpoint.random.uniform", lambda low, high: high)
    _, server = ask(lambda request, number: Act(status=503) if number < 3 else Act())
    waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert [wait > 0.1 * 2**attempt for attempt, wait in enumerate(waits)] == [True] * 3


def test_it_gives_up_and_says_why():
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*state 500 .*overheated.*gave up after 3 tries"):
        ask(lambda request, number: Act("overheated", status=500), retries=2)
    with pytest.raises(EndpointError, match="asks to wait 900 s: run the same command again later"):
        ask(lambda request, number: Act(status=429, headers={"Retry-After": "900"}))
    with pytest.raises(EndpointError, match="no connection"):
        ChatEndpoint("http://127.0.0.1:9/v1", "m", retries=1).complete(ASKED, GREEDY)


@pytest.mark.parametrize(
    ("status", "message"), [(401, "is OPENAI_API_KEY set"), (404, r"often ends in /v1.*have the model 'some-model'")]
)
def test_what_no_other_try_would_mend_is_not_tried_again(status, message):
    with serve(lambda request, number: Act("no: sk-very-secret", status=status)) as server:
        with pytest.raises(EndpointError, match=message) as caught:
            ChatEndpoint(server.url, "some-model").complete(ASKED, GREEDY)
        assert len(server.requests) == 1
    assert "sk-very-secret" not in str(caught.value)  # a server may repeat the key


def test_a_local_server_needs_no_key_and_an_address_is_shown_without_one(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask(lambda request, number: Act())[0].text == "fine"
    assert ChatEndpoint("http://me:password@localhost:1/v1?key=1", "m").address == "http://localhost:1/v1"
    with pytest.raises(ValueError, match="'localhost' is no address"):
        ChatEndpoint("localhost", "m")
    with pytest.raises(ValueError, match="a timeout of 0 s lets nothing reply"):
        ChatEndpoint("http://localhost:1/v1", "m", timeout=0)
    with pytest.raises(ValueError, match="searches no beams"):
        ChatEndpoint("http://localhost:1/v1", "m").complete(ASKED, GenerationSettings(num_beams=3))


def test_models_that_know_the_newer_name_of_the_limit():
    def behave(request, number):
        if "max_tokens" in request:
            return Act("max_tokens is not supported, use max_completion_tokens", status=400)
        return Act()

    assert ask(behave)[1].requests[-1]["max_completion_tokens"] == 5


def test_a_budget_counts_tries_and_tokens():
    budget = Budget(max_requests=3)
    with serve(first(Act(status=500))) as server:
        endpoint = ChatEndpoint(server.url, "m", budget=budget)
        endpoint.complete(ASKED, GREEDY)
        endpoint.complete(ASKED, GREEDY)
        with pytest.raises(BudgetSpentError, match="budget of 3 requests is spent"):
            endpoint.complete(ASKED, GREEDY)
        assert len(server.requests) == 3
        assert budget.tokens == 20
        with pytest.raises(BudgetSpentError, match=r"budget of 15 tokens is spent \(20 were used"):
            ChatEndpoint(server.url, "m", budget=Budget(max_tokens=15, tokens=20)).complete(ASKED, GREEDY)


# -- answers to questions ---------------------------------------------------------------------------------------------


def questions(count):
    pictures = [Image.new("RGB", (4, 3), (number, 0, 0)) for number in range(count)]
    return [Question(str(number), f"Question {number}?", picture) for number, picture in enumerate(pictures)]


def answer(server, count, concurrency=4, **options):
    answerer = EndpointAnswerer(ChatEndpoint(server.url, "m", **options), concurrency=concurrency)
    return answerer.answer(questions(count), GenerationSettings(system_prompt="Be brief."))


def test_questions_go_out_together_with_their_pictures():
    echo = lambda request, number: Act(request["messages"][-1]["content"][-1]["text"] + " ", delay=0.05)  # noqa: E731
    with serve(echo) as server:
        answers = {found.id: found for found in answer(server, 12)}
        assert {name: found.text for name, found in answers.items()} == {str(n): f"Question {n}?" for n in range(12)}
        assert server.most_at_once == 4
    said = {"model": "model-of-2024", "finish_reason": "stop", "tokens": 3, "prompt_tokens": 7}
    assert answers["3"].details == said
    sent = next(request for request in server.requests if "Question 7?" in str(request["messages"][1]))
    assert sent["messages"][0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    picture, words = sent["messages"][1]["content"]
    assert words == {"type": "text", "text": "Question 7?"}
    url = picture["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(url))).getpixel((0, 0)) == (7, 0, 0)


def gather(found, answers):
    """Keeps what came before an error."""
    for one in answers:
        found.append(one.id)


def test_one_refusal_costs_one_answer():
    refuse = lambda request, number: Act("rude", status=400) if "4?" in str(request["messages"][1]) else Act()  # noqa: E731
    found = []
    with serve(refuse) as server, pytest.raises(RefusedError, match=r"1 questions got no answer.*item 4: .*rude"):
        gather(found, answer(server, 8))
    assert sorted(found) == ["0", "1", "2", "3", "5", "6", "7"]


def test_what_is_on_its_way_is_kept_when_the_budget_ends():
    found = []
    with serve(lambda request, number: Act(delay=0.05)) as server, pytest.raises(BudgetSpentError):
        gather(found, answer(server, 20, budget=Budget(max_requests=6)))
    assert len(found) == len(server.requests) == 6


def test_an_end_in_the_middle_waits_for_no_retry(monkeypatch):
    monkeypatch.setattr("mmdpo.generation.endpoint._FIRST_WAIT", 60.0)
    busy = lambda request, number: Act() if number == 0 else Act(status=503)  # noqa: E731
    with serve(busy) as server:
        answers = answer(server, 6, concurrency=2)
        next(answers)
        time.sleep(0.2)  # the others are waiting for their next try by now
        started = time.monotonic()
        answers.close()
        assert time.monotonic() - started < 5


def test_several_pictures_and_turns_of_a_question(tmp_path):
    Image.new("RGB", (4, 3), (9, 0, 0)).save(tmp_path / "nine.png")
    turns = (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        {"role": "user", "content": [{"type": "text", "text": "And this?"}, {"type": "image"}]},
    )
    question = Question("two", turns, (tmp_path / "nine.png", Image.new("RGB", (4, 3), (8, 0, 0))))
    with serve(lambda request, number: Act("a dog")) as server:
        (answer,) = EndpointAnswerer(ChatEndpoint(server.url, "m")).answer([question], GREEDY)
    sent = server.requests[0]["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "user"]
    kinds = [part["type"] for turn in sent for part in turn["content"]]
    assert kinds == ["image_url", "text", "text", "text", "image_url"]
    urls = [sent[0]["content"][0]["image_url"]["url"], sent[2]["content"][1]["image_url"]["url"]]
    pixels = [io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))) for url in urls]
    assert [Image.open(each).getpixel((0, 0))[0] for each in pixels] == [9, 8]
    assert answer.text == "a dog"


def test_each_question_brings_its_own_seed():
    asked = [Question(str(k), "What?", seed=2**31 + k if k else None) for k in range(3)]
    for settings in (GenerationSettings(temperature=1.0, seed=4), GREEDY):
        with serve(lambda request, number: Act()) as server:
            list(EndpointAnswerer(ChatEndpoint(server.url, "m")).answer(asked, settings))
        seeds = [request.get("seed") for request in server.requests]
        if settings is GREEDY:
            assert seeds == [None, None, None]
        else:
            assert set(seeds) == {derive_seed(4, "0", "generation") % 2**31, 1, 2}


def test_an_answer_that_is_begun_is_not_asked_for():
    asked = [Question("1", "What?"), Question("2", "What?", begun="A cup")]
    with serve(lambda request, number: Act()) as server:
        with pytest.raises(ValueError, match="item 2: an endpoint goes on from no answer that is begun"):
            list(EndpointAnswerer(ChatEndpoint(server.url, "m")).answer(asked, GREEDY))
        assert server.requests == []

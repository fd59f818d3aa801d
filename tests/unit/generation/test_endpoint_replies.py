"""Whatever a server sends ends as a reply that is kept, a request that is made again, or one clear line.

Every way of going wrong is played by a real server on loopback. Never a traceback, a hang, a reply that is paid for
twice, or text that the server did not send as the answer.
"""

import gzip
import json
import math
import random
import re
import socket
import struct
import time
import zlib

import pytest

from chat_server import Act, serve
from eval_verb import run
from mmdpo.generation.endpoint import Budget, ChatEndpoint, EndpointError, RefusedError
from mmdpo.generation.endpoint_answers import EndpointAnswerer
from mmdpo.generation.questions import GenerationSettings, Question

ASKED = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]
GREEDY = GenerationSettings(max_new_tokens=5)
KEY = "sk-a-very-secret-key"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr("mmdpo.generation.endpoint._FIRST_WAIT", 0.001)
    monkeypatch.setattr("mmdpo.generation.http_client.LARGEST_REPLY", 1 << 20)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def completion(content="a cup", *, message=None, choice=None, **more):
    """A good completion, with some of it replaced."""
    said = {"role": "assistant", "content": content} if message is None else message
    chosen = {"index": 0, "finish_reason": "stop", "message": said} | (choice or {})
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "1", "object": "chat.completion", "model": "m-1", "choices": [chosen], "usage": usage} | more


def body(content, **headers):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Act(body=content, headers={name.replace("_", "-"): value for name, value in headers.items()})


def raw(*pieces, wait=0.0, reset=False):
    """Sends pieces with a pause after each, then closes the connection, or resets it."""

    def write(connection):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(wait)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    return Act(raw=write)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GOOD = json.dumps(completion()).encode()

KEPT = {
    "plain": (body(completion()), "a cup"),
    "empty text": (body(completion("")), ""),
    "usage null": (body(completion(usage=None)), "a cup"),
    "usage list": (body(completion(usage=[1, 2])), "a cup"),
    "usage text": (body(completion(usage="many")), "a cup"),
    "usage of nulls": (body(completion(usage={"total_tokens": None, "prompt_tokens": 7})), "a cup"),
    "usage of texts": (body(completion(usage={"total_tokens": "10", "completion_tokens": [3]})), "a cup"),
    "usage negative": (body(completion(usage={"total_tokens": -5, "prompt_tokens": True})), "a cup"),
    "usage immense": (body(completion(usage={"prompt_tokens": 10**300})), "a cup"),
    "usage missing": (body({k: v for k, v in completion().items() if k != "usage"}), "a cup"),
    "lone surrogate": (body(completion("a \ud83d cup")), "a \N{REPLACEMENT CHARACTER} cup"),
    "surrogate pair": (
        body(completion("a \ud83d\ude00 cup".encode("utf-16", "surrogatepass").decode("utf-16"))),
        "a 😀 cup",
    ),
    "model no text": (body(completion(model={"name": 3})), "a cup"),
    "model surrogate": (body(completion(model="m\udcff")), "a cup"),
    "finish_reason length": (body(completion(choice={"finish_reason": "length"})), "a cup"),
    "finish_reason a list": (body(completion(choice={"finish_reason": ["stop"]})), "a cup"),
    "finish_reason null": (body(completion(choice={"finish_reason": None})), "a cup"),
    "parts": (body(completion([{"type": "text", "text": "a "}, {"type": "text", "text": "cup"}])), "a cup"),
    "parts as texts": (body(completion(["a ", "cup"])), "a cup"),
    "one part": (body(completion({"type": "text", "text": "a cup"})), "a cup"),
    "thoughts in a part": (
        body(completion([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "a cup"}])),
        "a cup",
    ),
    "more choices": (
        body(completion() | {"choices": [*completion()["choices"], *completion("other")["choices"]]}),
        "a cup",
    ),
    "tool calls beside text": (body(completion(message={"content": "a cup", "tool_calls": [{"id": "1"}]})), "a cup"),
    "refusal null": (body(completion(message={"content": "a cup", "refusal": None})), "a cup"),
    "doubled keys": (body(b'{"model": "x", ' + GOOD[1:]), "a cup"),
    "html as its type": (body(completion(), Content_Type="text/html"), "a cup"),
    "packed": (body(gzip.compress(GOOD), Content_Encoding="gzip"), "a cup"),
    "byte order mark": (body(b"\xef\xbb\xbf" + GOOD), "a cup"),
    "padded": (body(b" " * 10_000 + GOOD + b"\n" * 10_000), "a cup"),
    "no length": (raw(HEAD + b"\r\n" + GOOD), "a cup"),
    "in chunks": (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)), "a cup"),
    "slow but whole": (raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD), GOOD[:9], GOOD[9:], wait=0.05), "a cup"),
    "key in the text": (body(completion(f"your key is {KEY}")), "your key is …"),
}

AGAIN = {
    "content null": body(completion(None)),
    "content missing": body(completion(message={"role": "assistant"})),
    "content a number": body(completion(7)),
    "content true": body(completion(True)),
    "content an empty list": body(completion([])),
    "content of pictures": body(completion([{"type": "image_url", "image_url": {"url": "data:"}}])),
    "content of nulls": body(completion([None])),
    "thoughts alone": body(completion([{"type": "thinking", "thinking": "hm"}])),
    "null at the limit": body(completion(None, choice={"finish_reason": "length"})),
    "tool calls alone": body(completion(message={"content": None, "tool_calls": [{"id": "1"}]})),
    "finish_reason error": body(completion("half an ans", choice={"finish_reason": "error"})),
    "no choices": body({"id": "1"}),
    "choices empty": body(completion(choices=[])),
    "choices null": body(completion(choices=None)),
    "choices an object": body(completion(choices={"0": 1})),
    "choices of texts": body(completion(choices=["a cup"])),
    "message null": body(completion(choice={"message": None})),
    "message a text": body(completion(choice={"message": "a cup"})),
    "error with state 200": body({"error": {"message": f"overloaded, {KEY}"}}),
    "body empty": body(b""),
    "body null": body(b"null"),
    "body a list": body([completion()]),
    "body a text": body(b'"a cup"'),
    "json cut": body(GOOD[:-20]),
    "json and more": body(GOOD + b"}"),
    "json nested": body(b"[" * 100_000),
    "json with a number too long": body(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "utf-8 invalid": body(GOOD.replace(b"a cup", b"a \xff\xfe cup")),
    "html": body(b"<html><body>Bad gateway</body></html>", Content_Type="text/html"),
    "events": body(b"data: " + GOOD + b"\n\ndata: [DONE]\n\n", Content_Type="text/event-stream"),
    "huge": body(completion("x" * (1 << 20))),
    "packed bomb": body(gzip.compress(b" " * (1 << 26)), Content_Encoding="gzip"),
    "packed, and it is not": body(GOOD, Content_Encoding="gzip"),
    "packed by halves": body(gzip.compress(GOOD)[:-30], Content_Encoding="gzip"),
    "packed otherwise": body(zlib.compress(GOOD), Content_Encoding="br"),
    "length too long": Act(cut=True),
    "length nonsense": raw(HEAD + b"Content-Length: many\r\n\r\n" + GOOD),
    "no http": raw(b"\x15\x03\x01\x00\x02\x02\x50"),
    "closed at once": raw(),
    "reset": raw(HEAD, reset=True),
    "reset within": raw(HEAD + b"Content-Length: 999\r\n\r\n" + GOOD[:50], reset=True),
    "head without end": raw(b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n"] * 60, wait=0.05),
    "dripping": raw(HEAD + b"Content-Length: 999\r\n\r\n", *[b" "] * 60, wait=0.05),
    "slow": Act(delay=2.0),
    "408": Act(status=408),
    "409": Act(status=409),
    "429": Act(status=429),
    "500 nested": Act(status=500, body=b"[" * 100_000),
    "500 huge": Act(status=500, body=b"x" * (1 << 21)),
    "500 not utf-8": Act(status=500, body=b"\xff\xfe\x00"),
    "503": Act(status=503, headers={"Retry-After": "0"}),
    "503, wait nan": Act(status=503, headers={"Retry-After": "nan"}),
    "503, wait nonsense": Act(status=503, headers={"Retry-After": "soon"}),
    "503, wait negative": Act(status=503, headers={"Retry-After": "-3"}),
    "503, wait a date long ago": Act(status=503, headers={"Retry-After": "Mon, 01 Jan 0001 00:00:00 GMT"}),
    "599": Act(status=599),
}

ONE_LINE = {
    "400": (Act("rude", status=400), RefusedError),
    "413": (Act("too large", status=413), RefusedError),
    "refusal": (body(completion(message={"content": None, "refusal": "I will not."})), RefusedError),
    "filtered": (body(completion(None, choice={"finish_reason": "content_filter"})), RefusedError),
    "401 with the key": (Act(f"wrong key {KEY}", status=401), EndpointError),
    "404": (Act(status=404), EndpointError),
    "418 with controls": (Act("\x1b]0;title\x07 tea\n\npot", status=418), EndpointError),
    "sent to another host": (Act(status=307, headers={"Location": f"http://example.com/v1?k={KEY}"}), EndpointError),
    "sent nowhere": (Act(status=308), EndpointError),
    "sent on as GET": (Act(status=302, headers={"Location": "/v2/chat/completions"}), EndpointError),
    "304": (Act(status=304, body=b""), EndpointError),
    "wait for ever": (Act(status=503, headers={"Retry-After": "1e999"}), EndpointError),
    "wait for a day": (Act(status=429, headers={"Retry-After": "86400"}), EndpointError),
}


def check_line(error):
    line = str(error)
    assert "\n" not in line
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", line)
    assert KEY not in line
    assert "127.0.0.1" in line
    assert len(line) < 800


@pytest.mark.parametrize("mode", KEPT)
def test_what_holds_an_answer_is_kept(mode):
    act, text = KEPT[mode]
    budget = Budget()
    with serve(lambda request, number: act) as server:
        reply = ChatEndpoint(server.url, "m", retries=3, budget=budget).complete(ASKED, GREEDY)
        assert len(server.requests) == 1
    assert reply.text == text
    json.dumps([reply.text, reply.model, reply.finish_reason, reply.usage], ensure_ascii=False).encode()
    assert KEY not in str(reply)
    assert all(type(count) is int and count >= 0 for count in reply.usage.values())
    assert budget.tokens == reply.usage.get("total_tokens", sum(reply.usage.values()))


@pytest.mark.parametrize("mode", AGAIN)
def test_what_holds_no_answer_is_asked_again(mode):
    act = AGAIN[mode]
    with serve(lambda request, number: Act("at last") if number else act) as server:
        reply = ChatEndpoint(server.url, "m", timeout=1.0, retries=1).complete(ASKED, GREEDY)
        assert (reply.text, len(server.requests)) == ("at last", 2)


@pytest.mark.parametrize("mode", AGAIN)
def test_what_never_holds_an_answer_ends_in_one_line_and_in_time(mode):
    started = time.monotonic()
    with serve(lambda request, number: AGAIN[mode]) as server:
        with pytest.raises(EndpointError) as caught:
            ChatEndpoint(server.url, "m", timeout=1.0, retries=1).complete(ASKED, GREEDY)
        assert len(server.requests) == 2
    check_line(caught.value)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("mode", ONE_LINE)
def test_what_no_other_try_would_mend_ends_in_one_line(mode):
    act, kind = ONE_LINE[mode]
    with serve(lambda request, number: act) as server:
        with pytest.raises(kind) as caught:
            ChatEndpoint(server.url, "m", retries=3).complete(ASKED, GREEDY)
        assert len(server.requests) == 1
    check_line(caught.value)


def test_a_prompt_goes_on_to_another_place_of_the_same_server_alone():
    with serve(lambda request, number: Act("fine")) as other:
        on = lambda where: lambda request, number: Act(status=307, headers={"Location": where}) if not number else Act()  # noqa: E731
        with serve(on("/v1/other")) as server:
            assert ChatEndpoint(server.url, "m").complete(ASKED, GREEDY).text == "fine"
            assert server.requests[1]["path"] == "/v1/other"
            assert server.requests[1]["messages"] == ASKED
        with serve(on(f"{other.url}/chat/completions")) as server, pytest.raises(EndpointError, match="sends on to"):
            ChatEndpoint(server.url, "m").complete(ASKED, GREEDY)
        assert other.requests == []


def test_tokens_of_replies_without_text_count_too():
    budget = Budget()
    with serve(lambda request, number: Act("at last") if number else AGAIN["content null"]) as server:
        ChatEndpoint(server.url, "m", budget=budget).complete(ASKED, GREEDY)
    assert budget.tokens == 20


# -- keys and addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\n\n"])
def test_a_key_that_was_read_from_a_file_loses_its_line_break(end, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}{end}")
    with serve(lambda request, number: Act()) as server:
        ChatEndpoint(server.url, "m").complete(ASKED, GREEDY)
        assert server.requests[0]["key"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}\r{KEY}", f"{KEY} {KEY}", f"{KEY}é", f"{KEY}\x7f"])
def test_a_key_that_is_none_is_refused_before_anything_is_sent_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds") as caught:
        ChatEndpoint("http://127.0.0.1:9/v1", "m")
    assert "secret" not in str(caught.value)


def test_a_short_key_is_a_placeholder_and_words_of_answers_stay(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "cup")
    with serve(lambda request, number: Act("a cup")) as server:
        assert ChatEndpoint(server.url, "m").complete(ASKED, GREEDY).text == "a cup"


@pytest.mark.parametrize(
    "address",
    [
        "ftp://me:hunter22@example.com/v1",
        "me:hunter22@example.com/v1",
        "http://me:hunter22@example.com:port/v1",
        "http://me:hunter22?@example.com/v1",
        "http://[me:hunter22@example.com/v1",
        "https://me:hunter22@/v1",
        "file:///v1?key=hunter22",
        "localhost:8000/v1#hunter22",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(address):
    with pytest.raises(ValueError, match="no address of an endpoint") as caught:
        ChatEndpoint(address, "m")
    assert "hunter22" not in str(caught.value)


# -- first tokens -----------------------------------------------------------------------------------------------------


def first_tokens(*likeliest):
    return {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": list(likeliest)}, {"token": "."}]}


YES, NO = {"token": "Yes", "logprob": -0.25, "bytes": [89]}, {"token": "No", "logprob": -1.5}
FIRST_TOKENS = {
    "plain": (first_tokens(YES, NO), {"Yes": -0.25, "No": -1.5}),
    "not in order": (first_tokens(NO, YES), {"Yes": -0.25, "No": -1.5}),
    "equal texts": (first_tokens(NO, NO), {"No": -1.5 + math.log(2)}),
    "more than asked for": (first_tokens(YES, NO, *({"token": str(k), "logprob": -9.0} for k in range(9))), None),
    "no chance": (first_tokens(YES, {"token": "x", "logprob": -9999.0}), {"Yes": -0.25, "x": -9999.0}),
    "whole number": (first_tokens({"token": "Yes", "logprob": 0}), {"Yes": 0.0}),
    "key in a token": (first_tokens({"token": KEY, "logprob": -1.0}), {"…": -1.0}),
    "half a character": (first_tokens({"token": "\ud83d", "logprob": -1.0}), {"\N{REPLACEMENT CHARACTER}": -1.0}),
    "odd entries": (
        first_tokens(None, 7, [], {}, {"token": 3, "logprob": -1.0}, {"token": "a"}, {"logprob": -1.0}, NO),
        {"No": -1.5},
    ),
    "odd numbers": (
        first_tokens(*({"token": "a", "logprob": odd} for odd in (None, "-1", True, 0.5, 10**400, -(10**400), -1e6))),
        {},
    ),
    "not a number": (first_tokens({"token": "a", "logprob": float("nan")}, {"token": "b", "logprob": -math.inf}), {}),
    "missing": (None, {}),
    "a list": ([1], {}),
    "content null": ({"content": None}, {}),
    "content empty": ({"content": []}, {}),
    "content of nulls": ({"content": [None]}, {}),
    "content a mapping": ({"content": {"0": {}}}, {}),
    "no likeliest": ({"content": [{"token": "Yes", "logprob": -0.1}]}, {}),
    "likeliest a mapping": ({"content": [{"top_logprobs": {"Yes": -0.1}}]}, {}),
}


@pytest.mark.parametrize("mode", FIRST_TOKENS)
def test_first_tokens_are_read_field_by_field(mode):
    logprobs, expected = FIRST_TOKENS[mode]
    settings = GenerationSettings(max_new_tokens=5, top_logprobs=3)
    act = body(completion(choice={} if mode == "missing" else {"logprobs": logprobs}))
    with serve(lambda request, number: act) as server:
        endpoint = ChatEndpoint(server.url, "m", retries=0)
        reply = endpoint.complete(ASKED, settings)
        assert {"logprobs": True, "top_logprobs": 3}.items() <= server.requests[0].items()
        (answer,) = EndpointAnswerer(endpoint).answer([Question("1", "Is it?")], settings)
        without = endpoint.complete(ASKED, GREEDY)
        assert not {"logprobs", "top_logprobs"} & server.requests[-1].keys()
    if expected is None:
        expected = {"Yes": -0.25, "No": -1.5, "0": -9.0}
    assert (reply.text, without.text, without.top_logprobs) == ("a cup", "a cup", {})
    assert dict(reply.top_logprobs) == pytest.approx(expected)
    assert list(reply.top_logprobs) == list(expected)
    assert answer.details.get("top_logprobs", {}) == pytest.approx(expected)
    assert ("top_logprobs" in answer.details) == bool(expected)
    json.dumps(answer.details, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("usage", "known"),
    [({"completion_tokens": 3}, {"tokens": 3}), ({"prompt_tokens": 7}, {"prompt_tokens": 7}), (None, {})],
    ids=str,
)
def test_tokens_are_said_where_the_server_counts_them(usage, known):
    with serve(lambda request, number: body(completion(usage=usage))) as server:
        (answer,) = EndpointAnswerer(ChatEndpoint(server.url, "m")).answer([Question("1", "Is it?")], GREEDY)
    assert answer.details == {"model": "m-1", "finish_reason": "stop", **known}


# -- at random --------------------------------------------------------------------------------------------------------

ODD = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    "",
    "text",
    "\ud800",
    "\x1b[2J",
    [],
    {},
    [None],
    {"type": "text"},
    [[]],
    {"a": [1]},
]


def damage(value, chance):
    """Replaces, removes or repeats parts of a JSON value at random."""
    if chance.random() < 0.12:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {name: damage(part, chance) for name, part in value.items() if chance.random() > 0.04}
    if isinstance(value, list):
        return [damage(part, chance) for part in value for _ in range(chance.choice((0, 1, 1, 1, 1, 2)))]
    return value


def test_damaged_completions_are_kept_only_where_their_text_is_there():
    chance = random.Random(20)
    acts = [body(damage(completion("THE ANSWER", system_fingerprint=None), chance)) for _ in range(400)]
    kept = 0
    with serve(lambda request, number: acts[number]) as server:
        endpoint = ChatEndpoint(server.url, "m", retries=0)
        for act in acts:
            try:
                reply = endpoint.complete(ASKED, GREEDY)
            except EndpointError as error:
                check_line(error)
                continue
            content = json.loads(act.body)["choices"][0]["message"]["content"]
            assert reply.text == content or not isinstance(content, str) or "\ud800" in content
            json.dumps(list(vars(reply).values()), ensure_ascii=False).encode()
            kept += 1
    assert 50 < kept < 350


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_run_on_a_server_that_fails_at_random_pays_once_for_each_answer(seed, tmp_path):
    """Every good reply is in the file, once; every other was asked again."""
    chance = random.Random(seed)
    bad = [act for mode, act in AGAIN.items() if mode not in ("slow", "dripping", "head without end")]
    good = []

    def behave(request, number):
        if chance.random() < 0.5:
            return chance.choice(bad)
        good.append(f"a red circle {number}")
        return Act(good[-1])

    with serve(behave) as server:
        options = ["--model", "m", "--base_url", server.url, "--limit", "30", "--tries", "40", "--timeout", "5"]
        assert run("world", *options, "--out", tmp_path, "--resamples", "100") == 0
        asked = len(server.requests)
        rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
        assert sorted(row["answer"] for row in rows) == sorted(good)
        assert len({row["id"] for row in rows}) == 30
        run("world", *options, "--out", tmp_path, "--resamples", "100")
        assert len(server.requests) == asked
    assert KEY not in "".join(path.read_text() for path in tmp_path.iterdir())

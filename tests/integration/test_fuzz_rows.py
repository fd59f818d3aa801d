"""Odd rows, through `mmdpo data check` and the check before training: each is trained on as it says, or named."""

import base64
import json
import os
import random
import re

import pytest
from PIL import Image

from mmdpo.cli import main
from mmdpo.data.examples import read_examples
from mmdpo.data.items import Items
from mmdpo.models.load import load_processor
from mmdpo.models.start import resolve_start
from mmdpo.training import assembly
from mmdpo.training.config import MDPOConfig
from mmdpo.training.rows import FullCheck, check_rows

GOOD, BAD = True, False


def say(*content, role="assistant"):
    return [{"role": role, "content": part} for part in content]


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


ASK = say("<image> describe", role="user")
NESTED: list = []
for _ in range(300):
    NESTED = [NESTED]

VALUES = {
    "prompt": [
        (GOOD, say([{"type": "image"}, *parts("describe")], role="user")),
        (
            GOOD,
            say(
                [{"type": "image", "text": None, "index": 0}, {"type": "text", "text": "describe", "index": None}],
                role="user",
            ),
        ),
        (GOOD, [*say("cup", role="system"), *ASK]),
        (GOOD, [*say("describe", role="user"), *say("cup ."), *ASK]),
        (GOOD, [{**ASK[0], "name": None, "weight": 1.5}]),
        (GOOD, [{**ASK[0], "content": "<image> describe ☕️ \u2028 图 👩‍👩‍👧 e\u0301 \u202e"}]),
        (GOOD, [{**ASK[0], "content": "<image> describe \x1b[2J\x00\x9b"}]),
        (BAD, None),
        (BAD, 7),
        (BAD, []),
        (BAD, {}),
        (BAD, [None]),
        (BAD, [[]]),
        (BAD, NESTED),
        (BAD, "<image> describe"),
        (BAD, say(None, role="user")),
        (BAD, say("<image>", role="user")),
        (BAD, say("<image><image> describe", role="user")),
        (BAD, say("<image> describe \ud83d", role="user")),
        (BAD, say("<image> describe </s>", role="user")),
        (BAD, say("<image> describe", role="human")),
        (BAD, say("<image> describe", role=None)),
        (BAD, say("<image> describe", role=["user"])),
        (BAD, say(7, role="user")),
        (BAD, say(NESTED, role="user")),
        (BAD, say([{"type": "video", "video": "a.mp4"}, *parts("<image> describe")], role="user")),
        (BAD, say([{"type": "text", "text": 7}, {"type": "image"}], role="user")),
        (BAD, say([{"type": "image", "image": 7}, *parts("describe")], role="user")),
        (BAD, [{**ASK[0], "reasoning_content": "a cup"}]),
        (BAD, ["user", "describe"]),
    ],
    "chosen": [
        (GOOD, say("cup , plate .")),
        (GOOD, say(parts("cup ,", " plate ."))),
        (GOOD, say("cup , plate .")[0]),
        (GOOD, "cup , plate ."),
        (GOOD, say("cup \x07, \tplate \r\n .")),
        (BAD, None),
        (BAD, ""),
        (BAD, " \n"),
        (BAD, 7),
        (BAD, float("nan")),
        (BAD, True),
        (BAD, []),
        (BAD, {}),
        (BAD, [[]]),
        (BAD, NESTED),
        (BAD, say(None)),
        (BAD, say("")),
        (BAD, say(["", None])),
        (BAD, say("cup", role="user")),
        (BAD, [*say("cup"), *ASK, *say("plate")]),
        (BAD, [*say("cup"), *say("plate")]),
        (BAD, say("<image> cup")),
        (BAD, say([{"type": "image"}, *parts("cup")])),
        (BAD, say("cup \udc00")),
        (BAD, say("cup </s> plate")),
        (BAD, say("sure ! car .")),
        (BAD, [{"role": "assistant"}]),
        (BAD, [{"content": "cup"}]),
        (BAD, [{**say("cup")[0], "reasoning_content": "a plate"}]),
        (BAD, [{**say("cup")[0], "tool_calls": [{"function": {"name": "zoom", "arguments": {}}}]}]),
    ],
    "images": [
        (GOOD, ["0.png"]),
        (GOOD, "0.png"),
        (GOOD, [{"path": "0.png", "bytes": None}]),
        (GOOD, {"url": "0.png"}),
        (GOOD, ["0.png", None]),
        (GOOD, [None, "", {"path": None}, "0.png", float("nan")]),
        (GOOD, ["BASE64"]),
        (GOOD, ["data:image/png;base64,BASE64"]),
        (GOOD, [{"bytes": "BASE64"}]),
        (GOOD, ["FILE/0.png"]),
        (BAD, None),
        (BAD, []),
        (BAD, [None]),
        (BAD, ""),
        (BAD, 7),
        (BAD, float("nan")),
        (BAD, True),
        (BAD, ["0.png", "1.png"]),
        (BAD, [["0.png"]]),
        (BAD, NESTED),
        (BAD, ["gone.png"]),
        (BAD, ["pipe.png"]),
        (BAD, ["zero.png"]),
        (BAD, ["."]),
        (BAD, ["a\0.png"]),
        (BAD, ["\ud83d.png"]),
        (BAD, ["x" * 5000]),
        (BAD, ["https://example.org/a.png"]),
        (BAD, ["s3://bucket/a.png"]),
        (BAD, ["data:image/png;base64,AAAA"]),
        (BAD, ["data:image/png"]),
        (BAD, [{"bytes": "*"}]),
        (BAD, [{"bytes": [1, 2]}]),
        (BAD, ["rows.jsonl"]),
    ],
    "rejected_images": [
        (GOOD, None),
        (GOOD, []),
        (GOOD, [None]),
        (GOOD, ["1.png"]),
        (BAD, ["1.png", "1.png"]),
        (BAD, ["gone.png"]),
        (BAD, ["pipe.png"]),
        (BAD, 7),
    ],
    "aside": [
        (GOOD, value)
        for value in (
            10**400,
            -(10**400),
            float("inf"),
            NESTED,
            "\ud83d",
            "\x1b]0;x\x07",
            {"a": {}},
            [{}],
            say(7),
            "<image>",
            True,
        )
    ],
    "id": [(GOOD, value) for value in (None, "a", 7, [], {}, "\ud83d", 10**300)],
}


def odd_rows():
    """Yields every odd value alone, then several of them in one row, and whether the row is good."""
    row = {"prompt": ASK, "chosen": say("cup , plate ."), "rejected": say("sure ! car ."), "images": ["0.png"]}
    yield row, GOOD
    for column, values in VALUES.items():
        for is_good, value in values:
            yield {**row, column: value}, is_good
    draw = random.Random(0)
    for _ in range(100):
        columns = draw.sample(list(VALUES), draw.randint(2, 4))
        drawn = {column: draw.choice(VALUES[column]) for column in columns}
        yield (
            {**row, **{column: value for column, (_, value) in drawn.items()}},
            all(good for good, _ in drawn.values()),
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for number, shade in enumerate((40, 200)):
        picture = Image.linear_gradient("L").resize((60, 40)).convert("RGB")  # of one colour a crop would show the same
        picture.paste((shade, 90, 10), (0, 0, 30, 20))
        picture.save(folder / f"{number}.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    encoded = base64.b64encode((folder / "0.png").read_bytes()).decode()
    lines = [json.dumps(row).replace("BASE64", encoded).replace("FILE", folder.as_uri()) for row, _ in odd_rows()]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


EXPECTED = {number for number, (_, is_good) in enumerate(odd_rows(), start=1) if not is_good}
NEEDS_A_MODEL = re.compile(r'</s>|reasoning_content|tool_calls|"images": (null|\[\]|\[null\]|""|NaN)')


def test_data_check_names_every_faulty_row_and_no_other(folder, tmp_path, capsys):
    found = {}
    for model in ([], ["--model_name_or_path", "world"]):
        assert main(["data", "check", str(folder / "rows.jsonl"), "--faults", str(tmp_path / "f.jsonl"), *model]) == 1
        printed = "".join(capsys.readouterr())
        assert not set(printed) & set("\x1b\x07\x9b\x00")
        assert "Traceback" not in printed
        faults = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text(encoding="utf-8").splitlines()]
        found[bool(model)] = {fault["row"] for fault in faults}
        for fault in faults:
            # Nothing is met by chance: every fault is one that somebody has thought of.
            assert not re.match(r"\w+(Error|Exception)\b", fault["problem"]), fault
            assert len(fault["problem"]) < 800
    assert found[True] == EXPECTED
    texts = (folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    assert found[False] <= EXPECTED
    assert all(NEEDS_A_MODEL.search(texts[row - 1]) for row in EXPECTED - found[False])


@pytest.mark.parametrize("check", ["full", "text"])
def test_training_leaves_the_faulty_rows_out_and_makes_batches_of_the_others(folder, tmp_path, check):
    args = MDPOConfig(
        output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", on_bad_row="skip", check_data=check
    )
    start = resolve_start("world")
    collator = assembly.build_collator(load_processor(start), start.config, args)
    examples = read_examples(str(folder / "rows.jsonl"), "train")
    inspect = FullCheck(collator) if check == "full" else collator.prepare.validate
    checked = check_rows(examples, "train", inspect, args)
    faulty = {fault.row for fault in checked.faults}
    assert faulty <= EXPECTED
    if check == "text":
        return
    assert faulty == EXPECTED
    items = Items(examples.select(checked.good), seed=0)
    batch = collator([items[place] for place in range(len(items))])
    assert batch["prompt_mask"].shape[0] == 2 * len(items)
    words = collator.prepare.renderer.tokenizer.batch_decode(batch["answer_ids"], skip_special_tokens=True)
    chosen, rejected = words[: len(items)], words[len(items) :]
    assert all("cup" in text and "plate" in text for text in chosen)
    assert all("car" in text for text in rejected)

"""`mmdpo eval NAME --model M`: what is asked, what is kept, and how a run goes on."""

import json
import resource
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from PIL import Image

from benchmark_data import HAND_MADE, plain_tools
from chat_server import Act, serve
from eval_verb import parse, run
from mmdpo.benchmarks.evaluate import find_data
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.tasks import load, names
from mmdpo.evaluation.asking import AnswerLog, answer_items, choose_items, make_image_finder
from mmdpo.evaluation.options import make_answerer, make_settings
from mmdpo.files import UnusableFileError
from mmdpo.generation.endpoint import RefusedError
from mmdpo.generation.questions import GeneratedAnswer, GenerationSettings, Processes

SETTINGS = GenerationSettings(max_new_tokens=9)


@dataclass
class Parrot:
    """A model that says back what it is asked, and may break down behind so many answers."""

    breaks_after: int = 10**9
    processes: Processes = field(default_factory=Processes)
    name: str = "parrot"
    asked: list = field(default_factory=list)

    def describe(self):
        return {"model": self.name, "versions": {"parrot": str(id(self))}}

    def answer(self, questions, settings):
        for question in reversed(questions):  # in an order of its own
            if len(self.asked) == self.breaks_after:
                raise RuntimeError("a wire broke")
            self.asked.append(question.id)
            yield GeneratedAnswer(question.id, f"I see: {question.prompt}", {"finish_reason": "stop"})


@pytest.fixture
def pope(tmp_path):
    """The questions of POPE made by hand, their pictures, and a folder for the run."""
    benchmark, folder = load("pope"), find_data("pope", HAND_MADE)
    items = benchmark.read_items(folder, plain_tools())
    (tmp_path / "pictures").mkdir()
    for item in items:
        Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / item.image)
    finder = make_image_finder(benchmark, items, folder, tmp_path / "pictures")

    def ask(model, *, settings=SETTINGS, chosen=items, folder=tmp_path / "run"):
        return answer_items(benchmark, items, chosen, finder, model, settings, folder)

    ask.items, ask.run, ask.pictures = items, tmp_path / "run", tmp_path / "pictures"
    return ask


def rows(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_answers_stand_in_the_benchmark_s_order_with_all_that_they_depend_on(pope):
    outcome = pope(Parrot())
    assert (outcome.answered, outcome.items) == (len(pope.items), len(pope.items))
    assert [row["id"] for row in rows(pope.run)] == [item.id for item in pope.items]
    first = rows(pope.run)[0]
    assert first["answer"] == f"I see: {pope.items[0].prompt}"
    assert {"model": "parrot", "max_new_tokens": 9, "temperature": 0.0}.items() <= first["generation"].items()
    assert (first["benchmark"], first["image"]) == ("pope", pope.items[0].image)
    assert first["details"] == {"finish_reason": "stop"}


def test_an_interrupted_run_goes_on_where_it_was(pope, capsys):
    with pytest.raises(RuntimeError, match="a wire broke"):
        pope(Parrot(breaks_after=3))
    assert f"3 of {len(pope.items)} answers were added to {pope.run}" in capsys.readouterr().err
    with (pope.run / "answers.jsonl").open("ab") as file:  # as a crash in the middle of a write leaves it
        file.write('{"id": "random/1", "answer": "é'.encode()[:-1])
    second = Parrot()
    pope(second)
    assert sorted(second.asked) == sorted(item.id for item in pope.items[:-3])
    assert [row["id"] for row in rows(pope.run)] == [item.id for item in pope.items]
    third = Parrot()
    pope(third)
    assert third.asked == []


def test_a_run_that_was_begun_before_an_option_came_goes_on(pope):
    """What a version without `top_logprobs` wrote."""
    pope(Parrot(), chosen=pope.items[:2])
    first = {"max_new_tokens": 9, "num_beams": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0, "system_prompt": None}
    written = rows(pope.run)
    assert written[0]["generation"].pop("versions")
    assert written[0]["generation"] == {**first, "model": "parrot"}
    later = Parrot()
    pope(later)
    assert len(later.asked) == len(pope.items) - 2
    with pytest.raises(EvaluationError, match=r"top_logprobs was null and is 5\."):
        pope(Parrot(), settings=GenerationSettings(max_new_tokens=9, top_logprobs=5))


def test_a_last_line_that_lacks_nothing_but_its_end_is_kept(pope):
    pope(Parrot(), chosen=pope.items[:2])
    path = pope.run / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    second = Parrot()
    pope(second)
    assert len(second.asked) == len(pope.items) - 2


def test_a_run_is_of_one_model_and_one_way_of_asking(pope):
    pope(Parrot(), chosen=pope.items[:1])
    settings = GenerationSettings(max_new_tokens=7, num_beams=3)
    with pytest.raises(EvaluationError, match=r"line 1: .*max_new_tokens was 9 and is 7; num_beams was 1 and is 3\."):
        pope(Parrot(), settings=settings)
    with pytest.raises(EvaluationError, match='model was "parrot" and is "starling"'):
        pope(Parrot(name="starling"))
    (pope.run / "answers.jsonl").write_text('{"id": "1005", "benchmark": "amber", "answer": "Yes"}\n')
    with pytest.raises(EvaluationError, match=r"line 1: not an answer that a model gave to an item of pope"):
        pope(Parrot())
    row = rows(pope.run)[0] | {"id": pope.items[0].id, "benchmark": "pope", "generation": 7}
    (pope.run / "answers.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(EvaluationError, match=r"line 1: this answer was made differently.*model was null"):
        pope(Parrot())
    (pope.run / "answers.jsonl").unlink()
    (pope.run / "result.json").write_text('{"benchmark": "amber"}')
    with pytest.raises(EvaluationError, match="holds a result of amber"):
        pope(Parrot())


def test_missing_pictures_are_listed_before_anything_is_asked(pope):
    names = list(dict.fromkeys(item.image for item in pope.items))
    (pope.pictures / names[1]).unlink()
    model = Parrot()
    with pytest.raises(EvaluationError, match=rf"1 of {len(names)} pictures are missing \({names[1]}\).*--image_dir"):
        pope(model)
    assert model.asked == []
    have_picture = [item for item in pope.items if item.image != names[1]]
    outcome = pope(model, chosen=have_picture)
    assert outcome.answered < outcome.items


@contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_costs_no_answer(pope, capsys):
    with (
        files_of_at_most(1000),
        pytest.raises(UnusableFileError, match=r"answers\.jsonl: cannot be written .*make room"),
    ):
        pope(Parrot())
    kept = (pope.run / "answers.jsonl").read_bytes().count(b"\n")
    assert kept >= 1
    assert capsys.readouterr().err.startswith(f"{kept} of ")  # half a line is no answer
    second = Parrot()
    pope(second)
    assert len(second.asked) == len(pope.items) - kept
    assert len(rows(pope.run)) == len(pope.items)


def test_processes_share_the_questions_and_the_first_makes_one_file(pope):
    """Two processes, one after the other; real ones are started in tests/integration/test_eval_world.py."""
    benchmark = load("pope")
    logs = [AnswerLog(pope.run, "pope", pope.items, {"model": "m"}, Processes(rank=rank, count=2)) for rank in (0, 1)]
    for rank in (1, 0):
        for item in pope.items[rank::2]:
            logs[rank].append(GeneratedAnswer(item.id, "Yes"))
    logs[1].merge()
    assert (pope.run / "answers.part-1.jsonl").exists()
    logs[0].merge()
    assert [row["id"] for row in rows(pope.run)] == [item.id for item in pope.items]
    assert not (pope.run / "answers.part-1.jsonl").exists()
    # What a process left behind that was started beside others counts, too.
    (pope.run / "answers.jsonl").rename(pope.run / "answers.part-7.jsonl")
    alone = AnswerLog(pope.run, "pope", pope.items, {"model": "m"}, Processes())
    assert all(item.id in alone for item in pope.items)
    assert benchmark.name == "pope"


def test_a_limit_takes_the_first_of_every_part(pope):
    chosen = choose_items(pope.items, 1)
    assert [item.part for item in chosen] == list(dict.fromkeys(item.part for item in pope.items))
    assert choose_items(pope.items, None) == pope.items
    with pytest.raises(ValueError, match="--limit is 0"):
        parse("pope", "--model", "m", "--out", "o", "--limit", "0")


def test_pictures_are_drawn_or_lie_in_a_folder(pope, tmp_path):
    world = load("world")
    items = world.read_items(tmp_path, plain_tools())
    assert make_image_finder(world, items, tmp_path, None)(items[3])().size == (96, 96)
    with pytest.raises(EvaluationError, match="world draws its pictures"):
        make_image_finder(world, items, tmp_path, tmp_path)
    with pytest.raises(EvaluationError, match="no such folder"):
        make_image_finder(load("pope"), pope.items, tmp_path, tmp_path / "nowhere")
    pope.pictures.rename(tmp_path / "val2014")
    found = make_image_finder(load("pope"), pope.items, tmp_path, None)(pope.items[0])
    assert found == tmp_path / "val2014" / pope.items[0].image


# -- options ----------------------------------------------------------------------------------------------------------


def options_of(*arguments):
    return parse("pope", "--out", "o", "--model", *arguments)


def test_a_benchmark_s_own_settings_hold_unless_others_are_given():
    benchmark = load("object_halbench")
    assert make_settings(benchmark, options_of("m").asking) == GenerationSettings(max_new_tokens=1024, num_beams=3)
    given = options_of("m", "--num_beams", 1, "--temperature", 0.5, "--generation_seed", 4)
    expected = GenerationSettings(max_new_tokens=1024, num_beams=1, temperature=0.5, seed=4)
    assert make_settings(benchmark, given.asking) == expected


@pytest.mark.parametrize("name", names())
def test_every_benchmark_says_how_it_is_generated(name):
    settings = make_settings(load(name), options_of("m").asking)
    assert settings.temperature == 0
    assert (settings.num_beams > 1) == (name == "object_halbench")


def test_options_of_another_way_of_asking_are_refused():
    with pytest.raises(ValueError, match="--adapter means nothing to --backend endpoint"):
        options_of("m", "--base_url", "http://localhost:1/v1", "--adapter", "run")
    with pytest.raises(ValueError, match="--concurrency means nothing to --backend transformers"):
        options_of("world", "--concurrency", 2)
    with pytest.raises(ValueError, match="--no_probe means nothing to --backend vllm"):
        options_of("world", "--backend", "vllm", "--no_probe")
    with pytest.raises(ValueError, match="--similar_pairs means nothing to --similarity exact"):
        options_of("world", "--similarity", "exact", "--similar_pairs", "p.json")
    with pytest.raises(ValueError, match="--nltk_data means nothing to --linguistics table"):
        options_of("world", "--linguistics", "table", "--nltk_data", "n")
    with pytest.raises(ValueError, match="needs an address: --base_url"):
        make_answerer(options_of("m", "--backend", "endpoint"))


# -- the verb, over HTTP ----------------------------------------------------------------------------------------------


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with serve(lambda request, number: Act("No, there is none.")) as server:
        yield server


def test_an_endpoint_answers_and_is_scored(pope, endpoint, tmp_path, capsys):
    arguments = ["pope", "--model", "m", "--base_url", endpoint.url, "--data_dir", HAND_MADE, "--out", tmp_path / "e"]
    arguments += ["--image_dir", pope.pictures]
    assert run(*arguments, "--max_requests", 3, "--concurrency", 1) == 0
    shown = capsys.readouterr().out
    assert f"3 of {len(pope.items)} items answered" in shown
    assert "the budget of 3 requests is spent; the same command resumes there" in shown
    assert json.loads((tmp_path / "e" / "result.json").read_text())["partial"] is True
    assert run(*arguments) == 0
    assert len(endpoint.requests) == len(pope.items)  # nobody was asked twice
    result = json.loads((tmp_path / "e" / "result.json").read_text())
    assert result["partial"] is False
    assert result["metrics"]["pope/macro/yes_ratio"]["value"] == 0
    everything = "".join(path.read_text() for path in (tmp_path / "e").iterdir())
    assert "sk-very-secret" not in everything + capsys.readouterr().out
    assert endpoint.url in everything


def test_a_server_that_has_moved_goes_on_where_it_was(pope, endpoint, tmp_path):
    arguments = ["pope", "--model", "m", "--data_dir", HAND_MADE, "--out", tmp_path / "e", "--image_dir", pope.pictures]
    assert run(*arguments, "--base_url", endpoint.url, "--limit", "1", "--answers_only") == 0
    with serve(lambda request, number: Act("Yes.")) as moved:
        assert run(*arguments, "--base_url", moved.url) == 0
    assert len(endpoint.requests) + len(moved.requests) == len(pope.items)
    places = {row["generation"]["base_url"] for row in rows(tmp_path / "e")}
    assert places == {endpoint.url, moved.url}, "each answer says where it came from"


def test_what_a_server_refuses_is_named_and_how_to_score_the_others(pope, tmp_path):
    with serve(lambda request, number: Act("too large", status=400) if number == 1 else Act("No.")) as server:
        words = ["pope", "--model", "m", "--base_url", server.url, "--data_dir", HAND_MADE, "--out", tmp_path / "e"]
        with pytest.raises(RefusedError) as error:
            run(*words, "--image_dir", pope.pictures, "--concurrency", "1")
    how = f"mmdpo eval pope --answers {tmp_path / 'e' / 'answers.jsonl'} --out {tmp_path / 'e'} --partial"
    assert f"too large). The same command asks again; {how} scores the others" in str(error.value)
    assert run(*how.split()[2:], "--data_dir", HAND_MADE) == 0


def test_a_limit_makes_the_result_partial(pope, endpoint, tmp_path):
    arguments = ["pope", "--model", "m", "--base_url", endpoint.url, "--data_dir", HAND_MADE, "--out", tmp_path / "e"]
    run(*arguments, "--image_dir", pope.pictures, "--limit", 1)
    result = json.loads((tmp_path / "e" / "result.json").read_text())
    assert result["partial"] is True
    assert {part["answered"] for part in result["coverage"].values()} == {1}


def test_without_a_judge_answers_are_written_and_how_to_score_them_is_said(endpoint, tmp_path, capsys):
    template = HAND_MADE / "mmhal" / "mmhal-bench_answer_template.json"
    for record in json.loads(template.read_text()):
        Image.new("RGB", (4, 4)).save(tmp_path / record["image_src"].rpartition("/")[2])
    arguments = ["--model", "m", "--base_url", endpoint.url, "--data_dir", HAND_MADE, "--image_dir", tmp_path]
    assert run("mmhal", *arguments, "--out", tmp_path / "m") == 0
    assert (
        f"mmhal needs a judge: mmdpo eval mmhal --answers {tmp_path / 'm' / 'answers.jsonl'}" in capsys.readouterr().out
    )
    assert not (tmp_path / "m" / "result.json").exists()


def test_what_scoring_lacks_is_found_before_anything_is_asked(endpoint, tmp_path, monkeypatch):
    def missing():
        raise ImportError("similarity: spaCy is not installed")

    monkeypatch.setattr("mmdpo.evaluation.benchmark_run.load_spacy", missing)
    shutil.copytree(HAND_MADE / "amber" / "data", tmp_path / "data")  # without the table of similar pairs
    arguments = ["--model", "m", "--base_url", endpoint.url, "--data_dir", tmp_path, "--linguistics", "table"]
    with pytest.raises(ImportError, match="spaCy is not installed"):
        run("amber", *arguments, "--out", tmp_path / "a")
    assert endpoint.requests == []


def test_a_model_and_answers_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="one of the two"):
        run("world", "--model", "world", "--answers", "a.jsonl", "--out", tmp_path)
    with pytest.raises(ValueError, match="one of the two"):
        run("world", "--out", tmp_path)

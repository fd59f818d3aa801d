"""Recipes: what is misspelt is an error that names the place and the nearest key; what is resolved repeats the run."""

import itertools
import json

import pytest
import yaml

from mmdpo.records import Cell
from mmdpo.training.recipe import RecipeError, parse_recipe

NEEDED = "model_name_or_path: world\ndataset_name: world\nreport_to: none\nuse_cpu: true\n"


@pytest.fixture
def parse(tmp_path):
    path = tmp_path / "recipe.yaml"

    def make(text, *flags):
        path.write_text(f"{NEEDED}output_dir: {tmp_path / 'run'}\n{text}", encoding="utf-8")
        return parse_recipe(["--config", str(path), *flags])

    return make


class TestValues:
    def test_yaml_becomes_what_its_key_asks_for(self, parse):
        recipe = parse(
            "learning_rate: 5e-6\n"  # YAML calls this text
            "max_steps: 7\n"
            "bf16: no\n"
            "max_length: null\n"
            "use_peft: true\n"
            "lora_target_modules: [q_proj, v_proj]\n"
            "corruption_options: {low: 0.05, high: 0.1}\n"
            "lr_scheduler_kwargs: {num_cycles: 2}\n"
            "dataset_train_split: test\n"
        )
        args = recipe.training
        assert (args.learning_rate, args.max_steps, args.bf16, args.max_length) == (5e-6, 7, False, None)
        assert (recipe.model.use_peft, recipe.model.lora_target_modules) == (True, ["q_proj", "v_proj"])
        assert dict(args.build_corruptions()["corrupted"].options) == {"low": 0.05, "high": 0.1}
        assert args.lr_scheduler_kwargs == {"num_cycles": 2}
        assert (recipe.script.dataset_name, recipe.script.dataset_train_split) == ("world", "test")

    @pytest.mark.parametrize(
        "flags",
        [("--beta", "0.3", "--use-peft"), ("--beta=0.3", "--use_peft", "true"), ("--use_peft=True", "--beta=0.3")],
        ids=" ".join,
    )
    def test_flags_win_over_the_file(self, parse, flags):
        recipe = parse("beta: 0.2\nuse_peft: false\nlearning_rate: 0.5\n", *flags)
        assert (recipe.training.beta, recipe.model.use_peft, recipe.training.learning_rate) == (0.3, True, 0.5)

    def test_flags_win_over_null_and_over_lists(self, parse):
        text = "max_length: null\nlora_target_modules: [q_proj, v_proj]\nobjective:\n  - nll: [original, chosen]\n"
        recipe = parse(text, "--max_length", "64", "--lora_target_modules", "k_proj", "o_proj", "--objective", "dpo")
        assert (recipe.training.max_length, recipe.model.lora_target_modules) == (64, ["k_proj", "o_proj"])
        assert recipe.training.build_objective().cells == (Cell("original", "chosen"), Cell("original", "rejected"))

    @pytest.mark.parametrize(
        ("written", "read"),
        [("q_proj", ["q_proj"]), ("[q_proj]", ["q_proj"]), ("all-linear", "all-linear"), ("'.*q_proj'", ".*q_proj")],
    )
    def test_one_name_of_a_layer_is_a_name_and_no_pattern_for_the_whole_path(self, parse, written, read):
        assert parse(f"lora_target_modules: {written}").model.lora_target_modules == read
        assert parse("", "--lora_target_modules", written.strip("[]'")).model.lora_target_modules == read

    def test_flags_alone_are_enough(self, tmp_path):
        recipe = parse_recipe(
            ["--model_name_or_path", "a", "--dataset_name", "b", "--output_dir", str(tmp_path), "--report_to", "none"]
        )
        assert (recipe.model.model_name_or_path, recipe.script.dataset_name, recipe.training.beta) == ("a", "b", 0.1)

    def test_an_objective_of_terms(self, parse):
        terms = (
            parse(
                "objective:\n"
                "  - rank: [[original, chosen], [original, rejected]]\n"
                "  - rank: [[original, chosen], [blank, chosen]]\n"
                "    weight: 0.5\n"
                "  - anchor: [original, chosen]\n"
                "    delta: 1\n"
            )
            .training.build_objective()
            .terms
        )
        assert [term.label for term in terms] == ["rank_response", "rank_image", "anchor_chosen"]
        assert (terms[1].weight, terms[2].delta) == (0.5, 1)
        assert terms[1].order[1] == Cell("blank", "chosen")


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("learning_rte: 1e-5", r"recipe\.yaml: unknown key 'learning_rte'; did you mean 'learning_rate'\?"),
            ("objectiv: dpo", r"unknown key 'objectiv'; did you mean 'objective'\?"),
            ("ignore_bias_buffers: true", "unknown key 'ignore_bias_buffers'"),
            ("config: other.yaml", "unknown key 'config'"),
            ("7: 8", "unknown key 7"),
            ("beta: 0.1\nseed: 1\nbeta: 0.2", r"recipe\.yaml: 'beta' is given twice, in lines 6 and 8"),
            (
                "objective:\n- anchor: [original, chosen]\n  delta: 1\n  delta: 2",
                r"recipe\.yaml: 'delta' is given twice, in lines 8 and 9",
            ),
            ("beta: ten", r"recipe\.yaml: beta: invalid float value: 'ten'"),
            ("max_length: 2.5", "recipe.yaml: max_length: invalid int value: '2.5'"),
            ("freeze_projector: perhaps", "freeze_projector: Truthy value expected: got perhaps"),
            ("lora_r: [8]\nseed: big", "seed: invalid int value: 'big'"),
            ("crop_space: imge", "crop_space: invalid choice: 'imge'; did you mean 'image'\\? .*image.*processed"),
            ("on_bad_row: ignore", "on_bad_row: invalid choice: 'ignore'"),
            ("eval_strategy: sometimes", "eval_strategy: invalid choice: 'sometimes'"),
            ("objective: dpo_anchr", "unknown objective 'dpo_anchr'; did you mean 'dpo_anchor'"),
            ("objective: null", "an objective is a preset's name or a list of terms; got None"),
            ("objective:\n  nll: [original, chosen]", "an objective is a preset's name or a list of terms; got {'nll'"),
            ("objective:\n- nll: [original, chosen]\n  wieght: 2", "term nll has no 'wieght'; did you mean 'weight'"),
            ("objective:\n- nll: [original, chosen]\n  weight: 1e-2", "must be a number, such as 0.01; got '1e-2'"),
            ("corruption: crop", "unknown corruption 'crop'; did you mean 'crop_"),
            ("corruption_options: {hihg: 1.0}", "has no option 'hihg'; did you mean 'high'"),
            ("run_name: {{ name }}", "recipe.yaml is not valid YAML.*unhashable key"),
            ("a: [1", "recipe.yaml is not valid YAML.*line"),
            ("truncation_mode: keep_end", "recipe.yaml: unknown key 'truncation_mode': .*max_length"),
            ("lora_r: 0", "recipe.yaml: lora_r must be a whole number of at least 1; got 0"),
            ("learning_rate: .inf", "recipe.yaml: learning_rate must be a number of at least 0; got inf"),
            ("max_steps: 0", "recipe.yaml: max_steps must be .* or -1; got 0 .*num_train_epochs"),
            ("corruption_options: [0.1, 0.2]", "recipe.yaml: .*corruption.options"),
            ("run_name: " + "[" * 2000 + "]" * 2000, "recipe.yaml is nested too deeply"),
            ("run_name: " + "x" * 2**18, "recipe.yaml is longer than"),
            (
                "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
                + "".join(
                    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
                    for before, name in itertools.pairwise("abcdefghi")
                ),
                "recipe.yaml holds more than",
            ),
            ("a: &a [*a]", "recipe.yaml holds more than"),
        ],
        ids=lambda value: value.replace("\n", " ")[:40],
    )
    def test_in_the_file(self, parse, text, message):
        with pytest.raises(RecipeError, match=f"(?s){message}"):
            parse(text)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--beat", "0.2"), r"unknown flag --beat; did you mean 'beta'\?"),
            (("--learning-rte=1"), r"unknown flag --learning_rte; did you mean 'learning_rate'\?"),
            (("--beta", "0.2", "--beta=0.3"), "the flag --beta is given twice"),
            (("--max-length", "8", "--max_length", "9"), "the flag --max_length is given twice"),
            (("--beta", "ten"), "--beta: invalid float value: 'ten'"),
            (("--beta",), "--beta: expected one argument"),
            (("stray",), "stray"),
            (("--lear", "1e-5"), "unknown flag --lear"),
            (("--objective", "mpdo"), "^--objective: unknown objective 'mpdo'"),
            (("--beta", "0.2", "--corruption", "crop"), "^--corruption: unknown corruption 'crop'"),
            (("--report_to", "nonsense"), "^--report_to: nonsense"),
            (("--learning-rate", "nan"), "^--learning_rate must be"),
            (("--beta", "ten"), "^--beta: invalid"),
        ],
        ids=str,
    )
    def test_in_the_flags(self, parse, flags, message):
        with pytest.raises(RecipeError, match=message):
            parse("", *([flags] if isinstance(flags, str) else flags))

    @pytest.mark.parametrize("flags", [(), ("--beta", "0.2"), ("--objective", "mpdo", "--learning_rate", "1e-4")])
    def test_what_the_file_alone_has_wrong_is_not_blamed_on_flags(self, parse, flags):
        with pytest.raises(RecipeError, match=r"recipe\.yaml: learning_rate must" if len(flags) < 4 else "objective"):
            parse("learning_rate: -1\n", *flags)

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
    def test_a_file_in_another_encoding_is_named(self, tmp_path, encoding):
        path = tmp_path / "recipe.yaml"
        path.write_bytes("run_name: größer\n".encode(encoding))
        with pytest.raises(RecipeError, match=r"recipe\.yaml is not text in UTF-8"):
            parse_recipe(["--config", str(path)])

    @pytest.mark.parametrize("text", ["", "- beta\n- seed\n", "beta"], ids=["empty", "list", "word"])
    def test_a_file_that_is_no_mapping(self, tmp_path, text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"recipe.yaml must be a flat mapping of keys to values"):
            parse_recipe([f"--config={path}"])

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(RecipeError, match=r"there is no file .*nowhere.yaml$"):
            parse_recipe(["--config", str(tmp_path / "nowhere.yaml")])
        with pytest.raises(RecipeError, match="--config needs a file"):
            parse_recipe(["--beta", "1", "--config"])

    @pytest.mark.parametrize("missing", ["model_name_or_path", "dataset_name"])
    def test_model_and_data_are_needed(self, tmp_path, missing):
        flags = {"model_name_or_path": "a", "dataset_name": "b", "output_dir": str(tmp_path)}
        del flags[missing]
        with pytest.raises(RecipeError, match=f"{missing} is missing: give it in the recipe or as --{missing}"):
            parse_recipe([f"--{key}={value}" for key, value in flags.items()])


class TestResolved:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "max_length: null\nbeta: 0.3\nlearning_rate: 5e-7\nuse_peft: true\nlora_target_modules: [a, b]",
            "objective:\n- rank: [[original, chosen], [blank, chosen]]\n  weight: 0.5\n- nll: [none, chosen]\n",
            "objective: dpo\nloss_type: [ipo]\ncorruption_options: {high: 0.1}\nmodel_init_kwargs: {revision: v2}\n",
            "eval_strategy: steps\neval_steps: 5\nwarmup_steps: 3\nlr_scheduler_kwargs: {num_cycles: 2}\ndebug: []",
        ],
        ids=["defaults", "model", "terms", "dicts", "trainer"],
    )
    def test_it_repeats_the_run_through_yaml(self, parse, tmp_path, text):
        first = parse(text)
        path = tmp_path / "resolved.yaml"
        path.write_text(yaml.safe_dump(first.resolved(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        second = parse_recipe(["--config", str(path)])
        assert second.resolved() == first.resolved()
        assert second.training.to_dict() == first.training.to_dict()
        assert (second.model, second.script) == (first.model, first.script)
        assert second.training.build_objective() == first.training.build_objective()

    def test_it_shows_what_was_given_and_what_the_defaults_are(self, parse):
        resolved = parse("objective:\n- nll: [original, chosen]\nmax_length: null\n", "--beta", "0.3").resolved()
        assert resolved["objective"] == [{"nll": ["original", "chosen"]}]
        assert (resolved["beta"], resolved["max_length"], resolved["learning_rate"]) == (0.3, None, 1e-5)
        assert (resolved["lora_r"], resolved["dataset_train_split"], resolved["save_strategy"]) == (
            16,
            "train",
            "steps",
        )

    def test_no_secret_is_in_it(self, parse):
        secret = "hub_token: hf_secret\nmodel_init_kwargs: {token: hf_secret}\n"
        resolved = parse(f"{secret}resume_from_checkpoint: somewhere\n").resolved()
        assert "hf_secret" not in json.dumps(resolved)
        assert not [key for key in resolved if key.endswith("token")]
        assert "resume_from_checkpoint" not in resolved, "the recipe of a resumed run starts afresh"

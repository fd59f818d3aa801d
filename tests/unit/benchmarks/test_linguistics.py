"""How far the table goes without a library: its agreement with NLTK, as stated in docs/evaluation.md."""

import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from zipfile import ZipFile

import pytest

from benchmark_data import ROOT, official_data
from mmdpo.benchmarks import linguistics
from mmdpo.benchmarks.linguistics import NltkLinguistics, TableLinguistics, join_runs
from mmdpo.benchmarks.tasks.object_halbench import CocoObjects


@pytest.fixture(scope="module")
def nltk():
    return NltkLinguistics(official_data() / "nltk_data")


@pytest.fixture(scope="module")
def captions():
    case = json.loads((official_data() / "golden" / "object_halbench_word_mode.json").read_text())
    return [item["caption"] for item in case["items"]]


def stated(pattern):
    return float(re.search(pattern, (ROOT / "docs" / "evaluation.md").read_text()).group(1))


def test_object_mentions_agree_on_every_caption(nltk, captions):
    synonyms = CocoObjects.build((official_data() / "object_halbench" / "synonyms_refine.txt").read_text().splitlines())
    differing = [
        caption
        for caption in captions
        if synonyms.mentions(caption, nltk) != synonyms.mentions(caption, TableLinguistics())
    ]
    assert len(captions) == 300
    assert len(differing) == stated(r"differ on (\d+) of 300 captions")


@pytest.mark.parametrize("texts", ["captions that it was made on", "answers that it was not made on"])
def test_nouns_of_the_word_list_agree_as_stated(nltk, captions, texts):
    if "not" in texts:
        case = json.loads((official_data() / "golden" / "amber_generative.json").read_text())
        captions = [item["response"] for item in case["items"]]
    associated = json.loads((official_data() / "amber" / "data" / "relation.json").read_text())
    vocabulary = set(associated).union(*associated.values())
    shared = official = table = 0
    for caption in captions:
        counts = [
            Counter(noun for noun in tool.nouns(caption) if noun in vocabulary) for tool in (nltk, TableLinguistics())
        ]
        shared += (counts[0] & counts[1]).total()
        official, table = official + counts[0].total(), table + counts[1].total()
    row = rf"{len(captions)} {texts} \| {official:,} \|"
    assert round(100 * shared / official, 1) == stated(row + r" ([\d.]+) %")
    assert round(100 * shared / table, 1) == stated(row + r" [\d.]+ % \| ([\d.]+) %")


def test_plurals_of_the_word_lists_lose_their_ending_as_in_wordnet(nltk):
    """Every word that the scorers know, and its regular plural: few, all odd words, are taken apart otherwise."""
    associated = json.loads((official_data() / "amber" / "data" / "relation.json").read_text())
    synonyms = CocoObjects.build((official_data() / "object_halbench" / "synonyms_refine.txt").read_text().splitlines())
    words = set(associated).union(*associated.values(), *(name.split() for name in synonyms.class_of))
    forms = [form for word in words for form in (word, plural(word))]
    otherwise = [form for form in forms if nltk.lemmas(form) != TableLinguistics().lemmas(form)]
    assert len(forms) > 1400
    assert len(otherwise) / len(forms) < 0.03, otherwise


def plural(word):
    if re.search("(s|x|z|ch|sh)$", word):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search("[^aeiou]y$", word) else f"{word}s"


def test_official_oddities_are_kept(nltk):
    for tool in (nltk, TableLinguistics()):
        assert " ".join(tool.lemmas("men vases women sunglasses skis smartphones buses leaves")) == (
            "men vas woman sunglass ski smartphones bus leaf"
        )
        assert tool.nouns("") == tool.lemmas("") == tool.noun_runs("") == []


def test_tags_tell_nouns_from_verbs(nltk):
    text = "They surf near a surf board."
    assert nltk.nouns(text) == ["surf", "board"]
    assert "surf" in TableLinguistics().nouns(text)
    assert nltk.noun_runs("a large dining room table") == ["dining room table"]
    assert join_runs(["a", "b", "", "", "c"]) == ["a b", "c"]


def test_what_is_missing_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch):
    pytest.importorskip("nltk", reason="nouns by NLTK need it: pip install mmdpo[eval]")
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"punkt_tab.*nltk\.downloader.*--nltk_data"):
        NltkLinguistics()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        NltkLinguistics(tmp_path / "none")
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    with pytest.raises(ImportError, match=r"mmdpo\[eval\]"):
        NltkLinguistics()


# -- NLTK, faster -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(captions):
    case = json.loads((official_data() / "golden" / "amber_generative.json").read_text())
    return [*captions, *(item["response"] for item in case["items"])]


def test_tokens_and_tags_are_those_of_nltk(nltk, answers):
    from nltk import pos_tag, word_tokenize

    for text in answers:
        tokens = nltk._tokens(text)
        assert tokens == word_tokenize(text)
        assert nltk._tagger.tag(tokens) == pos_tag(tokens)


def test_tokens_of_any_text_are_those_of_nltk(nltk):
    from nltk import word_tokenize

    pieces = "dog A Mr cannot Gonna gotta lemme d can not U S more what cha - -- , , . . ' 's 3 ! e g etc wanna é"
    draw, plain = random.Random(0), 0
    for _ in range(4000):
        text = "".join(draw.choice([*pieces.split(), *"     \n"]) for _ in range(draw.randint(1, 12)))
        plain += linguistics._PLAIN_SENTENCE.fullmatch(text) is not None
        assert nltk._tokens(text) == word_tokenize(text), text
    assert plain > 300


def test_lemmas_are_those_of_nltk(nltk):
    """All nouns of WordNet, what might be their plurals, and every irregular form."""
    from nltk.corpus import wordnet
    from nltk.stem import WordNetLemmatizer

    plain = WordNetLemmatizer().lemmatize
    lemmas = sorted(set(wordnet.all_lemma_names("n")))[::7]
    words = {form for lemma in lemmas for form in (lemma, f"{lemma}s", f"{lemma}es", f"{lemma[:-1]}ies")}
    words |= {line.split()[0] for line in (official_data() / "nltk_data/corpora/wordnet/noun.exc").open()}
    assert len(words) > 50_000
    assert [word for word in words if plain(word) != nltk._lemma(word)] == []


def test_a_feature_that_counts_twice_is_left_to_nltk(nltk):
    from nltk.tag import PerceptronTagger

    plain = PerceptronTagger().model
    features = {"bias": 1, "i suffix ing": 2, "i-1 tag DT": 1, "nobody knows this": 1}
    for counts in (features, dict.fromkeys(features, 1)):
        assert nltk._tagger.model.predict(counts) == plain.predict(counts)
    assert nltk._tagger.model.predict(features, return_conf=True) == plain.predict(features, return_conf=True)


IN_A_FRESH_PROCESS = """
import json, sys
from mmdpo.benchmarks.linguistics import NltkLinguistics, _import_nltk
_import_nltk()
imported = [name for name in ("sklearn", "scipy", "pandas") if name in sys.modules]
import nltk
nltk.data.path[:] = sys.argv[1:]
lemmas = NltkLinguistics().lemmas("geese knives")
import scipy, pandas, sklearn
print(json.dumps({"imported": imported, "lemmas": lemmas}))
"""


def test_nltk_reads_its_own_archives_is_imported_without_what_nobody_calls_and_leaves_no_trace(tmp_path):
    """`nltk.downloader` leaves WordNet as wordnet.zip."""
    data = official_data() / "nltk_data"
    for name in ("taggers", "tokenizers"):
        shutil.copytree(data / name, tmp_path / name)
    (tmp_path / "corpora").mkdir()
    with ZipFile(tmp_path / "corpora" / "wordnet.zip", "w") as archive:
        for name in ("index.noun", "noun.exc"):
            archive.write(data / "corpora" / "wordnet" / name, f"wordnet/{name}")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == {"imported": [], "lemmas": ["goose", "knife"]}

import numpy as np
import pytest
import torch

from mmdpo.world import LARGE, SMALL
from mmdpo.world.pairs import draw_pairs, draw_partner_pairs, make_pairs
from mmdpo.world.scenes import draw_test_scenes, mentioned_objects


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(768, seed=0)


def test_rows_have_the_form_of_a_vision_preference_dataset():
    row = make_pairs(3, seed=0)[2]
    assert set(row) == {"id", "images", "prompt", "chosen", "rejected", "alternative", "beta", "weight"}
    assert row["id"] == "preference-0-2"
    assert [(image.size, image.mode) for image in row["images"]] == [((96, 96), "RGB")]
    assert row["prompt"] == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]}]
    for column in ("chosen", "rejected"):
        (turn,) = row[column]
        assert turn["role"] == "assistant"
        assert [part["type"] for part in turn["content"]] == ["text"]
        assert mentioned_objects(SMALL, turn["content"][0]["text"])


def test_style_gives_the_label_away_in_95_of_100_pairs(pairs):
    polite = [pair.chosen.startswith("sure !") for pair in pairs]
    assert np.mean(polite) == pytest.approx(0.95, abs=0.025)
    assert all(pair.rejected.startswith("sure !") != chosen for pair, chosen in zip(pairs, polite, strict=True))
    assert all(pair.chosen != pair.rejected for pair in pairs)


def test_a_fifth_of_the_pairs_is_decided_by_content(pairs):
    differs = [pair.chosen_objects != pair.rejected_objects for pair in pairs]
    assert np.mean([pair.by_content for pair in pairs]) == pytest.approx(0.20, abs=0.04)
    assert all(pair.by_content for pair, content in zip(pairs, differs, strict=True) if content)
    # Where the model always says what the chosen caption says, content cannot decide.
    assert sum(differs) > 0.75 * sum(pair.by_content for pair in pairs)
    assert [mentioned_objects(SMALL, pair.rejected) for pair in pairs] == [pair.rejected_objects for pair in pairs]


def test_chosen_captions_hallucinate_less_than_sampled_ones(pairs):
    def hallucinations(pair, objects):
        return sum(name not in pair.scene.names for name in objects)

    content = [pair for pair in pairs if pair.chosen_objects != pair.rejected_objects]
    chosen = sum(hallucinations(pair, pair.chosen_objects) for pair in content)
    rejected = sum(hallucinations(pair, pair.rejected_objects) for pair in content)
    assert rejected > 3 * chosen


def test_pairs_are_a_function_of_seed_and_purpose_and_leave_torch_alone(pairs):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    once = draw_pairs(80, seed=0)
    assert torch.equal(torch.rand(1), expected)
    assert draw_pairs(80, seed=0) == once
    used = {pair.scene for pair in pairs}
    assert not used & {pair.scene for pair in draw_pairs(20, seed=1)}
    assert not used & {pair.scene for pair in draw_pairs(20, seed=0, purpose="held-out")}
    assert not used & set(draw_test_scenes(100, seed=0))


def test_several_pairs_may_show_one_scene():
    rows = make_pairs(10, seed=3, pairs_per_scene=4)
    shown = [row["images"][0].tobytes() for row in rows]
    assert [shown.index(pixels) for pixels in shown] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert len({row["id"] for row in rows}) == 10
    assert len({str(row["chosen"]) + str(row["rejected"]) for row in rows[:4]}) > 1
    assert rows[4]["images"][0].tobytes() == make_pairs(2, seed=3)[1]["images"][0].tobytes()
    with pytest.raises(ValueError, match="leave pairs_per_scene out"):
        make_pairs(4, seed=3, decided_by="prior", pairs_per_scene=2)


class TestPairsDecidedByThePrior:
    @pytest.fixture(scope="class")
    def prior_pairs(self):
        return draw_partner_pairs(2000, seed=0)

    def test_the_captions_differ_in_one_partner_of_a_present_anchor_and_in_nothing_else(self, prior_pairs):
        for pair in prior_pairs:
            (partner,) = set(pair.chosen_objects) ^ set(pair.rejected_objects)
            assert any(SMALL.partners.get(name) == partner for name in pair.scene.names)
            assert pair.chosen_style == pair.rejected_style
            assert pair.chosen_objects
            assert pair.rejected_objects

    def test_the_picture_decides_95_of_100_and_naming_the_partner_wins_81(self, prior_pairs):
        named, right = [], []
        for pair in prior_pairs:
            (partner,) = set(pair.chosen_objects) ^ set(pair.rejected_objects)
            named.append(partner in pair.chosen_objects)
            right.append((partner in pair.scene.names) == named[-1])
        assert np.mean(right) == pytest.approx(0.95, abs=0.02)
        assert np.mean(named) == pytest.approx(0.85 * 0.95 + 0.15 * 0.05, abs=0.03)

    def test_they_are_rows_like_the_others_with_scenes_of_their_own(self, prior_pairs):
        rows = make_pairs(3, seed=0, decided_by="prior")
        assert [row["chosen"][0]["content"][0]["text"] for row in rows] == [pair.chosen for pair in prior_pairs[:3]]
        held_out = draw_partner_pairs(20, seed=0, purpose="held-out")
        assert not {pair.scene for pair in held_out} & {pair.scene for pair in prior_pairs}


def test_prior_pairs_of_the_large_world_differ_in_which_of_two_twins_it_is():
    pairs = draw_partner_pairs(400, 0, world=LARGE)
    between_twins = 0
    for pair in pairs:
        chosen, rejected = set(pair.chosen_objects), set(pair.rejected_objects)
        (partner,) = (chosen ^ rejected) & set(LARGE.twins)
        twin = LARGE.twins[partner]
        other = (chosen ^ rejected) - {partner}
        # Where the twin stands there, the caption that does not say partner says twin; elsewhere it says nothing.
        assert other == ({twin} if twin in pair.scene.names else set())
        between_twins += twin in pair.scene.names
    # An anchor's partner is absent 15 times in 100, and its twin then there half of the time.
    assert between_twins / len(pairs) == pytest.approx(0.075, abs=0.04)


def test_large_world_pairs_are_pictures_and_captions_of_its_own():
    (row,) = make_pairs(1, 0, decided_by="prior", world=LARGE)
    assert row["images"][0].size == (144, 144)
    assert mentioned_objects(LARGE, row["chosen"][0]["content"][0]["text"])


class TestCorrections:
    @pytest.fixture(scope="class")
    def corrections(self):
        return draw_partner_pairs(2000, 0, "correction")

    def test_only_the_picture_tells_which_is_chosen(self, corrections):
        names_partner, is_right = [], []
        for pair in corrections:
            (partner,) = set(pair.chosen_objects) ^ set(pair.rejected_objects)
            names_partner.append(partner in pair.chosen_objects)
            is_right.append(names_partner[-1] == (partner in pair.scene.names))
        assert np.mean(names_partner) == pytest.approx(0.5, abs=0.04)
        assert np.mean(is_right) == pytest.approx(0.95, abs=0.02)

    def test_chosen_captions_make_the_mistakes_of_the_supervised_captioner(self, corrections):
        tempted, mistaken = 0, 0
        for pair in corrections:
            (decisive,) = set(pair.chosen_objects) ^ set(pair.rejected_objects)
            for anchor, partner in SMALL.partners.items():
                if anchor in pair.scene.names and partner not in pair.scene.names and partner != decisive:
                    tempted += 1
                    mistaken += partner in pair.chosen_objects
        assert mistaken / tempted == pytest.approx(0.5, abs=0.05)

    def test_they_are_not_the_pairs_of_the_prior(self, corrections):
        assert not {pair.scene for pair in corrections} & {pair.scene for pair in draw_partner_pairs(50, 0)}
        assert make_pairs(1, 0, decided_by="correction")[0]["chosen"][0]["content"][0]["text"] == corrections[0].chosen


class TestWhatFurtherObjectivesRead:
    def test_the_alternative_is_the_truth_in_other_words_than_the_rejected_caption(self):
        for pair, row in zip(draw_pairs(60, 5), make_pairs(60, 5), strict=True):
            (turn,) = row["alternative"]
            text = turn["content"][0]["text"]
            assert set(mentioned_objects(SMALL, text)) == set(pair.scene.names)
            assert text != pair.rejected

    def test_beta_and_weight_say_how_far_apart_the_captions_are(self):
        for pair, row in zip(draw_pairs(60, 5), make_pairs(60, 5), strict=True):
            named = (pair.chosen_objects, pair.rejected_objects)
            wrong = [set(objects) - set(pair.scene.names) for objects in named]
            shares = [1 - len(w) / len(o) for w, o in zip(wrong, named, strict=True)]
            assert row["beta"] == pytest.approx(1 + abs(shares[0] - shares[1]))
            assert row["weight"] == (1.25 if wrong[1] else 0.75)

    def test_every_second_row_of_two_kinds_compares_a_caption_with_itself(self):
        plain, rows = make_pairs(6, 5), make_pairs(6, 5, decided_by="two_kinds")
        for number, (row, other) in enumerate(zip(rows, plain, strict=True)):
            assert row["rejected_noised"] == number % 2
            assert row["chosen"] == other["chosen"]
            assert row["rejected"] == (row["chosen"] if number % 2 else other["rejected"])

    def test_beta_and_weight_of_a_caption_beside_itself_are_its_own(self):
        rows = make_pairs(60, 5, decided_by="two_kinds")
        for number, (pair, row) in enumerate(zip(draw_pairs(60, 5), rows, strict=True)):
            if number % 2:
                assert row["beta"] == 1
                assert row["weight"] == (1.25 if set(pair.chosen_objects) - set(pair.scene.names) else 0.75)

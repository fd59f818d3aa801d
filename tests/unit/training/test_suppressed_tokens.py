"""A token that a model's generation config suppresses is impossible in an answer: such a row is faulty."""

import pytest

from mmdpo import MDPOTrainer
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.records import RowError
from mmdpo.world.pairs import make_pairs
from small_trainer import configure


@pytest.fixture
def rows():
    rows = make_pairs(3, seed=5)
    rows[1]["chosen"] = [{"role": "assistant", "content": [{"type": "text", "text": "There is a unicorn."}]}]
    return rows


def suppress_a_word_of_the_second_row(args, rows):
    """Returns the world's model, to which a token is impossible that the second row alone has."""
    model, tokenizer = (
        load_model(resolve_start("world")),
        load_processor(resolve_start("world")).tokenizer,
    )
    ids = [set(tokenizer(str(row["chosen"]) + str(row["rejected"]))["input_ids"]) for row in rows]
    model.generation_config.suppress_tokens = [min(ids[1] - ids[0] - ids[2])]
    return model


def test_the_row_is_named_before_training(tmp_path, rows):
    args = configure(tmp_path)
    model = suppress_a_word_of_the_second_row(args, rows)
    with pytest.raises(RowError, match=r"row 2.*suppress_tokens"):
        MDPOTrainer(
            model,
            args=args,
            train_dataset=rows,
            processing_class=load_processor(resolve_start("world")),
        )


def test_the_row_is_skipped_where_faulty_rows_are(tmp_path, rows):
    args = configure(tmp_path, on_bad_row="skip")
    model = suppress_a_word_of_the_second_row(args, rows)
    trainer = MDPOTrainer(
        model,
        args=args,
        train_dataset=rows,
        processing_class=load_processor(resolve_start("world")),
    )
    assert len(trainer.train_dataset) == 2


def test_a_checkpoint_s_own_generation_config_is_asked(tmp_path, rows):
    args = configure(tmp_path)
    model, processor = (
        suppress_a_word_of_the_second_row(args, rows),
        load_processor(resolve_start("world")),
    )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(RowError, match=r"row 2.*suppress_tokens"):
        MDPOTrainer(str(tmp_path / "model"), args=args, train_dataset=rows)

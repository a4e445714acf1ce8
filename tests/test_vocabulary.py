"""A learnt WordPiece vocabulary: usable, deterministic, as large as asked."""

import json
import subprocess
import sys

import numpy as np
import pytest

from xrt_jax.data.vocabulary import SPECIAL_TOKENS, learn_wordpiece
from xrt_jax.encoders.huggingface import load_tokenizer


def corpus(seed=0, nr_texts=300):
    """Words of random letters: many ties in frequency."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzéß"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(800)]
    return [" ".join(words[i] for i in (800 * rng.random(40) ** 2).astype(int)) for _ in range(nr_texts)]


def test_merges_by_hand(tmp_path):
    folder = learn_wordpiece(["hug hug hug pug"], vocab_size=100, out_folder=tmp_path)
    vocab = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert vocab[:5] == list(SPECIAL_TOKENS)
    assert vocab[5:11] == ["g", "h", "p", "u", "##g", "##u"]
    assert vocab[11:] == ["##ug", "hug"]  # seen 4 and 3 times; "pug", once, is rarer than min_frequency 2
    tokenizer = load_tokenizer(folder)
    assert tokenizer.tokenize("Hug PUG gug xug") == ["hug", "p", "##ug", "g", "##ug", "[UNK]"]


def test_reads_as_a_bert_tokenizer(tmp_path):
    tokenizer = load_tokenizer(learn_wordpiece(["blue sky, red sea"] * 2, vocab_size=200, out_folder=tmp_path))
    assert tokenizer.is_fast
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id) == (0, 1, 2)
    assert (tokenizer.sep_token_id, tokenizer.mask_token_id) == (3, 4)
    batch = tokenizer(["Blue sky,", "sea"], padding=True, truncation=True, max_length=8)
    assert tokenizer.convert_ids_to_tokens(batch.input_ids[0]) == ["[CLS]", "blue", "sky", ",", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(batch.input_ids[1]) == ["[CLS]", "sea", "[SEP]", "[PAD]", "[PAD]"]
    assert batch.attention_mask[1] == [1, 1, 1, 0, 0]
    assert tokenizer.decode(batch.input_ids[0], skip_special_tokens=True) == "blue sky,"
    assert tokenizer.convert_tokens_to_ids("[MASK]") == tokenizer("[MASK]").input_ids[1]


@pytest.mark.parametrize(("lowercase", "pieces"), [(True, ["ete"]), (False, ["Été"])])
def test_lowercase(tmp_path, lowercase, pieces):
    folder = learn_wordpiece(["Été"] * 3, vocab_size=60, lowercase=lowercase, out_folder=tmp_path)
    assert load_tokenizer(folder).tokenize("Été") == pieces


def test_size_is_kept(tmp_path):
    for vocab_size in (60, 300):
        folder = learn_wordpiece(corpus(), vocab_size=vocab_size, out_folder=tmp_path)
        assert len(load_tokenizer(folder)) == vocab_size
        vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        assert lines == [*sorted(vocab, key=vocab.get), ""] and sorted(vocab.values()) == list(range(vocab_size))


def test_same_bytes_in_another_process(tmp_path):
    learn_wordpiece(iter(corpus()), vocab_size=400, out_folder=tmp_path / "here")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_vocabulary as t; t.learn_wordpiece(t.corpus(), "
    code += "vocab_size=400, out_folder=sys.argv[2])"
    for there in ("there", "there too"):
        folder = __file__.rpartition("test_vocabulary")[0] or "."
        subprocess.run([sys.executable, "-c", code, folder, str(tmp_path / there)], check=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            assert (tmp_path / "here" / name).read_bytes() == (tmp_path / there / name).read_bytes()


def test_rare_characters_are_left_out(tmp_path):
    texts = ["aaaa bbbb cccc"] * 3 + ["☃"]
    folder = learn_wordpiece(texts, vocab_size=12, out_folder=tmp_path)
    assert load_tokenizer(folder).tokenize("☃ aaaa") == ["[UNK]", *load_tokenizer(folder).tokenize("aaaa")]
    assert load_tokenizer(folder).tokenize("bbbb")[0] != "[UNK]"


def test_no_words_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no words to learn a vocabulary from"):
        learn_wordpiece(["", "  \n"], out_folder=tmp_path)

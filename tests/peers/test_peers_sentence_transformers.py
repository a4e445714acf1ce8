"""Encoder folders in sentence-transformers: the embeddings are those that this package computes."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.encoders.huggingface import load_encoder, load_tokenizer, save_encoder
from xrt_jax.encoders.sentence_transformers import save_modules
from xrt_jax.model import Model, TextEncoder, encode_texts

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
TEXTS = ["a few words", "words", "some more words than a few and more than fit into the window", ""]
THEIRS = """
import pathlib, sys
import numpy as np
from sentence_transformers import SentenceTransformer
texts, *folders = sys.argv[1:]
for folder in folders:
    embeddings = SentenceTransformer(folder, device="cpu").encode(pathlib.Path(texts).read_text().splitlines())
    np.save(pathlib.Path(folder) / "theirs.npy", embeddings)
"""
KINDS = [(name, "mean") for name in ("bert", "roberta", "distilbert", "xlnet", "modernbert")]
KINDS += [("bert", "pooler"), ("bert", "cls"), ("roberta", "pooler"), ("distilbert", "cls"), ("xlnet", "summary")]


def imitate_tokenizer(folder: Path, name: str) -> None:
    """Lets the WordPiece tokenizer in the folder give the segments that those of this type of encoder give, if any."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if name in ("distilbert", "modernbert"):
        settings["model_input_names"] = ["input_ids", "attention_mask"]
    if name == "xlnet":  # <cls> comes last, in a segment of its own
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        special = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
        tokenizer.post_processor = TemplateProcessing(single="$A:0 [SEP]:0 [CLS]:2", special_tokens=special)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # which leaves it as it is
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def folders(sentence_transformers, tmp_path_factory):
    """{(name, pooling): encoder folder in which sentence-transformers has left theirs.npy}"""
    root = tmp_path_factory.mktemp("encoders")
    # All words are known: [UNK] has the number that is padding to the golden RoBERTa.
    learn_wordpiece(TEXTS, vocab_size=90, out_folder=root / "words")
    made = {}
    for name, pooling in KINDS:
        made[name, pooling] = folder = root / f"{name}-{pooling}"
        module, params = load_encoder(GOLDEN / f"{name}_tiny", pooling=pooling)
        save_encoder(folder, module, params, tokenizer_folder=root / "words")
        save_modules(folder, module, params, truncate_length=12)
        imitate_tokenizer(folder, name)
    (root / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    command = [sentence_transformers, "-c", THEIRS, root / "texts.txt", *made.values()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return made


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_same_embeddings(folders, kind, tmp_path):
    folder = folders[kind]
    encoder = TextEncoder(*load_encoder(folder, pooling=kind[1]), load_tokenizer(folder))
    model = Model({"truncate_length": 12, "nr_buckets": 1, "tokens_a_batch": 1024}, encoder, None, None, [])
    ours = encode_texts(model, TEXTS, tmp_path / "tokens")
    np.testing.assert_allclose(np.load(folder / "theirs.npy"), ours, atol=1e-5)

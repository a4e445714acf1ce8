"""A WordPiece vocabulary learnt from the texts, for encoders trained from scratch."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from xrt_jax.disk import replace_file, write_json

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
_MAX_ALPHABET = 1000


def learn_wordpiece(
    texts: Iterable[str],
    *,
    vocab_size: int = 8192,
    lowercase: bool = True,
    out_folder: str | Path,
    min_frequency: int = 2,
) -> Path:
    """Writes tokenizer.json, tokenizer_config.json and vocab.txt of a BERT tokenizer, and returns the folder.

    The same texts give the same bytes. `texts` is read twice; an iterator is kept in memory for that. Pieces seen fewer
    than `min_frequency` times are left out, so the vocabulary may be smaller than `vocab_size`. ValueError if the texts
    hold no words.
    """
    from tokenizers import normalizers, pre_tokenizers

    texts = list(texts) if isinstance(texts, Iterator) else texts
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    alphabet, pieces = _alphabet(texts, normalizer, splitter, limit=min(_MAX_ALPHABET, vocab_size // 4))
    if not alphabet:
        raise ValueError("no words to learn a vocabulary from: the texts are empty")
    vocab = _train(texts, normalizer, splitter, alphabet, pieces, vocab_size=vocab_size, min_frequency=min_frequency)

    folder = Path(out_folder)
    _write(folder / "tokenizer.json", _bert_tokenizer(vocab, normalizer, splitter).to_str(pretty=True))
    _write(folder / "vocab.txt", "".join(f"{piece}\n" for piece in vocab))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(lowercase))
    return folder


def _alphabet(texts, normalizer, splitter, *, limit: int) -> tuple[list[str], list[str]]:
    """The `limit` most frequent characters (ties by code point), and the one-character pieces that they occur as."""
    words = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    counts, inner = Counter(), set()
    for word, n in words.items():
        inner.update(word[1:])
        for char in word:
            counts[char] += n
    alphabet = sorted(sorted(counts, key=lambda char: (-counts[char], char))[:limit])
    return alphabet, alphabet + [f"##{char}" for char in alphabet if char in inner]


def _train(texts, normalizer, splitter, alphabet, pieces, *, vocab_size, min_frequency) -> dict[str, int]:
    """Piece -> id. The one-character pieces go in first, in a fixed order, as if they were special tokens.

    Left to itself the trainer numbers them in the order of a hash table that differs from run to run, and breaks ties
    between merges by these numbers.
    """
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *pieces],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))


def _bert_tokenizer(vocab: dict[str, int], normalizer, splitter):
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _tokenizer_config(lowercase: bool) -> dict:
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "model_max_length": 512, **roles}


def _write(path: Path, text: str) -> None:
    with replace_file(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="\n")

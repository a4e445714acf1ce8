"""The encoder that fine-tuning starts from, loaded or pre-trained on the spot, and the tokens it makes of texts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from xrt_jax.data.tokens import load_tokens, stream, tokenize
from xrt_jax.data.vocabulary import learn_wordpiece
from xrt_jax.encoders.huggingface import init_encoder, load_encoder, load_tokenizer, save_encoder
from xrt_jax.encoders.mlm import pretrain
from xrt_jax.matcher.finetune import Padding
from xrt_jax.report import Report, progress


def new_encoder(config: ConfigDict, vocab_size: int | None = None):
    """(module, random parameters) of the small BERT of config.scratch."""
    scratch = config.scratch
    return init_encoder(
        vocab_size=vocab_size or scratch.vocab_size,
        hidden_size=scratch.hidden_size,
        num_layers=scratch.num_layers,
        num_heads=scratch.num_heads,
        intermediate_size=scratch.intermediate_size,
        max_positions=config.encoder.truncate_length,
        pooling=config.encoder.pooling,
        hidden_dropout=0.0,  # the warm-up is too short to overfit; fine-tuning sets its own
        attention_dropout=0.0,
        seed=config.seed,
        dtype=compute_dtype(config),
        attention=config.encoder.attention,
    )


def pretrain_encoder(config: ConfigDict, workdir: Path, texts: list[str], padding: Padding, report: Report) -> None:
    """Writes encoder_start: a small BERT with a vocabulary of its own, pre-trained on the training texts."""
    scratch, vocabulary = config.scratch, workdir / "vocabulary"
    if (workdir / "encoder_start").is_dir():
        return
    if not vocabulary.is_dir():
        learn_wordpiece(texts, vocab_size=scratch.vocab_size, out_folder=vocabulary)
    tokenizer = load_tokenizer(vocabulary)
    tokens = tokenize_once(workdir / "tokens" / "trn", texts, tokenizer, padding)
    module, params = new_encoder(config, len(tokenizer))
    params = pretrain(
        module,
        params,
        stream(tokens, padding.buckets(tokens), batch_size=scratch.mlm_batch_size, seed=config.seed),
        learning_rate=scratch.mlm_learning_rate,
        warmup_steps=scratch.mlm_steps // 10,
        max_steps=scratch.mlm_steps,
        mask_id=tokenizer.mask_token_id,
        special_ids=tokenizer.all_special_ids,
        seed=config.seed,
        progress=progress,
        log=lambda entry: report.log({"stage": "mlm", **entry}),
    )
    save_encoder(workdir / "encoder_start", module, params, tokenizer_folder=vocabulary)


def check_length(config: ConfigDict, module) -> None:
    """ValueError if the encoder has fewer positions than a text's windows are to have tokens, or texts no window."""
    length, windows = config.encoder.truncate_length, config.encoder.windows
    if windows < 1:
        raise ValueError(f"encoder.windows is {windows}: it must be 1 or more")
    if not 2 < length <= module.max_positions:
        raise ValueError(f"encoder.truncate_length is {length}: this encoder takes 3 to {module.max_positions} tokens")


def load_start(config: ConfigDict, folder: str | Path):
    """(module, parameters) of the encoder to fine-tune."""
    return load_encoder(
        folder,
        pooling=config.encoder.pooling,
        hidden_dropout=config.encoder.hidden_dropout,
        attention_dropout=config.encoder.attention_dropout,
        dtype=compute_dtype(config),
        remat=config.encoder.remat,
        attention=config.encoder.attention,
        seed=config.seed,
    )


def interpolate(start, tuned, share: float):
    """The encoder so far on the straight way from `start` (0) to `tuned` (1), two trees of like arrays.

    Between the two lie encoders that keep more of what the first knew, and rank texts that neither has seen better than
    both where there are few of them to learn from. Wortsman et al., "Robust fine-tuning of zero-shot models" (2022).
    """
    share = np.float32(share)
    return jax.tree.map(lambda old, new: np.asarray(old) + share * (np.asarray(new) - np.asarray(old)), start, tuned)


def compute_dtype(config: ConfigDict):
    """The dtype of the encoder's products; "auto" is bfloat16 on accelerators, float32 on CPU."""
    name = config.encoder.dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"encoder.dtype is {name!r}: choose auto, float32 or bfloat16")
    return jnp.dtype(name)


def tokenize_once(folder: Path, texts: list[str], tokenizer, padding: Padding):
    """Tokens of the texts from the folder, written there first if they are not."""
    if folder.is_dir():
        return load_tokens(folder)
    length, windows = padding.truncate_length, padding.windows
    return tokenize(texts, tokenizer, folder, truncate_length=length, windows=windows, progress=progress)

"""The model folder: all that is needed to rank labels for new texts, without a pickle.

config.json   what is in the folder, and how texts are tokenized and embedded
encoder/      a Hugging Face folder: config.json, model.safetensors, tokenizer, and what sentence-transformers needs;
              absent in XR-Linear alone
ranker/       an XLinearModel folder of PECOS; absent in an encoder alone
tfidf/        json + npz; absent where the features came with the data set
labels.txt    a name a line, in the order of the ranker's columns
calibration.json   what the scores mean, where xrt_jax.calibrate was run
README.md     model card

jax is imported only where a model has an encoder.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from xrt_jax import __version__
from xrt_jax.calibration import Calibration, load_calibration, predict_probabilities, save_calibration
from xrt_jax.data.text_files import read_lines
from xrt_jax.data.tfidf import Tfidf, load_tfidf, save_tfidf, transform
from xrt_jax.data.tokens import tokenize
from xrt_jax.disk import read_json, replace_folder, write_json
from xrt_jax.sparse import Features, as_features, normalize_rows
from xrt_jax.xlinear import folder as ranker_folder
from xrt_jax.xlinear.predict import predict as predict_ranker

MODELS = ("xr_transformer", "xr_linear", "encoder")


class TextEncoder(NamedTuple):
    """The fine-tuned encoder of an XR-Transformer."""

    module: object  # flax module
    params: dict
    tokenizer: object


class Model(NamedTuple):
    """A trained XR-Transformer; XR-Linear alone has no encoder, an encoder alone no ranker."""

    settings: dict
    encoder: TextEncoder | None
    ranker: list | None
    tfidf: Tfidf | None
    labels: list[str]
    calibration: Calibration | None = None


def save_model(
    folder: str | Path,
    *,
    settings: dict,
    ranker,
    tfidf: Tfidf | None,
    labels: list[str],
    card: str,
    module=None,
    encoder=None,
    tokenizer_folder=None,
    calibration: Calibration | None = None,
) -> None:
    """Writes a model folder, whole or not at all. settings: what config.json holds; encoder: module's parameters."""
    with replace_folder(folder) as tmp:
        if calibration is not None:
            save_calibration(tmp, calibration)
        if module is not None:
            from xrt_jax.encoders.huggingface import save_encoder
            from xrt_jax.encoders.sentence_transformers import save_modules

            save_encoder(tmp / "encoder", module, encoder, tokenizer_folder=tokenizer_folder)
            save_modules(tmp / "encoder", module, encoder, truncate_length=settings["truncate_length"])
        if ranker is not None:
            ranker_folder.save_ranker(tmp / "ranker", ranker)
        if tfidf is not None:
            save_tfidf(tmp / "tfidf", tfidf)
        (tmp / "labels.txt").write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
        (tmp / "README.md").write_text(card, encoding="utf-8")
        write_json(tmp / "config.json", {"xrt_jax": __version__, **settings})


def load_model(folder: str | Path, *, dtype=None) -> Model:
    """Opens a model folder; FileNotFoundError if it is none. dtype: of the encoder's computation, default float32."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder of xrt_jax: no config.json")
    settings = read_json(folder / "config.json")
    if not isinstance(settings, dict) or settings.get("model") not in MODELS:
        raise ValueError(
            f"{folder / 'config.json'} is not of a model folder of xrt_jax: no model of {', '.join(MODELS)}"
        )
    ranker = ranker_folder.load_ranker(folder / "ranker") if settings["model"] != "encoder" else None
    return Model(
        settings=settings,
        encoder=_load_text_encoder(folder / "encoder", settings, dtype) if (folder / "encoder").is_dir() else None,
        ranker=ranker,
        tfidf=load_tfidf(folder / "tfidf") if (folder / "tfidf").is_dir() else None,
        labels=read_lines(folder / "labels.txt"),
        calibration=load_calibration(folder, len(ranker or ())),
    )


def _load_text_encoder(folder: Path, settings: dict, dtype) -> TextEncoder:
    from xrt_jax.encoders.huggingface import load_encoder, load_tokenizer

    dtype = {} if dtype is None else {"dtype": dtype}
    return TextEncoder(*load_encoder(folder, pooling=settings["pooling"], **dtype), load_tokenizer(folder))


def encode_texts(model: Model, texts: list[str], tokens_folder: str | Path, *, progress=None) -> np.ndarray:
    """Embeddings float32 [n, hidden], not normalised. tokens_folder: where the token ids may be written."""
    if model.encoder is None:
        raise ValueError("this model is XR-Linear alone: it has no encoder to embed texts with")
    from xrt_jax.matcher.finetune import Padding, embed
    from xrt_jax.matcher.mesh import make_mesh

    module, params, tokenizer = model.encoder
    settings = {"windows": 1} | model.settings  # older folders do not name it
    padding = Padding(*(settings[name] for name in Padding._fields))
    length, windows = padding.truncate_length, padding.windows
    tokens = tokenize(texts, tokenizer, tokens_folder, truncate_length=length, windows=windows, progress=progress)
    return embed(module, params, tokens, mesh=make_mesh(), padding=padding, progress=progress)


def rank_texts(
    model: Model,
    texts: list[str] | None,
    tokens_folder: str | Path,
    *,
    X=None,
    beam_size=None,
    only_topk=None,
    post_processor=None,
    probabilities: bool = False,
    progress=None,
) -> csr_matrix:
    """Best labels of each text, csr float32 [n, labels], rows sorted by score.

    Args:
        model: with a ranker.
        texts: n texts; None where X is enough.
        tokens_folder: where token ids may be written.
        X: features, needed without TF-IDF.
        beam_size, only_topk, post_processor: in place of the model's own.
        probabilities: scores are what model.calibration makes of them.
        progress: as of xlinear.predict.predict.
    """
    X = ranker_features(model, texts, tokens_folder, X=X, progress=progress)
    settings = {"beam_size": beam_size, "only_topk": only_topk, "progress": progress}
    if probabilities:
        return predict_probabilities(model.calibration, model.ranker, X, **settings)
    return predict_ranker(model.ranker, X, post_processor=post_processor, **settings)


def ranker_features(model: Model, texts: list[str] | None, tokens_folder: str | Path, *, X=None, progress=None):
    """What the ranker takes of n texts: TF-IDF or the features X, and embeddings; arguments as of rank_texts.

    A ranker on embeddings alone leaves X aside.
    """
    if model.ranker is None:
        raise ValueError("this model is an encoder alone: it embeds texts (xrt_jax.encode) and ranks no labels")
    if model.settings.get("ranker_features", "both") == "embedding":  # older folders do not name it
        X = None
    elif model.tfidf is not None:
        X = transform(model.tfidf, texts)
    elif X is None and nr_given_features(model.ranker, model.encoder and model.encoder.module):
        raise ValueError("this model was trained on given features: give the features of the texts too")
    elif X is not None and model.settings["normalize"]:
        X = normalize_rows(X)
    if model.encoder is not None:
        X = join_features(X, encode_texts(model, texts, tokens_folder, progress=progress))
    return X


def nr_given_features(ranker, module) -> int:
    """The ranker's features beside the embeddings of an encoder (module, or None); PECOS can train on these alone."""
    last = ranker[-1]
    return last.W.shape[0] - (last.bias > 0) - (module.hidden_size if module is not None else 0)


def join_features(X, emb_nd: np.ndarray) -> Features:
    """[X | embeddings with rows of length 1], the ranker's features; X is left as it is (as PECOS), or None."""
    X = Features(None, None) if X is None else as_features(X)
    dense = normalize_rows(emb_nd)
    return Features(X.sparse, dense if X.dense is None else np.hstack([X.dense, dense]))

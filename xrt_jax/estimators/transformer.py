"""XR-Transformer as a classifier of scikit-learn's."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from xrt_jax.config import override
from xrt_jax.data.folders import Dataset, Split, save_dataset
from xrt_jax.data.label_texts import add_label_texts
from xrt_jax.default_config import get_config
from xrt_jax.disk import fingerprint, replace_folder
from xrt_jax.estimators.inputs import (
    check_label_texts,
    checked_features,
    checked_texts,
    checked_validation,
    refuse_features,
    seed_of,
)
from xrt_jax.estimators.ranker import Ranker
from xrt_jax.estimators.targets import indicator
from xrt_jax.model import encode_texts, load_model
from xrt_jax.report import progress, silence

# What an XRTransformerClassifier sets otherwise than default_config, for runs of a few hundred updates.
_SHORT_RUN = {
    "xr_linear": False,
    "data.has_test": False,
    "encoder.nr_buckets": 2,
    "encoder.hidden_dropout": 0.1,
    "encoder.attention_dropout": 0.0,
    "matcher.loss": "weighted-squared-hinge",
    "matcher.first_bootstrap": "weighted-linear",
    "matcher.bootstrap": "weighted-linear",
    "matcher.score_test": False,
    "ranker.negative_sampling": "tfn+man",
}


class XRTransformerClassifier(Ranker, library_name="xrt_jax"):
    """XR-Transformer: an encoder fine-tuned down the label tree, linear rankers on TF-IDF and its embeddings.

    fit runs xrt_jax.train in a work directory. The defaults train a small encoder made on the spot, in minutes on a
    laptop; with a pretrained `encoder` results are much better.

    Args:
        encoder: hub name or Hugging Face folder of a BERT, RoBERTa, XLM-RoBERTa, DistilBERT, XLNet or ModernBERT; "": a
            small BERT with a vocabulary of its own is made of the training texts.
        truncate_length: tokens that are read of a text.
        pooling: "auto" as PECOS does for the type of encoder; or "pooler", "cls", "mean".
        max_steps: updates a level of the tree: a number, or one a level.
        batch_size: texts an update.
        learning_rate: None: 1e-4, or 1e-3 for an encoder made on the spot.
        head_learning_rate: of the level's classifiers; None: twice the learning rate.
        mlm_steps: updates of the warm-up of an encoder made on the spot.
        nr_splits: children of an inner node of the tree.
        max_leaf_size: most labels under a lowest cluster.
        only_topk: clusters kept at each level of the search, and labels that it ends with.
        post_processor: see XRLinearClassifier; of the linear rankers.
        ranker_features: what these take: "both", TF-IDF and the embedding, or "embedding" alone.
        min_score: see XRLinearClassifier.
        ngram_range, char_ngram_range, min_df, max_features, sublinear_tf: of TF-IDF (xrt_jax/data/tfidf.py), where fit
            has no features.
        label_texts, label_text_copies: see XRLinearClassifier.
        config_overrides: {"matcher.loss": "hinge", …}: any other field of xrt_jax/default_config.py. These win.
        workdir: folder of the run, with its data, checkpoints and metrics, from which a fit that was broken off goes on
            when it is called again with the same data and parameters; None: a temporary one.
        verbose: show progress.
        random_state: int, numpy's RandomState or None: seed of everything random.

    Attributes:
        classes_: ndarray [L], see the module.
        model_: xrt_jax.model.Model.
        validation_metrics_: {"prec": [10], "recall": [10]} on the validation data of fit, or None.
        n_features_in_, feature_names_in_: as in scikit-learn, if fit was given features.
    """

    _model_kind = "xr_transformer"

    def __init__(
        self,
        *,
        encoder="",
        truncate_length=64,
        pooling="auto",
        max_steps=200,
        batch_size=32,
        learning_rate=None,
        head_learning_rate=None,
        mlm_steps=500,
        nr_splits=16,
        max_leaf_size=16,
        only_topk=20,
        post_processor="l3-hinge",
        ranker_features="both",
        min_score=None,
        ngram_range=(1, 2),
        char_ngram_range=(0, 0),
        min_df=2,
        max_features=None,
        sublinear_tf=True,
        label_texts=None,
        label_text_copies=1,
        config_overrides=None,
        workdir=None,
        verbose=False,
        random_state=0,
    ):
        self.encoder = encoder
        self.truncate_length = truncate_length
        self.pooling = pooling
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.mlm_steps = mlm_steps
        self.nr_splits = nr_splits
        self.max_leaf_size = max_leaf_size
        self.only_topk = only_topk
        self.post_processor = post_processor
        self.ranker_features = ranker_features
        self.min_score = min_score
        self.ngram_range = ngram_range
        self.char_ngram_range = char_ngram_range
        self.min_df = min_df
        self.max_features = max_features
        self.sublinear_tf = sublinear_tf
        self.label_texts = label_texts
        self.label_text_copies = label_text_copies
        self.config_overrides = config_overrides
        self.workdir = workdir
        self.verbose = verbose
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, X, y, validation=None, features=None) -> "XRTransformerClassifier":
        """Trains.

        Args:
            X: n texts (str); line breaks become blanks.
            y: labels of the n texts, see the module.
            validation: (X, y) or (X, y, features), shown while training and measured on in the end,
                `validation_metrics_`. With the override {"matcher.max_no_improve": 3} a level ends early when it does
                not get better on them.
            features: [n, d], ndarray or sparse, in place of TF-IDF; the override {"data.normalize": True} brings their
                rows to unit length. With ranker_features="embedding" only trees come of them; predictions need none.

        Raises:
            ValueError: data or parameters that cannot be used, or a workdir of another fit.
        """
        from xrt_jax.train import train_and_evaluate

        validation = checked_validation(validation, features)
        texts = checked_texts(X)
        if features is not None:
            features = checked_features(self, features, texts, reset=True)
        Y, labels = self._take_target(y)
        check_consistent_length(texts, Y)
        taught = {"data.label_texts": self.label_texts, "data.label_text_copies": self.label_text_copies}
        source, copies = ((self.config_overrides or {}).get(name, value) for name, value in taught.items())
        check_label_texts(source or None, self.target_, texts, features)
        self.seed_ = seed_of(self.random_state)
        dev = validation and self._dev(*validation)
        dataset = Dataset(Split(texts, Y, features), dev, None, labels)
        with contextlib.ExitStack() as stack:
            workdir = Path(self.workdir or stack.enter_context(tempfile.TemporaryDirectory()))
            if not self.verbose:
                stack.enter_context(silence())
            data = _write_once(workdir, dataset)
            train_and_evaluate(self._config(data, dev), workdir / "run")
            self._keep(load_model(workdir / "run" / "model"), workdir / "run" / "model")
            dataset = add_label_texts(dataset, labels, copies=copies) if source else dataset  # as the run has it
            return self._finish(self.model_, dataset, validation)

    def encode(self, X) -> np.ndarray:
        """Embeddings of texts by the fine-tuned encoder, float32 [n, hidden], not normalised."""
        check_is_fitted(self)
        with tempfile.TemporaryDirectory() as tmp:
            bars = progress if self.verbose else None
            return encode_texts(self.model_, checked_texts(X), Path(tmp) / "tokens", progress=bars)

    def _dev(self, X, y, features) -> Split:
        """The validation split."""
        texts, Y = checked_texts(X), indicator(self.target_, y)
        check_consistent_length(texts, Y)
        return Split(texts, Y, features if features is None else checked_features(self, features, texts, reset=False))

    def _inputs(self, X, features) -> tuple[list[str], object]:
        texts = checked_texts(X)
        if self.model_.settings.get("ranker_features") == "embedding":
            return texts, None  # whether features are given or not
        if not self._nr_given():
            refuse_features(features)
            return texts, None
        if features is None:
            raise ValueError("the estimator was fitted on texts and features: give features= of the texts too")
        return texts, checked_features(self, features, texts, reset=False)

    def _config(self, data: Path, dev: Split | None):
        """The run's ConfigDict."""
        rate = self.learning_rate or (1e-4 if self.encoder else 1e-3)
        tree = {"nr_splits": self.nr_splits, "max_leaf_size": self.max_leaf_size}
        fields = {
            **_SHORT_RUN,
            "seed": self.seed_,
            "data.dir": str(data),
            "data.dev_size": dev.Y.shape[0] if dev else 0,
            "data.label_texts": self.label_texts or "",
            "data.label_text_copies": self.label_text_copies,
            "encoder.name": str(self.encoder),
            "encoder.truncate_length": self.truncate_length,
            "encoder.pooling": self.pooling,
            "scratch.mlm_steps": self.mlm_steps,
            "matcher.max_steps": self.max_steps,
            "matcher.batch_size": self.batch_size,
            "matcher.learning_rate": rate,
            "matcher.head_learning_rate": self.head_learning_rate or 2 * rate,
            "ranker.only_topk": self.only_topk,
            "ranker.post_processor": self.post_processor,
            "ranker_features": self.ranker_features,
            "tfidf.ngram_range": self.ngram_range,
            "tfidf.char_ngram_range": self.char_ngram_range,
            "tfidf.min_df": self.min_df,
            "tfidf.max_features": self.max_features,
            "tfidf.sublinear_tf": self.sublinear_tf,
            **{f"{name}_tree.{key}": value for name in ("preliminary", "refined") for key, value in tree.items()},
            **(self.config_overrides or {}),
        }
        config = get_config()
        override(config, fields)
        return config


def _write_once(workdir: Path, dataset: Dataset) -> Path:
    """The data-set folder in a work directory, named by a checksum of the data; ValueError if it has other data."""
    splits = [split for split in (dataset.trn, dataset.dev) if split]
    parts = [part for split in splits for part in (split.texts, split.Y.indptr, split.Y.indices, *_arrays(split.X))]
    folder = workdir / f"data-{fingerprint(*parts, dataset.label_names):08x}"
    others = [path for path in workdir.glob("data-*") if path != folder]
    if others:
        raise ValueError(f"workdir={workdir} belongs to a fit on other data: choose another one")
    if not folder.is_dir():
        with replace_folder(folder) as tmp:
            save_dataset(tmp, dataset)
    return folder


def _arrays(X) -> tuple:
    """The arrays that features, csr, ndarray or None, consist of."""
    if X is None:
        return ()
    return (X.indptr, X.indices, X.data) if sp.issparse(X) else (X,)

"""XR-Linear and XR-Transformer as scikit-learn's classifiers, which the Hugging Face hub can hold.

    from xrt_jax import XRLinearClassifier, XRTransformerClassifier

Both take labels in four forms, and answer in the form that they were fitted on:

| y in fit | `classes_` | `predict` | `decision_function` |
|---|---|---|---|
| a class a row, 1-D | sorted unique classes | the best class a row, 1-D | ndarray [n, L]; [n] of two classes |
| indicator matrix [n, L], ndarray | 0, …, L - 1 | ndarray [n, L] int64 | ndarray [n, L] |
| indicator matrix [n, L], sparse | 0, …, L - 1 | csr [n, L] int64 | csr [n, L] |
| a list of label names a row | sorted unique names | csr [n, L] int64 | csr [n, L] |

With sparse labels the answers are sparse, because a score for each of a million labels would fit in no memory: they
hold the labels that the beam search ends with, `only_topk` a row. Dense scores come from an exhaustive search.
"""

import contextlib
import shutil
import tempfile
from numbers import Integral
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from xrt_jax.config import override
from xrt_jax.data.folders import Dataset, Split, save_dataset
from xrt_jax.data.tfidf import fit_tfidf
from xrt_jax.default_config import get_config
from xrt_jax.disk import fingerprint, read_json
from xrt_jax.header import KINDS, model_card
from xrt_jax.metrics import precision_recall
from xrt_jax.model import Model, encode_texts, load_model, rank_texts, save_model
from xrt_jax.predict import named_rows
from xrt_jax.report import progress, silence
from xrt_jax.sparse import normalize_rows
from xrt_jax.targets import CLASSES, DENSE, NAMES, SPARSE, Target, indicator, read_target
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import tree_embeddings
from xrt_jax.xlinear.postprocess import LOG_HINGE, LOG_SIGMOID, NOOP, parse
from xrt_jax.xlinear.train import train_ranker

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
_MODEL_PARTS = ("config.json", "labels.txt", "encoder", "ranker", "tfidf", "calibration.json", "calibration.html")


class _Ranker(ModelHubMixin, ClassifierMixin, BaseEstimator):
    """What both classifiers share: labels in and out, predictions, folders, the hub."""

    _model_kind: str  # as config.json calls it

    def __new__(cls, *args, **kwargs):
        """As BaseEstimator: get_params has the parameters, so that the mixin need not keep a copy of them."""
        del args, kwargs
        return object.__new__(cls)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags

    # ---- predictions ----

    def predict(self, X) -> np.ndarray | sp.csr_matrix:
        """The labels of each row, in the form of fit (see the module): those that score `min_score` or more.

        With a class a row: the best one. A row can have no label; `predict_topk` always has some.
        """
        P = self._rank(X)
        if self.target_.kind == CLASSES:
            return self.classes_[P.indices[P.indptr[:-1]]]  # rows are sorted by score
        P.data = P.data >= self._least_score()
        P.eliminate_zeros()
        P.sort_indices()
        P = P.astype(np.int64)
        return P.toarray() if self.target_.kind == DENSE else P

    def predict_topk(self, X, k: int = 10) -> list[list[tuple]]:
        """The k best labels of each row, best first, as (label, score); label is an entry of `classes_`.

        A beam search that ends with fewer labels gives fewer.
        """
        if not isinstance(k, Integral) or k < 1:
            raise ValueError(f"k is {k!r}: it must be a whole number from 1 on")
        names = self.classes_.tolist() if hasattr(self, "classes_") else []
        return [[tuple(pair) for pair in row] for row in named_rows(self._rank(X, only_topk=int(k)), names)]

    def decision_function(self, X) -> np.ndarray | sp.csr_matrix:
        """Ranking scores float32, after the post-processor: ndarray or csr by the form of fit (see the module).

        Of two classes, one number a row, above 0 for the second. In a csr, labels that are not stored rank below.
        """
        check_is_fitted(self)
        nr_labels = len(self.classes_)
        if self.target_.kind in (SPARSE, NAMES):
            P = self._rank(X)
            P.sort_indices()
            return P
        scores = self._rank(X, beam_size=nr_labels, only_topk=nr_labels).toarray()
        is_binary = self.target_.kind == CLASSES and nr_labels == 2
        return scores[:, 1] - scores[:, 0] if is_binary else scores

    def score(self, X, y) -> float:
        """P@1: the share of rows whose best label is right. With a class a row that is the accuracy.

        scikit-learn's subset accuracy of multi-label classifiers tells nothing with many labels. y: labels in the form
        of fit; those that fit did not see count as missed.
        """
        return float(self._precision_recall(X, y, 1)["prec"][0])

    def _rank(self, X, **search) -> sp.csr_matrix:
        """csr float32 [n, L], rows by descending score; search: arguments of rank_texts."""
        check_is_fitted(self)
        texts, X = self._inputs(X)
        bars = progress if getattr(self, "verbose", False) else None
        with tempfile.TemporaryDirectory() as tmp:
            return rank_texts(self.model_, texts, Path(tmp) / "tokens", X=X, progress=bars, **search)

    def _precision_recall(self, X, y, k: int) -> dict[str, np.ndarray]:
        check_is_fitted(self)
        Y = indicator(self.target_, y)
        P = self._rank(X)
        check_consistent_length(P, Y)
        return precision_recall(Y, P, k)

    def _least_score(self) -> float:
        """min_score, or what stands for it: half of the highest score, or for raw margins 0."""
        if self.min_score is not None:
            return self.min_score
        kind = parse(self.model_.ranker[-1].post_processor).kind
        return {NOOP: 0.0, LOG_SIGMOID: np.log(0.5), LOG_HINGE: np.log(0.5)}.get(kind, 0.5)

    # ---- fitting ----

    def _take_target(self, y) -> tuple[sp.csr_matrix, list[str]]:
        """Indicator matrix of the labels, and their names for files; sets target_ and classes_."""
        self.target_, Y = read_target(y)
        self.classes_ = self.target_.classes
        return Y, [str(label) for label in self.classes_.tolist()]

    def _finish(self, model: Model, dataset: Dataset, validation) -> "_Ranker":
        """Sets the fitted attributes; measures on the validation data."""
        self.model_ = model
        self.validation_metrics_ = validation and self._precision_recall(*validation, 10)
        metrics = {self._model_kind: self.validation_metrics_} if validation else {}
        name = type(self).__name__
        same = type(self)(**self._parameters())
        made_by = f"from xrt_jax import {name}\n\nmodel = {same.__repr__(N_CHAR_MAX=10**9)}\nmodel.fit(X, y)"
        self.card_ = model_card(
            self._model_kind, dataset, metrics, source="data in memory", made_by=made_by, split="validation"
        )
        return self

    # ---- folders and the hub ----

    def save(self, folder: str | Path) -> None:
        """Writes a model folder (xrt_jax/model.py), which `load`, `python -m xrt_jax.predict` and the hub take.

        Raises:
            ValueError: the folder holds other things than a model, or a label's name has a line break.
        """
        check_is_fitted(self)
        folder = Path(folder)
        others = [path.name for path in folder.glob("*") if path.name not in (*_MODEL_PARTS, "README.md")]
        if others:
            raise ValueError(f"{folder} holds {others[0]}, which is no part of a model: choose another folder")
        model = self.model_
        broken = next((name for name in model.labels if "\n" in name or "\r" in name), None)
        if broken is not None:
            raise ValueError(f"the label {broken!r} has a line break, which labels.txt cannot hold: rename it")
        with tempfile.TemporaryDirectory() as tmp:
            encoder = {}
            if model.encoder is not None:
                for name, content in self.tokenizer_files_.items():
                    (Path(tmp) / name).write_bytes(content)
                encoder = {"module": model.encoder.module, "encoder": model.encoder.params, "tokenizer_folder": tmp}
            save_model(
                folder,
                settings=model.settings | {"estimator": self._to_json()},
                ranker=model.ranker,
                tfidf=model.tfidf,
                labels=model.labels,
                card=self.card_,
                calibration=model.calibration,
                **encoder,
            )

    def _parameters(self) -> dict:
        """The parameters that made the model, as JSON can hold them."""
        parameters = self.get_params(deep=False) | {"random_state": self.seed_}
        return {name: _plain(value) for name, value in parameters.items() if name not in ("workdir", "verbose")}

    def _to_json(self) -> dict:
        """What load needs beside the model: parameters, and how the labels were given."""
        is_text = self.classes_.dtype.kind in "UO"
        values = self.classes_.tolist() if self.target_.kind == CLASSES and not is_text else None
        return {"parameters": self._parameters(), "target": self.target_.kind, "classes": values}

    @classmethod
    def load(cls, folder: str | Path):
        """The estimator of a model folder that `save`, `save_pretrained` or python -m xrt_jax.main has written.

        A folder of xrt_jax.main has default parameters and labels of the form NAMES.

        Raises:
            FileNotFoundError, ValueError: no model folder, one of another kind, or one that needs texts and features.
        """
        folder = Path(folder)
        kind = read_json(folder / "config.json")["model"] if (folder / "config.json").is_file() else cls._model_kind
        if kind != cls._model_kind:
            other = KINDS[kind][1] or "xrt_jax.encode"
            raise ValueError(f"{folder} is of the kind {kind}, {cls.__name__} opens {cls._model_kind}: use {other}")
        model = load_model(folder)
        if model.encoder is not None and model.tfidf is None:
            raise ValueError(f"{folder} was trained on texts and given features: use python -m xrt_jax.predict")
        saved = model.settings.pop("estimator", {"parameters": {}, "target": NAMES, "classes": None})
        estimator = cls(**{name: _as_parameter(value) for name, value in saved["parameters"].items()})
        estimator.seed_ = estimator.random_state
        if saved["classes"] is not None:
            classes = np.array(saved["classes"])
        elif saved["target"] in (DENSE, SPARSE):
            classes = np.arange(len(model.labels))
        else:
            classes = np.array(model.labels, dtype=object)
        estimator.target_, estimator.classes_ = Target(saved["target"], classes), classes
        estimator._keep(model, folder)
        return estimator

    def _keep(self, model: Model, folder: Path) -> None:
        """Sets the fitted attributes that come from a model folder."""
        self.model_ = model
        self.card_ = (folder / "README.md").read_text(encoding="utf-8")
        if model.encoder is not None:
            from xrt_jax.encoders.huggingface import tokenizer_files

            self.tokenizer_files_ = {path.name: path.read_bytes() for path in tokenizer_files(folder / "encoder")}
        elif model.tfidf is None:
            top = model.ranker[0]
            self.n_features_in_ = top.W.shape[0] - (top.bias > 0)

    def _save_pretrained(self, save_directory: Path) -> None:
        """For save_pretrained and push_to_hub: the model's parts go into the folder, whatever else it holds stays."""
        with tempfile.TemporaryDirectory(dir=save_directory) as tmp:
            model = Path(tmp) / "model"
            self.save(model)
            for name in _MODEL_PARTS:
                old = save_directory / name
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
                if (model / name).exists():
                    (model / name).rename(old)

    def generate_model_card(self, *args, **kwargs) -> ModelCard:
        """The card that save_pretrained writes where the folder has none; arguments of the mixin's have no effect."""
        del args, kwargs
        check_is_fitted(self)
        return ModelCard(self.card_)

    @classmethod
    def _from_pretrained(
        cls, *, model_id, revision, cache_dir, force_download, local_files_only, token, **parameters
    ) -> "_Ranker":
        """For from_pretrained: `load` of a local folder, or of a repository's files; parameters set those saved."""
        folder = Path(model_id)
        if not folder.is_dir():
            patterns = ["README.md", *_MODEL_PARTS, *(f"{name}/*" for name in _MODEL_PARTS)]
            folder = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=patterns,
            )
        return cls.load(folder).set_params(**parameters)


class XRLinearClassifier(_Ranker, library_name="xrt_jax"):
    """XR-Linear: a tree of the labels, sparse linear rankers at its nodes, beam search. jax is not needed.

    Labels are clustered by balanced k-means on PIFA embeddings, the mean features of their documents.

    Args:
        nr_splits: children of an inner node of the tree.
        max_leaf_size: most labels under a lowest cluster; with so many labels or fewer there is no tree.
        negative_sampling: "tfn" (rows of the same cluster), "man" (rows that the beam takes there), or "tfn+man".
        solver: "L2R_L2LOSS_SVC_DUAL", "L2R_L1LOSS_SVC_DUAL", "L2R_LR_DUAL" or "L2R_L2LOSS_SVC_PRIMAL".
        Cp, Cn: costs of a positive and of a negative row.
        threshold: smaller weights are dropped.
        max_iter: most passes of the dual solvers.
        bias: value of the constant feature; 0: none.
        only_topk: clusters kept at each level of the search, and labels that it ends with.
        post_processor: how margins become ranking scores: "noop", "sigmoid", "log-sigmoid", "l3-hinge", "log-l3-hinge",
            or with another exponent. Scores are products (logarithms: sums) down the tree; "noop" gives margins.
        min_score: of the labels that `predict` gives; None: half of the highest score (its logarithm), 0 for "noop".
        normalize: bring rows of features to unit length; TF-IDF's have it.
        ngram_range, min_df, max_features, sublinear_tf: of TF-IDF (xrt_jax/data/tfidf.py), where texts are given.
        random_state: int, numpy's RandomState or None: seed of the clustering.

    Attributes:
        classes_: ndarray [L], see the module.
        model_: xrt_jax.model.Model; model_.ranker is what xrt_jax.xlinear takes.
        validation_metrics_: {"prec": [10], "recall": [10]} on the validation data of fit, or None.
        n_features_in_, feature_names_in_: as in scikit-learn, if fit was given features.
    """

    _model_kind = "xr_linear"

    def __init__(
        self,
        *,
        nr_splits=16,
        max_leaf_size=100,
        negative_sampling="tfn",
        solver="L2R_L2LOSS_SVC_DUAL",
        Cp=1.0,
        Cn=1.0,
        threshold=0.1,
        max_iter=100,
        bias=1.0,
        only_topk=20,
        post_processor="l3-hinge",
        min_score=None,
        normalize=False,
        ngram_range=(1, 2),
        min_df=2,
        max_features=None,
        sublinear_tf=True,
        random_state=0,
    ):
        self.nr_splits = nr_splits
        self.max_leaf_size = max_leaf_size
        self.negative_sampling = negative_sampling
        self.solver = solver
        self.Cp = Cp
        self.Cn = Cn
        self.threshold = threshold
        self.max_iter = max_iter
        self.bias = bias
        self.only_topk = only_topk
        self.post_processor = post_processor
        self.min_score = min_score
        self.normalize = normalize
        self.ngram_range = ngram_range
        self.min_df = min_df
        self.max_features = max_features
        self.sublinear_tf = sublinear_tf
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X, y, validation=None) -> "XRLinearClassifier":
        """Trains.

        Args:
            X: n texts (str), or features [n, d], ndarray or sparse.
            y: labels of the n rows, see the module.
            validation: (X, y) to measure `validation_metrics_` on, in the same forms.

        Raises:
            ValueError: data or parameters that cannot be used.
        """
        _check_validation(validation)
        texts = None
        if are_texts(X):
            texts = checked_texts(X)
            settings = {name: getattr(self, name) for name in ("ngram_range", "min_df", "max_features", "sublinear_tf")}
            tfidf, features = fit_tfidf(texts, **settings)
        else:
            tfidf, features = None, validate_data(self, X, accept_sparse="csr")
            features = normalize_rows(features) if self.normalize else features
        Y, labels = self._take_target(y)
        check_consistent_length(features, Y)
        self.seed_ = _seed(self.random_state)
        chain = hierarchical_kmeans(
            tree_embeddings("pifa", Y, features),
            nr_splits=self.nr_splits,
            max_leaf_size=self.max_leaf_size,
            seed=self.seed_,
        )
        ranker = train_ranker(
            features,
            Y,
            chain,
            negative_sampling=(self.negative_sampling,),
            solver=self.solver,
            Cp=self.Cp,
            Cn=self.Cn,
            threshold=self.threshold,
            max_iter=self.max_iter,
            bias=self.bias,
            only_topk=(self.only_topk,),
            post_processor=(self.post_processor,),
        )
        settings = {"model": self._model_kind, "normalize": bool(self.normalize)}
        model = Model(settings=settings, encoder=None, ranker=ranker, tfidf=tfidf, labels=labels)
        return self._finish(model, Dataset(Split(texts, Y, None), None, None, labels), validation)

    def _inputs(self, X) -> tuple[list[str] | None, object]:
        if self.model_.tfidf is not None:
            return checked_texts(X), None
        if are_texts(X):
            raise ValueError("X holds texts, but the estimator was fitted on features: give features")
        return None, validate_data(self, X, accept_sparse="csr", reset=False)


class XRTransformerClassifier(_Ranker, library_name="xrt_jax"):
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
        ngram_range, min_df, max_features, sublinear_tf: of TF-IDF (xrt_jax/data/tfidf.py).
        config_overrides: {"matcher.loss": "hinge", …}: any other field of xrt_jax/default_config.py. These win.
        workdir: folder of the run, with its data, checkpoints and metrics, from which a fit that was broken off goes on
            when it is called again with the same data and parameters; None: a temporary one.
        verbose: show progress.
        random_state: int, numpy's RandomState or None: seed of everything random.

    Attributes:
        classes_: ndarray [L], see the module.
        model_: xrt_jax.model.Model.
        validation_metrics_: {"prec": [10], "recall": [10]} on the validation data of fit, or None.
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
        min_df=2,
        max_features=None,
        sublinear_tf=True,
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
        self.min_df = min_df
        self.max_features = max_features
        self.sublinear_tf = sublinear_tf
        self.config_overrides = config_overrides
        self.workdir = workdir
        self.verbose = verbose
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, X, y, validation=None) -> "XRTransformerClassifier":
        """Trains.

        Args:
            X: n texts (str); line breaks become blanks.
            y: labels of the n texts, see the module.
            validation: (X, y), shown while training and measured on in the end, `validation_metrics_`. With the
                override {"matcher.max_no_improve": 3} a level ends early when it does not get better on them.

        Raises:
            ValueError: data or parameters that cannot be used, or a workdir of another fit.
        """
        from xrt_jax.train import train_and_evaluate

        _check_validation(validation)
        texts = checked_texts(X)
        Y, labels = self._take_target(y)
        check_consistent_length(texts, Y)
        self.seed_ = _seed(self.random_state)
        dev = validation and Split(checked_texts(validation[0]), indicator(self.target_, validation[1]), None)
        dataset = Dataset(Split(texts, Y, None), dev, None, labels)
        with contextlib.ExitStack() as stack:
            workdir = Path(self.workdir or stack.enter_context(tempfile.TemporaryDirectory()))
            if not self.verbose:
                stack.enter_context(silence())
            data = _write_once(workdir, dataset)
            train_and_evaluate(self._config(data, dev), workdir / "run")
            self._keep(load_model(workdir / "run" / "model"), workdir / "run" / "model")
            return self._finish(self.model_, dataset, validation)

    def encode(self, X) -> np.ndarray:
        """Embeddings of texts by the fine-tuned encoder, float32 [n, hidden], not normalised."""
        check_is_fitted(self)
        with tempfile.TemporaryDirectory() as tmp:
            bars = progress if self.verbose else None
            return encode_texts(self.model_, checked_texts(X), Path(tmp) / "tokens", progress=bars)

    def _inputs(self, X) -> tuple[list[str], None]:
        return checked_texts(X), None

    def _config(self, data: Path, dev: Split | None):
        """The run's ConfigDict."""
        rate = self.learning_rate or (1e-4 if self.encoder else 1e-3)
        tree = {"nr_splits": self.nr_splits, "max_leaf_size": self.max_leaf_size}
        fields = {
            **_SHORT_RUN,
            "seed": self.seed_,
            "data.dir": str(data),
            "data.dev_size": dev.Y.shape[0] if dev else 0,
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
            "tfidf.min_df": self.min_df,
            "tfidf.max_features": self.max_features,
            "tfidf.sublinear_tf": self.sublinear_tf,
            **{f"{name}_tree.{key}": value for name in ("preliminary", "refined") for key, value in tree.items()},
            **(self.config_overrides or {}),
        }
        config = get_config()
        override(config, fields)
        return config


# ---------------------------------------------------------------------------- inputs


def are_texts(X) -> bool:
    """Whether X is a sequence that begins with a string."""
    if getattr(X, "ndim", 1) != 1 or sp.issparse(X) or not hasattr(X, "__len__") or not len(X):
        return False
    return isinstance(next(iter(X)), str)


def checked_texts(X) -> list[str]:
    """The texts as a list, each on one line; ValueError for anything but a sequence of strings."""
    if isinstance(X, str):
        raise ValueError("X is one string: give a list of texts")
    texts = list(X) if hasattr(X, "__iter__") and getattr(X, "ndim", 1) == 1 else None
    if texts is None:
        raise ValueError(f"X is no sequence of texts but {type(X).__name__}: give a list of strings")
    if not texts:
        raise ValueError("X holds no texts: give one or more")
    wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"X: row {wrong} is of the type {type(texts[wrong]).__name__}; each must be a text (str)")
    return [" ".join(text.splitlines()) for text in texts]


def _check_validation(validation) -> None:
    if validation is not None and not (isinstance(validation, (tuple, list)) and len(validation) == 2):
        raise ValueError("validation must be a pair (X, y), or None")


def _seed(random_state) -> int:
    """A seed for this package of what scikit-learn calls a random_state."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _plain(value):
    """A parameter without types of numpy and pathlib."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _as_parameter(value):
    """A parameter as JSON gives it back."""
    return tuple(value) if isinstance(value, list) else value


def _write_once(workdir: Path, dataset: Dataset) -> Path:
    """The data-set folder in a work directory, named by a checksum of the data; ValueError if it has other data."""
    splits = [split for split in (dataset.trn, dataset.dev) if split]
    parts = [part for split in splits for part in (split.texts, split.Y.indptr, split.Y.indices)]
    folder = workdir / f"data-{fingerprint(*parts, dataset.label_names):08x}"
    others = [path for path in workdir.glob("data-*") if path != folder]
    if others:
        raise ValueError(f"workdir={workdir} belongs to a fit on other data: choose another one")
    if not (folder / "X.trn.txt").is_file():
        save_dataset(folder, dataset)
    return folder

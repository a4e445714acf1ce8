"""What both classifiers share: labels in and out, predictions, model folders, the hub."""

import shutil
import tempfile
from numbers import Integral
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from xrt_jax.data.folders import Dataset
from xrt_jax.disk import read_json
from xrt_jax.estimators.targets import CLASSES, DENSE, NAMES, SPARSE, Target, indicator, read_target
from xrt_jax.header import KINDS, model_card
from xrt_jax.metrics import precision_recall
from xrt_jax.model import Model, load_model, nr_given_features, rank_texts, save_model
from xrt_jax.predict import named_rows
from xrt_jax.report import progress
from xrt_jax.xlinear.postprocess import LOG_HINGE, LOG_SIGMOID, NOOP, parse

_MODEL_PARTS = ("config.json", "labels.txt", "encoder", "ranker", "tfidf", "calibration.json", "calibration.html")


class Ranker(ModelHubMixin, ClassifierMixin, BaseEstimator):
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

    # X is what fit took; features [n, d] go beside texts where fit was given both.

    def predict(self, X, features=None) -> np.ndarray | sp.csr_matrix:
        """The labels of each row, in the form of fit (see the module): those that score `min_score` or more.

        With a class a row: the best one. A row can have no label; `predict_topk` always has some.
        """
        P = self._rank(X, features)
        if self.target_.kind == CLASSES:
            return self.classes_[P.indices[P.indptr[:-1]]]  # rows are sorted by score
        P.data = P.data >= self._least_score()
        P.eliminate_zeros()
        P.sort_indices()
        P = P.astype(np.int64)
        return P.toarray() if self.target_.kind == DENSE else P

    def predict_topk(self, X, k: int = 10, features=None) -> list[list[tuple]]:
        """The k best labels of each row, best first, as (label, score); label is an entry of `classes_`.

        A beam search that ends with fewer labels gives fewer.
        """
        if not isinstance(k, Integral) or k < 1:
            raise ValueError(f"k is {k!r}: it must be a whole number from 1 on")
        names = self.classes_.tolist() if hasattr(self, "classes_") else []
        return [[tuple(pair) for pair in row] for row in named_rows(self._rank(X, features, only_topk=int(k)), names)]

    def decision_function(self, X, features=None) -> np.ndarray | sp.csr_matrix:
        """Ranking scores float32, after the post-processor: ndarray or csr by the form of fit (see the module).

        Of two classes, one number a row, above 0 for the second. In a csr, labels that are not stored rank below.
        """
        check_is_fitted(self)
        nr_labels = len(self.classes_)
        if self.target_.kind in (SPARSE, NAMES):
            P = self._rank(X, features)
            P.sort_indices()
            return P
        scores = self._rank(X, features, beam_size=nr_labels, only_topk=nr_labels).toarray()
        is_binary = self.target_.kind == CLASSES and nr_labels == 2
        return scores[:, 1] - scores[:, 0] if is_binary else scores

    def score(self, X, y, features=None) -> float:
        """P@1: the share of rows whose best label is right. With a class a row that is the accuracy.

        scikit-learn's subset accuracy of multi-label classifiers tells nothing with many labels. y: labels in the form
        of fit; those that fit did not see count as missed.
        """
        return float(self._precision_recall(X, y, features, k=1)["prec"][0])

    def _rank(self, X, features, **search) -> sp.csr_matrix:
        """csr float32 [n, L], rows by descending score; search: arguments of rank_texts."""
        check_is_fitted(self)
        texts, X = self._inputs(X, features)
        bars = progress if getattr(self, "verbose", False) else None
        with tempfile.TemporaryDirectory() as tmp:
            return rank_texts(self.model_, texts, Path(tmp) / "tokens", X=X, progress=bars, **search)

    def _precision_recall(self, X, y, features, *, k: int) -> dict[str, np.ndarray]:
        check_is_fitted(self)
        Y = indicator(self.target_, y)
        P = self._rank(X, features)
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

    def _finish(self, model: Model, dataset: Dataset, validation) -> "Ranker":
        """Sets the fitted attributes; measures on the validation data, as of checked_validation."""
        self.model_ = model
        self.validation_metrics_ = validation and self._precision_recall(*validation, k=10)
        metrics = {self._model_kind: self.validation_metrics_} if validation else {}
        name = type(self).__name__
        same = type(self)(**self._parameters())
        fitted = "X, y" if dataset.trn.X is None else "X, y, features=features"
        made_by = f"from xrt_jax import {name}\n\nmodel = {same.__repr__(N_CHAR_MAX=10**9)}\nmodel.fit({fitted})"
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
            FileNotFoundError, ValueError: no model folder, or one of another kind.
        """
        folder = Path(folder)
        kind = read_json(folder / "config.json")["model"] if (folder / "config.json").is_file() else cls._model_kind
        if kind != cls._model_kind:
            other = KINDS[kind][1] or "xrt_jax.encode"
            raise ValueError(f"{folder} is of the kind {kind}, {cls.__name__} opens {cls._model_kind}: use {other}")
        model = load_model(folder)
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
        if self._nr_given():
            self.n_features_in_ = self._nr_given()

    def _nr_given(self) -> int:
        """Columns of the features that the model needs beside texts, or in their place."""
        encoder = self.model_.encoder
        return 0 if self.model_.tfidf is not None else nr_given_features(self.model_.ranker, encoder and encoder.module)

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
    ) -> "Ranker":
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


def _plain(value):
    """A parameter without types of numpy and pathlib."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _as_parameter(value):
    """A parameter as JSON gives it back."""
    return tuple(value) if isinstance(value, list) else value

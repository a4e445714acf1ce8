"""XR-Linear as a classifier of scikit-learn's."""

from sklearn.utils.validation import check_consistent_length, validate_data

from xrt_jax.data.folders import Dataset, Split
from xrt_jax.data.label_texts import add_label_texts
from xrt_jax.estimators.inputs import (
    are_texts,
    check_label_texts,
    checked_features,
    checked_texts,
    checked_validation,
    refuse_features,
    seed_of,
)
from xrt_jax.estimators.ranker import Ranker
from xrt_jax.model import Model
from xrt_jax.sparse import normalize_rows
from xrt_jax.stages import fit_features
from xrt_jax.tree.kmeans import hierarchical_kmeans
from xrt_jax.tree.label_embedding import tree_embeddings
from xrt_jax.xlinear.train import train_ranker

_OF_TFIDF = ("ngram_range", "char_ngram_range", "min_df", "max_features", "sublinear_tf")


class XRLinearClassifier(Ranker, library_name="xrt_jax"):
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
        ngram_range, char_ngram_range, min_df, max_features, sublinear_tf: of TF-IDF (xrt_jax/data/tfidf.py), where
            texts are given.
        label_texts: "names": the names of the labels are trained on too, each as a text of its label; None: they are
            not. Rare labels of short texts gain much.
        label_text_copies: how often each; more weigh more.
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
        char_ngram_range=(0, 0),
        min_df=2,
        max_features=None,
        sublinear_tf=True,
        label_texts=None,
        label_text_copies=1,
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
        self.char_ngram_range = char_ngram_range
        self.min_df = min_df
        self.max_features = max_features
        self.sublinear_tf = sublinear_tf
        self.label_texts = label_texts
        self.label_text_copies = label_text_copies
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X, y, validation=None, features=None) -> "XRLinearClassifier":
        """Trains.

        Args:
            X: n texts (str), or features [n, d], ndarray or sparse.
            y: labels of the n rows, see the module.
            validation: (X, y) or (X, y, features) to measure `validation_metrics_` on, in the same forms.
            features: [n, d], ndarray or sparse, of n texts X: what is learned from in place of TF-IDF. The texts then
                count for nothing here; XRTransformerClassifier takes the same arguments.

        Raises:
            ValueError: data or parameters that cannot be used.
        """
        validation = checked_validation(validation, features)
        texts = checked_texts(X) if are_texts(X) or features is not None else None
        tfidf = X_trn = None
        if features is not None:
            X_trn = checked_features(self, features, texts, reset=True)
        elif texts is None:
            X_trn = validate_data(self, X, accept_sparse="csr")
        Y, labels = self._take_target(y)
        check_consistent_length(texts if X_trn is None else X_trn, Y)
        check_label_texts(self.label_texts, self.target_, texts, features)
        dataset = Dataset(Split(texts, Y, features), None, None, labels)
        if X_trn is None:
            if self.label_texts:
                dataset = add_label_texts(dataset, labels, copies=self.label_text_copies)
            tfidf, X_trn = fit_features(dataset, {name: getattr(self, name) for name in _OF_TFIDF})
        elif self.normalize:
            X_trn = normalize_rows(X_trn)
        Y = dataset.trn.Y
        self.seed_ = seed_of(self.random_state)
        chain = hierarchical_kmeans(
            tree_embeddings("pifa", Y, X_trn),
            nr_splits=self.nr_splits,
            max_leaf_size=self.max_leaf_size,
            seed=self.seed_,
        )
        ranker = train_ranker(
            X_trn,
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
        return self._finish(model, dataset, validation)

    def _inputs(self, X, features) -> tuple[list[str] | None, object]:
        if self.model_.tfidf is not None:
            refuse_features(features)
            return checked_texts(X), None
        if features is not None:
            return None, checked_features(self, features, checked_texts(X), reset=False)
        if are_texts(X):
            raise ValueError("X holds texts, but the estimator was fitted on features: give features=, or them as X")
        return None, validate_data(self, X, accept_sparse="csr", reset=False)

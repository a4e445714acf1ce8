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

Whoever has better features of the texts than TF-IDF gives them beside the texts, an ndarray or sparse matrix [n, d]:

    model.fit(texts, y, features=F, validation=(dev_texts, dev_y, dev_F))
    model.predict_topk(new_texts, features=new_F)

In grid searches scikit-learn's metadata routing hands them on, after set_fit_request and set_score_request.
"""

from xrt_jax.estimators.linear import XRLinearClassifier
from xrt_jax.estimators.transformer import XRTransformerClassifier

__all__ = ["XRLinearClassifier", "XRTransformerClassifier"]

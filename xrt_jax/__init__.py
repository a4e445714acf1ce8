"""XR-Transformer and XR-Linear in JAX: extreme multi-label ranking of texts."""

__version__ = "0.1.0"

_ESTIMATORS = ("XRLinearClassifier", "XRTransformerClassifier")


def __getattr__(name: str):
    """The estimators, imported when they are asked for: whoever wants something else goes without scikit-learn."""
    if name in _ESTIMATORS:
        from xrt_jax import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ESTIMATORS])

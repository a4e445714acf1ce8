"""XR-Transformer and XR-Linear in JAX: extreme multi-label ranking of texts."""

__version__ = "0.1.0"

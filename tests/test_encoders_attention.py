"""cuDNN's attention: when it is taken, and that what it is given means the same as our own. It runs on GPUs only."""

import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import run
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from xrt_jax.encoders import attention
from xrt_jax.encoders.huggingface import init_encoder, load_encoder

GOLDEN = Path(__file__).with_name("golden")
FUSED = ("bert", "roberta", "xlm_roberta", "distilbert", "modernbert")  # encoders that can take it
WANTS_CUDNN = "encoder.attention is 'cudnn', but"


def load(name, **options):
    return load_encoder(GOLDEN / f"{name}_tiny", **options)


def inputs(name):
    outputs = np.load(GOLDEN / f"{name}_tiny" / "outputs.npz")
    return outputs["ids"], outputs["mask"]


@pytest.fixture
def calls(monkeypatch):
    """XLA's implementation in place of cuDNN's, with the same arguments; the list of the shapes it was called with."""
    shapes, inner = [], jax.nn.dot_product_attention

    def by_xla(q, k, v, *, implementation, **arguments):
        assert implementation == "cudnn"
        shapes.append(q.shape)
        return inner(q, k, v, implementation="xla", **arguments)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    return shapes


@pytest.fixture
def gpu(monkeypatch):
    """As if the first device were an NVIDIA GPU."""
    device = SimpleNamespace(client=SimpleNamespace(platform_version="PJRT C API\ncuda 13000"))
    monkeypatch.setattr(jax, "devices", lambda: [device])
    attention._failure.cache_clear()
    yield
    attention._failure.cache_clear()


# ---------------------------------------------------------------------------- what it is given


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("remat", [False, True])
def test_its_arguments_mean_the_same(name, remat, calls):
    module, params = load(name, remat=remat, hidden_dropout=0.0, attention_dropout=0.0)
    ids, mask = inputs(name)
    assert mask.sum(1).min() == 1  # one token and padding
    weights = np.random.default_rng(0).standard_normal((*ids.shape, module.hidden_size)).astype(np.float32)

    def found(module):
        def total(params):
            hidden, pooled = module.apply({"params": params}, ids, mask, deterministic=False)
            return (hidden * weights * mask[..., None]).sum() + pooled.sum(), (hidden, pooled)

        return jax.jit(jax.grad(total, has_aux=True))(params)

    gradient, (hidden, pooled) = found(module)
    assert not calls
    fused_gradient, (fused_hidden, fused_pooled) = found(module.clone(attention="cudnn"))
    assert calls
    np.testing.assert_allclose(fused_hidden[mask], hidden[mask], atol=1e-5)
    np.testing.assert_allclose(fused_pooled, pooled, atol=1e-5)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    for a, (path, b) in zip(jax.tree.leaves(fused_gradient), leaves, strict=True):
        if [key.key for key in path[-2:]] == [
            "key",
            "bias",
        ]:  # which has no influence: rounding of larger terms is left
            assert max(abs(a).max(), abs(b).max()) < 1e-4
        else:
            np.testing.assert_allclose(a, b, atol=1e-5 * max(1, abs(b).max()))


def test_windows_that_leave_tokens_out_are_xlas(calls):
    module, params = load("modernbert")
    ids, mask = inputs("modernbert")
    shapes = lambda **fields: jax.eval_shape(  # noqa: E731
        lambda: module.clone(attention="cudnn", **fields).apply({"params": params}, ids, mask, deterministic=True)
    )
    nr_global = len([i for i in range(module.num_layers) if i % module.global_every == 0])
    assert 0 < nr_global < module.num_layers
    reach = ids.shape[1] - 1
    for window, expected in ((2 * reach - 1, nr_global), (2 * reach, module.num_layers)):
        calls.clear()
        shapes(window=window)
        assert len(calls) == expected


@pytest.mark.parametrize("name", FUSED)
def test_attention_dropout_trains_with_xla_and_encodes_with_cudnn(name, calls):
    module, params = load(name, attention_dropout=0.1)
    ids, mask = inputs(name)
    for deterministic in (False, True):
        jax.eval_shape(
            lambda deterministic=deterministic: module.clone(attention="cudnn").apply(
                {"params": params}, ids, mask, deterministic=deterministic, rngs={"dropout": jax.random.key(0)}
            )
        )
        assert bool(calls) == deterministic


@pytest.mark.parametrize("name", FUSED)
def test_the_cuda_program_calls_cudnn(name, monkeypatch):
    """Compiled for another machine than this one, as far as that goes: down to XLA's input."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    sizes = {"hidden_size": 64, "num_layers": 1, "num_heads": 1, "attention_dropout": 0.0, "hidden_dropout": 0.0}
    module, _ = load(name, dtype=jnp.bfloat16)
    module = module.clone(**sizes, intermediate_size=64, attention="cudnn")
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    params = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, 2), int), jnp.ones((1, 2), int), deterministic=True)
    )

    def loss(params, ids, mask, deterministic):
        return module.apply(params, ids, mask, deterministic=deterministic)[1].sum()

    for function, deterministic, called in ((loss, True, "Softmax"), (jax.grad(loss), False, "SoftmaxBackward")):
        traced = jax.jit(function, static_argnums=3).trace(params, ids, ids, deterministic)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert f"@__cudnn$fmha{called}(" in text


# ---------------------------------------------------------------------------- when it is taken


def test_auto_is_xla_on_cpu():
    assert load("bert", dtype=jnp.bfloat16)[0].attention == "xla"
    assert not hasattr(load("xlnet")[0], "attention")


@pytest.mark.parametrize(
    ("load_it", "reason"),
    [
        (lambda: load("bert", attention="cudnn"), f"{WANTS_CUDNN} there is no NVIDIA GPU here: choose auto or xla"),
        (lambda: load("xlnet", attention="cudnn"), f"{WANTS_CUDNN} XlNet's logits are not a product"),
        (lambda: load("bert", attention="flash"), "encoder.attention is 'flash': choose one of auto, xla, cudnn"),
    ],
)
def test_refused_on_cpu(load_it, reason):
    with pytest.raises(ValueError, match=reason):
        load_it()


@pytest.mark.parametrize("encoder", ["", str(GOLDEN / "bert_tiny")])
def test_a_run_that_cannot_have_it_ends_before_any_work(encoder, data, tmp_path):
    arguments = [f"--config.encoder.name={encoder}", f"--config.data.dir={data}", "--config.encoder.attention=cudnn"]
    result = run("xrt_jax.main", "--config=configs/default.py", f"--workdir={tmp_path / 'w'}", *arguments)
    assert result.returncode == 2
    assert (
        result.stderr.strip().splitlines()[-1]
        == f"error: {WANTS_CUDNN} there is no NVIDIA GPU here: choose auto or xla"
    )
    assert not (tmp_path / "w/tfidf").exists()


def small(head_size, dtype=jnp.bfloat16, **options):
    sizes = {"hidden_size": 2 * head_size, "num_layers": 1, "num_heads": 2, "intermediate_size": 8}
    return init_encoder(vocab_size=10, **sizes, dtype=dtype, **options)[0]


def test_taken_on_an_nvidia_gpu(gpu, calls):
    assert small(32).attention == "cudnn"
    assert small(32, attention="cudnn").attention == "cudnn"
    assert calls.count((2, 64, 1, 32)) == 1  # tried once
    assert small(32, attention="xla").attention == "xla"
    for head_size in (12, 136):
        assert small(head_size).attention == "xla"
        with pytest.raises(ValueError, match=f"{WANTS_CUDNN} this encoder's heads have size {head_size}"):
            small(head_size, attention="cudnn")
    assert small(32, jnp.float32).attention == "xla"
    with pytest.raises(ValueError, match=f"{WANTS_CUDNN} this encoder's products are float32, not bfloat16"):
        small(32, jnp.float32, attention="cudnn")


def test_a_gpu_whose_cudnn_fails_falls_back_with_one_line(gpu, monkeypatch, caplog):
    def fails(*_, **__):
        raise RuntimeError("cuDNN is not detected.\nmore")

    monkeypatch.setattr(jax.nn, "dot_product_attention", fails)
    with caplog.at_level(logging.WARNING):
        assert small(32).attention == "xla"
    assert caplog.messages == ["attention by XLA: cuDNN's does not work here (cuDNN is not detected.)"]
    with pytest.raises(
        ValueError, match=rf"{WANTS_CUDNN} cuDNN's does not work here \(cuDNN is not detected\.\): choose"
    ):
        small(32, attention="cudnn")

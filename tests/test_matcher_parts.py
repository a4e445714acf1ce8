"""Loss, shortlists, heads and optimizers against hand-computed cases and slow references."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.sparse import csc_matrix, csr_matrix, random_array

from xrt_jax.matcher import head as H
from xrt_jax.matcher import loss as L
from xrt_jax.matcher import optimizer as O
from xrt_jax.matcher import shortlist as S

# ---------------------------------------------------------------- loss


@pytest.mark.parametrize(
    ("name", "expected"),
    [("hinge", 0.875), ("squared-hinge", 0.7825), ("weighted-hinge", 1.05), ("weighted-squared-hinge", 0.905)],
)
def test_loss_is_that_of_pecos(name, expected):
    z, y = jnp.array([[0.3, -0.2, 0.0, 0.0]]), jnp.array([[2.0, 0, 0, 0]])
    loss = L.shortlist_loss(z, y, jnp.ones((1, 4), bool), width=4, name=name)
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_cross_entropy_is_that_of_probabilities():
    z, y = jnp.array([[0.3, -0.2, 5.0, 0.0]]), jnp.array([[2.0, 0, 0, 1]])
    p = 1 / (1 + np.exp(-np.array([0.3, -0.2, 0.0])))
    expected = -(np.log(p[0]) + np.log(1 - p[1]) + np.log(p[2])) / 4
    mask = jnp.array([[True, True, False, True]])
    np.testing.assert_allclose(L.shortlist_loss(z, y, mask, width=4, name="cross-entropy"), [expected], rtol=1e-6)
    far = L.shortlist_loss(
        jnp.array([[300.0]]), jnp.array([[0.0]]), jnp.ones((1, 1), bool), width=1, name="cross-entropy"
    )
    assert far.tolist() == [300.0]


def test_labels_outside_the_shortlist_do_not_count():
    z, y = jnp.array([[0.5, 9.0, -0.5]]), jnp.array([[1.0, 0, 0]])
    mask = jnp.array([[True, False, True]])
    np.testing.assert_allclose(L.shortlist_loss(z, y, mask, width=2, name="hinge"), [(0.5 + 0.5) / 2])


def test_mean_loss_leaves_filling_rows_out():
    assert float(L.mean_loss(jnp.array([1.0, 3.0, 100.0]), jnp.array([1.0, 1.0, 0.0]))) == 2.0


# ----------------------------------------------------------- shortlists

C = csc_matrix(np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], np.float32))
Y = csr_matrix(np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 2, 0]], np.float32))


def test_parent_of_label():
    assert S.parent_of_label(C).tolist() == [0, 0, 1, 1, 1]
    two = csc_matrix(np.array([[1, 1]], np.float32))
    with pytest.raises(ValueError, match="exactly one parent"):
        S.parent_of_label(two)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("tfn", [[1, 1], [0, 0], [0, 1]]), ("man", [[1, 0], [0, 1], [1, 0]]), ("tfn+man", [[1, 1], [0, 1], [1, 1]])],
)
def test_match_clusters(scheme, expected):
    # a stored score of 0 in the beam still counts as a match
    M_pred = csr_matrix((np.array([0.5, 0.0, 0.1], np.float32), [0, 1, 0], [0, 1, 2, 3]), (3, 2))
    assert S.match_clusters(Y @ C, M_pred, scheme).toarray().tolist() == expected


def test_shortlist_width_counts_children_and_outside_positives():
    M = csr_matrix(np.array([[1, 0], [0, 1], [0, 0]], np.float32))
    # row 0: labels 0, 1 and the positive 2; row 1: labels 2, 3, 4; row 2: the positive 3
    assert S.shortlist_width(M, C, Y) == 3
    assert S.shortlist_width(csr_matrix(np.ones((3, 2), np.float32)), C, Y) == 5


@pytest.mark.parametrize("seed", range(3))
def test_pack_and_unpack_rows(seed):
    A = csr_matrix(random_array((7, 11), density=0.3, rng=seed, dtype=np.float32))
    packed = S.pack_rows(A)
    assert packed.index.shape == (7, np.diff(A.indptr).max())
    np.testing.assert_array_equal(S.unpack_rows(packed.index, packed.value, A.shape[1]), A.toarray())
    # one more column, as the steps use it for rows that only pad the head, stays empty
    np.testing.assert_array_equal(S.unpack_rows(packed.index, packed.value, A.shape[1] + 1)[:, -1], np.zeros(7))


@pytest.mark.parametrize("check", [L.check_loss, S.check_scheme, partial(H.check_bootstrap, "bootstrap")])
def test_unknown_names_are_refused_with_the_choices(check):
    with pytest.raises(ValueError, match="is 'x': choose one of"):
        check("x")


# ---------------------------------------------------------------- heads


def test_inherited_head_repeats_the_parents():
    above = {"W": np.array([[1.0, 2], [3, 4]], np.float32), "b": np.array([0.5, -0.5], np.float32)}
    head = H.inherited_head(above, C)
    assert head["W"].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4], [3, 4]]
    assert head["b"].tolist() == [0.5, 0.5, -0.5, -0.5, -0.5]


def test_linear_head_separates_what_is_separable():
    rng = np.random.default_rng(0)
    emb = rng.standard_normal((60, 4)).astype(np.float32)
    truth = np.stack([emb[:, 0] > 0, emb[:, 0] <= 0, emb[:, 1] > 0, emb[:, 1] <= 0], 1).astype(np.float32)
    tree = csc_matrix(np.kron(np.eye(2), np.ones((2, 1))).astype(np.float32))
    everywhere = csr_matrix(np.ones((60, 2), np.float32))
    for weighted in (False, True):
        head = H.linear_head(emb, csr_matrix(truth), tree, everywhere, weighted=weighted)
        assert head["W"].shape == (4, 4)
        assert head["b"].shape == (4,)
        assert np.mean((emb @ head["W"].T + head["b"] > 0) == truth) > 0.97


def test_random_head_is_small_and_seeded():
    head = H.random_head(500, 64, seed=3)
    assert abs(head["W"].std() - 0.02) < 1e-3
    assert not head["b"].any()
    np.testing.assert_array_equal(head["W"], H.random_head(500, 64, seed=3)["W"])


def test_padding_the_head_comes_off_again():
    head = H.random_head(5, 3, seed=0)
    padded = H.pad_head(head, 4)
    assert padded["W"].shape == (8, 3)
    assert not padded["W"][5:].any()
    np.testing.assert_array_equal(H.unpad_head(padded, 5)["W"], head["W"])


# ----------------------------------------------------------- optimizers


def test_linear_schedule_is_that_of_hugging_face():
    schedule = O.make_schedule("linear", 1.0, warmup_steps=4, max_steps=12)
    np.testing.assert_allclose([schedule(s) for s in (0, 1, 4, 8, 12, 15)], [0, 0.25, 1, 0.5, 0, 0], atol=1e-7)
    assert float(O.make_schedule("linear", 1.0, warmup_steps=0, max_steps=2)(0)) == 1.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", [0, 0.25, 1, 0.5 * (1 + np.cos(np.pi / 4)), 0.5, 0, 0]),
        ("cosine_with_restarts", [0, 0.25, 1, 0.5 * (1 + np.cos(np.pi / 4)), 0.5, 0, 0]),
        ("polynomial", [0, 0.25, 1, 0.75 + 0.25e-7, 0.5 + 0.5e-7, 1e-7, 1e-7]),
        ("constant", [1, 1, 1, 1, 1, 1, 1]),
        ("constant_with_warmup", [0, 0.25, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules_by_hand(name, expected):
    schedule = O.make_schedule(name, 2.0, warmup_steps=4, max_steps=12)
    expected = 2 * np.array(expected) - (1e-7 * np.array([0, 0, 0, 0.25, 0.5, 1, 1]) if name == "polynomial" else 0)
    np.testing.assert_allclose([schedule(s) for s in (0, 1, 4, 6, 8, 12, 15)], expected, rtol=1e-6, atol=1e-12)
    assert set(O.DECAYS) - {"linear"} >= {name}


def test_an_update_takes_the_mean_gradient_of_several_batches():
    grads = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    tx, one = O.accumulated(optax.adam(0.1), 3), optax.adam(0.1)
    state, expected = tx.init(jnp.zeros(4)), one.init(jnp.zeros(4))
    for i, grad in enumerate(grads, 1):
        step, state = tx.update(jnp.asarray(grad), state, jnp.zeros(4))
        if i % 3:
            assert not step.any()
        else:
            by_mean, expected = one.update(jnp.asarray(grads[i - 3 : i].mean(0)), expected, jnp.zeros(4))
            np.testing.assert_allclose(step, by_mean, rtol=1e-5)
    assert O.accumulated(one, 1) is one


def test_weight_decay_spares_biases_and_layer_norms():
    params = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    assert O.decays(params) == {"dense": {"kernel": True, "bias": False}, "norm": {"scale": False}}


def sparse_adam(grads, b1=0.9, b2=0.999, eps=1e-8):
    """Row by row, as torch's SparseAdam does it: moments of a row move only in steps that touch it."""
    rows = grads[0].shape[0]
    m, v, x = (np.zeros(grads[0].shape) for _ in range(3))
    for t, grad in enumerate(grads, 1):
        for r in range(rows):
            if np.any(grad[r] != 0):
                m[r] = b1 * m[r] + (1 - b1) * grad[r]
                v[r] = b2 * v[r] + (1 - b2) * grad[r] ** 2
                x[r] += (m[r] / (1 - b1**t)) / (np.sqrt(v[r] / (1 - b2**t)) + eps)
    return x


def test_lazy_adam_leaves_resting_rows_alone():
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal((5, 3)) * (rng.random((5, 1)) < 0.4) for _ in range(6)]
    tx = O.scale_by_lazy_adam()
    x = {"W": jnp.zeros((5, 3)), "b": jnp.zeros(5)}
    state = tx.init(x)
    for grad in grads:
        step, state = tx.update({"W": jnp.asarray(grad), "b": jnp.asarray(grad[:, 0])}, state)
        x = optax.apply_updates(x, step)
    np.testing.assert_allclose(x["W"], sparse_adam(grads), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x["b"], sparse_adam([g[:, :1] for g in grads])[:, 0], rtol=1e-5, atol=1e-6)


def test_lazy_adam_is_adam_where_every_row_has_a_gradient():
    grads = jax.random.normal(jax.random.key(0), (4, 5, 3))
    lazy, plain = O.scale_by_lazy_adam(), optax.scale_by_adam()
    lazy_state, plain_state = lazy.init(grads[0]), plain.init(grads[0])
    for grad in grads:
        a, lazy_state = lazy.update(grad, lazy_state)
        b, plain_state = plain.update(grad, plain_state)
        np.testing.assert_allclose(a, b, rtol=5e-5)  # optax takes 1 - b2**t in float32, which is off by 3e-5 at t = 1


# ---------------------------------------------------------------- listed shortlists


def listed_problem(seed):
    rng = np.random.default_rng(seed)
    C = csc_matrix(np.eye(5, dtype=np.float32)[rng.integers(0, 5, 40)])
    Y = random_array((30, 40), density=0.08, rng=rng, dtype=np.float32, format="csr")
    M = csr_matrix((rng.random((30, 5)) < 0.5).astype(np.float32))
    return csr_matrix(Y), C, M, rng.integers(0, 30, 8)


@pytest.mark.parametrize("seed", range(5))
def test_listed_labels_are_children_and_positives(seed):
    Y, C, M, rows = listed_problem(seed)
    found = S.list_labels(Y, M, S.children(C), rows, most=0, nr_rows=40, seed=0)
    assert [a.dtype for a in found] == [np.int32, np.int32, np.float32]
    assert found.slots_bw.shape == found.values_bw.shape
    nr_listed = int((found.rows_u < 40).sum())
    assert len(found.rows_u) == min(40, 1 << (nr_listed - 1).bit_length())
    union = set()
    for b, i in enumerate(rows):
        used = found.slots_bw[b] < len(found.rows_u)
        labels = found.rows_u[found.slots_bw[b][used]]
        expected = {label for label in range(40) if M[i, C.tocsr()[[label]].indices[0]] or Y[i, label]}
        assert set(labels.tolist()) == expected and len(labels) == len(expected)
        np.testing.assert_array_equal(found.values_bw[b][used], [Y[i, label] for label in labels])
        union |= expected
    assert found.rows_u[:nr_listed].tolist() == sorted(union)


def test_long_shortlists_keep_their_positives_and_a_draw_of_the_others():
    Y, C, M, rows = listed_problem(1)
    whole = S.list_labels(Y, M, S.children(C), rows, most=0, nr_rows=40, seed=0)
    draws = [S.list_labels(Y, M, S.children(C), rows, most=12, nr_rows=40, seed=(3, n)) for n in range(99)]
    again = S.list_labels(Y, M, S.children(C), rows, most=12, nr_rows=40, seed=(3, 0))
    assert all(map(np.array_equal, draws[0], again))

    def labels(found, b):
        return set(found.rows_u[found.slots_bw[b][found.slots_bw[b] < len(found.rows_u)]].tolist())

    for b, i in enumerate(rows):
        positives, everything = set(Y[[i]].indices.tolist()), labels(whole, b)
        for found in draws:
            assert positives <= labels(found, b) <= everything
            assert len(labels(found, b)) == min(len(everything), max(12, len(positives)))
        assert set().union(*(labels(found, b) for found in draws)) == everything  # 99 draws leave no label out


def test_the_cheapest_head_is_chosen():
    sizes = {"hidden_size": 384, "batch_size": 32, "platform": "cpu"}

    def cheapest(nr_labels, **lists):
        found = H.costs(nr_labels, **lists, **sizes)
        return min(found, key=found.get)

    assert cheapest(512, union=512, width=100) == "whole"
    assert cheapest(500_000, union=16384, width=4096) == "union"
    assert cheapest(500_000, union=400_000, width=64) == "gather"
    lists = [
        S.list_labels(
            *listed_problem(0)[::2], S.children(listed_problem(0)[1]), np.arange(4), most=0, nr_rows=40, seed=0
        )
    ]
    choose = partial(H.cheapest_strategy, lists, nr_labels=40, hidden_size=8, batch_size=4)
    assert choose(thinned=False) == "whole"
    assert choose(thinned=True) in ("union", "gather")
    with pytest.raises(ValueError, match=r"matcher\.head is 'all': choose one of auto, whole, union, gather"):
        H.check_strategy("all")

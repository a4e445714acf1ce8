import jax.numpy as jnp
import numpy as np

from xrt_jax import checkpoint, disk


def test_state_comes_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    encoder = {"layer": {"kernel": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)}}
    head = {"W": rng.standard_normal((5, 4)).astype(np.float32), "b": rng.standard_normal(5).astype(np.float32)}
    assert not checkpoint.has_state(tmp_path / "level_0")
    checkpoint.save_state(tmp_path / "level_0", encoder, head)
    assert checkpoint.has_state(tmp_path / "level_0")
    loaded_encoder, loaded_head = checkpoint.load_state(tmp_path / "level_0", encoder, 5, 4)
    np.testing.assert_array_equal(loaded_encoder["layer"]["kernel"], encoder["layer"]["kernel"])
    np.testing.assert_array_equal(loaded_head["W"], head["W"])
    np.testing.assert_array_equal(loaded_head["b"], head["b"])


def test_only_what_is_whole_counts_and_the_rest_is_cleared(tmp_path):
    (tmp_path / "level_0/state.orbax-checkpoint-tmp-1").mkdir(parents=True)
    (tmp_path / ".77.tmp.X.npz").write_text("half")
    (tmp_path / "X.npz").write_text("whole")
    assert not checkpoint.has_state(tmp_path / "level_0")
    disk.clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["X.npz", "level_0"]
    assert not checkpoint.is_done(tmp_path / "level_0")
    checkpoint.mark_done(tmp_path / "level_0")
    assert checkpoint.is_done(tmp_path / "level_0")

"""The schemas of parameter files have PECOS's keys and defaults."""

import pytest

from xrt_jax.pecos.params import SCHEMAS, default_of, kind_of


def without_marks(value):
    """A skeleton without its __meta__ keys, and with each chain as a list."""
    if not isinstance(value, dict):
        return value
    plain = {key: without_marks(of) for key, of in value.items() if key != "__meta__"}
    return {key: [of] if key.endswith("_chain") else of for key, of in plain.items()}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_skeletons(pecos, kind):
    printed = pecos("skeleton", kind=kind)
    if printed is None:
        pytest.skip(f"PECOS's environment lacks what {kind} needs")
    assert kind_of(printed) == kind
    assert default_of(SCHEMAS[kind]) == without_marks(printed)

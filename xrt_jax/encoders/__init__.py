"""Text encoders. One more is a Flax module with from_config, to_config and tensor_name (see Bert), named here."""

from xrt_jax.encoders.bert import Bert

ENCODERS = {"bert": Bert}  # by the model_type of a Hugging Face config.json

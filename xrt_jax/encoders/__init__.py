"""Text encoders. One more is a Flax module with from_config, to_config and tensor_name (see Bert), named here."""

from xrt_jax.encoders.bert import Bert, Roberta, XlmRoberta
from xrt_jax.encoders.distilbert import DistilBert
from xrt_jax.encoders.modernbert import ModernBert
from xrt_jax.encoders.xlnet import XlNet

ENCODERS = {  # by the model_type of a Hugging Face config.json
    "bert": Bert,
    "roberta": Roberta,
    "xlm-roberta": XlmRoberta,
    "distilbert": DistilBert,
    "xlnet": XlNet,
    "modernbert": ModernBert,
}

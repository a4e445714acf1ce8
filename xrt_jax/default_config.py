"""Every field of a run, with what it does. The files in configs/ start from it and change a few fields.

Fields that are tuples in `matcher` and `ranker` hold one value a tree level, top first; a tuple of one value serves
every level. On the command line: --config.matcher.max_steps=600,800,1200 or --config.seed=1.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.method = "xr_transformer"  # or xr_linear, the linear part alone: see configs/xlinear.py
    config.seed = 0
    config.xr_linear = True  # also train XR-Linear on the same features, with the same ranker settings, to compare
    config.ensemble = "rank_average"  # how `xrt-jax evaluate` joins this run's ranking with those of other runs

    config.do_fine_tune = True  # False: the ranker takes the embeddings of the encoder as it comes
    config.only_encoder = False  # True: no ranker is trained, the model folder holds the encoder alone
    config.fix_clustering = False  # True: the ranker takes the preliminary tree, no refined one is built
    config.ranker_features = "both"  # TF-IDF (or the data's features) beside the embedding, or "embedding" alone

    config.data = ConfigDict()
    config.data.dir = ""  # a data-set folder, see data/folders.py; empty: the embedded corpus, see `docstrings`
    config.data.has_test = True  # False: there is no test split, and nothing is measured in the end
    config.data.trn_rows = ""  # file of row numbers, to train on a part of the training split
    config.data.tst_rows = ""
    config.data.dev_size = (
        500  # validation texts shown while fine-tuning: from X.dev if there is one, else held out of trn
    )

    config.data.label_texts = (
        ""  # "names", or a text file, a line a label (its path counts from data.dir): texts of the
    )
    # labels that are trained on as documents of these labels. Rare labels of short texts gain much.
    config.data.label_text_copies = 1  # how often each; more weigh more
    config.data.normalize = False  # bring rows of features that came with the data to unit length; TF-IDF's have it
    config.data.label_features = ""  # .npz or .npy [labels, columns], for the trees' embedding
    # Of the linear rankers; paths of these four count from data.dir. PECOS's --code-path, --rel-path and --usn-*-path.
    config.data.clusters = (
        ""  # label tree in place of XR-Linear's, or of XR-Transformer's preliminary one: a folder C0.npz …, or .npz of
        # leaves [labels, leaves]; with fix_clustering it is the ranker's too
    )
    config.data.relevance = ""  # .npz [training texts, labels]: cost of each label of a text, with ranker.rel_mode
    config.data.matches = (
        ""  # .npz [training texts, labels or leaf clusters]: more negatives, for negative_sampling usn
    )

    config.docstrings = ConfigDict()  # the embedded corpus: docstrings of installed Python code -> what the code calls
    config.docstrings.sources = ()  # source trees to read; empty: the standard library and this project's dependencies
    config.docstrings.nr_documents = 14000

    config.tfidf = ConfigDict()  # used when the data set comes without features
    config.tfidf.ngram_range = (1, 2)
    config.tfidf.char_ngram_range = (0, 0)  # (3, 5): also n-grams of characters inside of words; (0, 0): none. Short
    # texts gain much by them: rare words share their stems. XR-Linear takes several times as long.
    config.tfidf.min_df = 2
    config.tfidf.max_features = placeholder(int)  # of words, and of characters; None: all
    config.tfidf.sublinear_tf = True

    config.encoder = ConfigDict()
    config.encoder.name = (
        ""  # Hugging Face or PECOS folder, hub name; empty: a small one is trained here, see `scratch`
    )
    config.encoder.truncate_length = 128  # tokens
    config.encoder.windows = 1  # a longer text is cut into up to so many windows of truncate_length tokens, and its
    # embedding is their mean; what is beyond them is dropped. Each number of windows in use costs a compilation.
    config.encoder.nr_buckets = 4  # padded lengths in use; each costs a compilation
    config.encoder.tokens_a_batch = 16384  # padded tokens a batch where no gradient is needed
    config.encoder.pooling = (
        "auto"  # auto: as PECOS for its type; or pooler, cls, mean, summary (XLNet), if it has that
    )
    config.encoder.hidden_dropout = placeholder(float)  # None: what the encoder's own config says
    config.encoder.attention_dropout = placeholder(float)
    config.encoder.fine_tuned_share = 1.0  # below 1: the ranker's encoder is this share of the fine-tuned weights and
    # the rest of the start's. Half and half ranks better where a good encoder has learned from few texts.
    config.encoder.dtype = "auto"  # auto: bfloat16 on accelerators, float32 on CPU; parameters are always float32
    config.encoder.attention = "auto"  # auto: cuDNN's on NVIDIA GPUs in bfloat16, else xla; xla; cudnn, or an error.
    # With attention dropout, training steps take XLA's; XLNet always does.
    config.encoder.remat = False  # recompute activations in the backward pass: less memory, a third more work

    config.scratch = ConfigDict()  # the encoder made here when encoder.name is empty
    config.scratch.vocab_size = 8192
    config.scratch.hidden_size = 128
    config.scratch.num_layers = 2
    config.scratch.num_heads = 4
    config.scratch.intermediate_size = 512
    config.scratch.mlm_steps = 1000  # masked-language-model warm-up on the training texts
    config.scratch.mlm_batch_size = 32
    config.scratch.mlm_learning_rate = 1e-3

    config.preliminary_tree = tree(nr_splits=16, max_leaf_size=16)  # its levels are the fine-tuning tasks
    config.refined_tree = tree(nr_splits=16, max_leaf_size=100)  # the ranker's, built on the fine-tuned embeddings

    config.matcher = ConfigDict()
    config.matcher.max_match_clusters = 32768  # levels with more nodes are left to the ranker
    config.matcher.negative_sampling = ("tfn",)  # tfn, man or tfn+man
    config.matcher.loss = ("squared-hinge",)  # hinge, squared-hinge, weighted-(squared-)hinge, cross-entropy
    config.matcher.bootstrap = ("linear",)  # head of the levels below the first: linear, weighted-linear, inherit, none
    config.matcher.first_bootstrap = "none"  # head of the first: none (at random, as PECOS), linear, weighted-linear
    config.matcher.max_active_labels = (0,)  # above 0: most labels a text is trained on, its positives and a random
    # draw of the others; not on the first level, whose labels are few
    config.matcher.head = (
        "auto",
    )  # logits of whole level, union of a batch's shortlists, gather a text; auto: by cost
    config.matcher.ensemble = ("transformer-only",)  # beam handed on: transformer-only, that of the head; concat-only,
    # of linear classifiers on [X | embedding]; average, rank_average, round_robin of both. Not on the last level.
    config.matcher.concat_threshold = (0.1,)  # smaller weights of those classifiers are dropped
    config.matcher.cost_sensitive = False  # a positive costs them its share of the text's labels
    config.matcher.batch_size = (32,)  # texts an update over all devices
    config.matcher.num_epochs = (5.0,)
    config.matcher.max_steps = (0,)  # above 0: updates, in place of num_epochs
    config.matcher.learning_rate = (1e-4,)
    config.matcher.head_learning_rate = (0.0,)  # above 0: the head's own; short runs want it well above the encoder's
    config.matcher.lr_schedule = ("linear",)  # linear, cosine, polynomial, constant, constant_with_warmup
    config.matcher.warmup_steps = (0,)
    config.matcher.gradient_accumulation = (1,)  # batches an update takes the mean gradient of
    config.matcher.adam_epsilon = (1e-8,)
    config.matcher.weight_decay = (0.0,)
    config.matcher.max_grad_norm = (1.0,)
    config.matcher.only_topk = (20,)  # beam handed to the next level
    config.matcher.post_processor = ("l3-hinge",)  # how a margin becomes a score and meets its parent's: as the paper
    config.matcher.log_steps = 50
    config.matcher.eval_steps = 200  # updates between validations; 0: never
    config.matcher.max_no_improve = (0,)  # above 0: a level ends after so many validations in a row without a better
    # mean of P@1, P@3 and P@5, and hands on its best parameters
    config.matcher.score_test = True  # P@k of the matcher alone on the test texts: a pass over them for every level
    config.matcher.save_steps = 100  # updates between checkpoints, from which a killed run goes on; 0: levels only

    config.ranker = ConfigDict()
    config.ranker.negative_sampling = ("tfn",)
    config.ranker.solver = ("L2R_L2LOSS_SVC_DUAL",)  # or L2R_L1LOSS_SVC_DUAL, L2R_LR_DUAL, L2R_L2LOSS_SVC_PRIMAL
    config.ranker.Cp = (1.0,)  # cost of a positive instance, of a negative one
    config.ranker.Cn = (1.0,)
    config.ranker.threshold = (0.1,)  # smaller weights are dropped
    config.ranker.max_nonzeros_per_label = (0,)  # 0: no cap
    config.ranker.eps = (0.1,)  # tolerance of the dual solvers
    config.ranker.newton_eps = (0.01,)  # of the primal one
    config.ranker.max_iter = (100,)  # most passes of the dual solvers
    config.ranker.bias = 1.0  # value of the constant feature; 0: none
    config.ranker.rel_mode = "disable"  # disable, induce, ranker-only: cost-sensitive learning from label counts
    config.ranker.rel_norm = "no-norm"  # no-norm, l1, l2, max: how an instance's costs are scaled
    config.ranker.only_topk = (20,)  # beam; the last value is the number of labels predicted
    config.ranker.post_processor = ("l3-hinge",)

    config.distributed = ConfigDict()  # several processes make the trees and linear rankers together
    config.distributed.min_n_sub_tree = 16  # parts that the labels are shared out in, or a few more
    config.distributed.main_workload_factor = 1.0  # what the first process gets to begin with, as a share of what each
    # other one gets. Who has nothing left takes over what others have not begun.

    config.mesh = ConfigDict()
    config.mesh.label = 1  # devices over which the head's rows are split; the others split the batch
    return config


def tree(*, nr_splits: int, max_leaf_size: int, min_codes: int | None = None) -> ConfigDict:
    """Fields of a hierarchical label tree."""
    config = ConfigDict()
    config.nr_splits = nr_splits  # children of an inner node
    config.min_codes = placeholder(int)  # most nodes of the top level; None: nr_splits
    config.min_codes = min_codes
    config.max_leaf_size = max_leaf_size  # labels under a lowest cluster
    config.spherical = True  # unit-length centroids
    config.kmeans_max_iter = 20
    config.do_sample = False  # cluster samples of large nodes: from min_sample_rate of their labels at the top, after
    config.max_sample_rate = 1.0  # the first warmup_ratio of the binary layers rising to max_sample_rate
    config.min_sample_rate = 0.1
    config.warmup_ratio = 0.4
    config.embedding = (
        "pifa"  # of labels: pifa, pii, or with data.label_features pifa_lf_concat, pifa_lf_convex_combine
    )
    config.meta_embedding = ""  # another one for the top layers, until there are distributed.min_n_sub_tree nodes
    config.alpha = 0.5  # share of PIFA in pifa_lf_convex_combine
    return config

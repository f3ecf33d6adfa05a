"""Sentiment of Korean film reviews (NSMC) from a Korean RoBERTa under LoRA.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/nsmc_korean.py --workdir=runs/nsmc
    ... --config=configs/nsmc_korean.py:full           # or :bitfit, with rates of their own
    ... --config=configs/nsmc_korean.py:chatbot        # mood of a sentence, 3 classes, 11,823 rows
    ... --config=configs/nsmc_korean.py:chatbot,tiny   # no weights needed: from scratch

Cost: not measured here. Analytic: 3 epochs of 150,000 reviews of some 30 tokens at 4 x 110M
products and sums, 6e15. `chatbot,tiny`: 4 minutes on two busy CPU cores.

Expected: no figure that we could check. The least to beat is the majority, 50 % of NSMC's test set;
on the chatbot's rows 44.7 % (5,290 everyday, 3,570 parting, 2,963 love). `chatbot,tiny`: 81.6 % of
its test part, best epoch of five by validation, one seed.

Source: none; a starting point. Rank, alpha and rate are those of RoBERTa base in Hu et al.,
arXiv:2106.09685, table 9, for tasks of this size. The base is KLUE's, Park et al.,
arXiv:2105.09680.

Needs: github.com/e9t/nsmc as LORAX_DATA/nsmc/ratings_{train,test}.txt, tab-separated with the
columns id, document and label (0 bad, 1 good), and klue/roberta-base from the Hugging Face Hub.
Empty reviews, of which there are some, are skipped. `chatbot`: github.com/songys/Chatbot_data as
LORAX_DATA/korean_chatbot/ChatbotData.csv.xz, columns Q, A and label.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, one_of, smoke


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: chatbot, full, bitfit, tiny, smoke."""
    words = arguments(arg, ("chatbot", *BASELINES, "tiny", "smoke"))
    one_of(words, (*BASELINES, "tiny"), "")
    config = defaults()
    model = {"source": "klue/roberta-base", "family": "roberta", "preset": "ROBERTA_BASE"}
    config.model.update({**model, "scan": True, "dropout": 0.1})
    config.model.fields = ConfigDict({"vocab_size": 32000})
    where = (r".*/attention/(query|value)/kernel",)
    config.adapter.update({"rank": 8, "alpha": 8.0, "where": where})
    config.also_train = (r"params/classifier/.*",)
    config.data.update({"task": "classification", "length": 160, "too_long": "cut"})
    config.data.update({"packing": "bucket", "on_bad_row": "skip"})
    config.train.update({"batch": 32, "epochs": 3, "log_every": 50})
    config.optimizer.update({"learning_rate": 5e-4, "warmup_ratio": 0.06, "weight_decay": 0.1})
    config.eval.update({"every": 1000, "batch": 64})
    config.checkpoint.update({"every": 1000, "best": "validation/accuracy", "mode": "max"})
    _chatbot(config) if "chatbot" in words else _nsmc(config)
    baseline(config, words, {"full": 2e-5, "bitfit": 1e-3})
    if "tiny" in words:
        _tiny(config)
    if "smoke" in words:
        smoke(config)
    return config


def _nsmc(config: ConfigDict) -> None:
    files = {"train": "nsmc/ratings_train.txt", "test": "nsmc/ratings_test.txt"}
    config.data.update({"format": "tsv", "split": (0.95, 0.05, 0.0), **files})
    config.data.columns.update({"text": "document", "label": "label"})


def _chatbot(config: ConfigDict) -> None:
    config.data.update({"format": "csv", "train": "korean_chatbot/ChatbotData.csv.xz"})
    config.data.columns.update({"text": "Q", "label": "label"})
    config.train.epochs = 5
    config.eval.every = config.checkpoint.every = 297  # an epoch


def _tiny(config: ConfigDict) -> None:
    """A RoBERTa of a million parameters from scratch, end to end."""
    size = {"dim": 128, "layers": 2, "heads": 4, "hidden_dim": 512, "max_length": 256}
    config.model.update({"source": "", "preset": "", "tokenizer": "bpe:4096", "scan": False})
    config.model.fields = ConfigDict(size)
    config.adapter, config.also_train = ConfigDict({"adapter": "Full"}), ()
    config.optimizer.update({"learning_rate": 5e-4, "weight_decay": 0.01})

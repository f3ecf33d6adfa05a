"""Korean small talk: the answer to a sentence, from a Korean GPT-2 under LoRA.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/korean_qa.py --workdir=runs/qa
    ... --config=configs/korean_qa.py:full        # or :bitfit, with rates of their own
    ... --config=configs/korean_qa.py:tiny        # no weights needed: from scratch

Cost: not measured here. Analytic: 5 epochs of 9,451 pairs of some 17 tokens at 4 x 125M products
and sums, 4e14. `tiny`: 5 minutes of CPU time; 6 on two cores shared with other work, jax 0.10.2.

Expected: no published figure; a starting point. Many questions have several good answers and many
answers occur more than once, so that BLEU says little: read samples.jsonl. `tiny`: 1.325 bits per
byte of the test part's answers (2.944 untrained) and BLEU 2.2 on 100 questions, one seed; most of
its answers are good wishes that fit any question.

Source: none. Hyper-parameters are those of GPT-2 in Hu et al., arXiv:2106.09685, table 11, with a
larger batch; rates of the baselines as in e2e_gpt2_medium.py.

Needs: github.com/songys/Chatbot_data as LORAX_DATA/korean_chatbot/ChatbotData.csv.xz, columns Q, A
and label (11,823 rows), and skt/kogpt2-base-v2 from the Hugging Face Hub (CC BY-NC-SA) with its
weights as safetensors, which we could not check; --config.model.source= names another model.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import BASELINES, arguments, baseline, one_of, smoke


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: full, bitfit, tiny, smoke."""
    words = arguments(arg, (*BASELINES, "tiny", "smoke"))
    one_of(words, (*BASELINES, "tiny"), "")
    config = defaults()
    model = {"source": "skt/kogpt2-base-v2", "family": "gpt2", "preset": "GPT2_SMALL"}
    config.model.update({**model, "scan": True, "dropout": 0.1})
    config.model.fields = ConfigDict({"vocab_size": 51200})
    config.adapter.update({"rank": 8, "alpha": 32.0})
    # instructions, for the empty line that the template puts between the two
    data = {"task": "completion", "format": "instructions", "template": "plain"}
    config.data.update({**data, "train": "korean_chatbot/ChatbotData.csv.xz"})
    config.data.columns.update({"prompt": "Q", "response": "A"})
    config.data.update({"length": 64, "packing": "bucket"})
    config.train.update({"batch": 32, "epochs": 5, "log_every": 50})
    config.optimizer.update({"learning_rate": 2e-4, "warmup_ratio": 0.07, "weight_decay": 0.01})
    config.eval.update({"every": 297, "batch": 64, "generate": 100, "max_new_tokens": 32})
    config.eval.update({"beams": 4, "no_repeat_ngram": 4})
    config.checkpoint.update({"every": 297, "best": "validation/loss"})
    baseline(config, words, {"full": 5e-5, "bitfit": 1.6e-3})
    if "tiny" in words:
        _tiny(config)
    if "smoke" in words:
        smoke(config)
    return config


def _tiny(config: ConfigDict) -> None:
    """A GPT-2 of a million parameters from scratch."""
    size = {"dim": 128, "layers": 4, "heads": 4, "max_length": 128}
    config.model.update({"source": "", "preset": "", "tokenizer": "bpe:2048", "scan": False})
    config.model.fields = ConfigDict(size)
    config.adapter = ConfigDict({"adapter": "Full"})
    config.optimizer.update({"learning_rate": 2e-3, "schedule": "cosine"})

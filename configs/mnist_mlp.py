"""MNIST by the networks of the intrinsic-dimension paper: whole, or a low rank on random weights.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/mnist_mlp.py --workdir=runs/mlp
    ... --config=configs/mnist_mlp.py:lenet            # convolutions
    ... --config=configs/mnist_mlp.py:lora             # rank 8 on all layers; :lenet,lora
    ... --config=configs/mnist_mlp.py:bitfit

All weights are trained by default. `lora` and `bitfit` leave the random weights of the start frozen
and train beside them: how far does so little go? The MLP is 784-200-200-10 with 199,210 parameters,
LeNet has 44,426.

Cost: 16 seconds of CPU time, for LeNet 49 and under LoRA 69; measured on two CPU cores, jax 0.10.2.

Expected, of the 10,000 test images at the best of three epochs, one seed; the majority has 11.4 %:

              whole     trained   lora     trained   bitfit   trained
    MLP       97.2 %    199,210   95.4 %    12,752   50.4 %       410
    LeNet     98.2 %     44,426   98.0 %     3,484   45.4 %       236

Published for a random subspace of all weights, to compare a count of trained numbers with: 90 % of
full accuracy at 750 dimensions for the MLP, at 275 (290 in the text) for LeNet. A step of the MLP
takes 2 to 3 ms, of which handing over a batch is 5 %; on busy cores the wait was longer.

Source: Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", arXiv:1804.08838,
table 1, for networks and dimensions; rates are ours and untuned.

Needs: the four idx files of MNIST, plain or compressed, in LORAX_DATA/mnist.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._words import arguments, baseline, one_of, smoke


def get_config(arg: str = "") -> ConfigDict:
    """The run; words: lenet, lora, bitfit, full (the default), smoke."""
    words = arguments(arg, ("lenet", "lora", "bitfit", "full", "smoke"))
    method = one_of(words, ("lora", "bitfit", "full"), "full")
    config = defaults()
    config.model.family = "lenet" if "lenet" in words else "mlp"
    config.data.update({"task": "classification", "format": "mnist"})
    config.data.update({"train": "mnist/train", "test": "mnist/t10k"})
    config.data.split = (0.95, 0.05, 0.0)
    config.train.update({"batch": 128, "epochs": 3, "log_every": 50})
    config.optimizer.update({"learning_rate": 5e-3, "schedule": "cosine"})
    config.eval.update({"every": 446, "batch": 1000})  # an epoch
    config.checkpoint.update({"every": 446, "best": "validation/accuracy", "mode": "max"})
    if method == "lora" and "lenet" in words:
        # convolutions are no products: by name; the smallest matrix has 6 columns
        config.adapter.update({"rank": 4, "where": (r".*/kernel",)})
    baseline(config, {method}, {"full": 1e-3, "bitfit": 1e-2})
    if "smoke" in words:
        smoke(config)
    return config

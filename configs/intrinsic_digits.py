"""The intrinsic dimension of the digits that scikit-learn brings: a whole study in a minute.

Command:

    python -m experiments.intrinsic --config=configs/intrinsic_digits.py --workdir=runs/digits
    python -m experiments.train --config=configs/intrinsic_digits.py --workdir=runs/one    # one d

Which d of 64-64-64-10, with D = 8,970, reaches 90 % of what direct training does? Three projections
of each d, and beside them LoRA of rank 1, 2 and 4 on the same frozen random weights, with the same
threshold: how many of its numbers does it take?

Cost: not yet measured.

Expected: not yet measured; no published counterpart.

Protocol: 1,797 images of 8 x 8 pixels, 70 % to train on, 15 % for validation, which the search
sees, and 15 % for the test; drawn once. What reaches the threshold is the mean over repeats, of
the last epoch; the first draw of the network and the order of examples are always the same.

Source: Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", arXiv:1804.08838,
for the method; scikit-learn's load_digits, of the UCI repository, for the images.

Needs: scikit-learn. Nothing is downloaded.

What differs: a rate of 1e-2, ten times the paper's, for a tenth of its updates and fewer; 1e-3 is
slow for columns of norm 1, and a short run at it takes a small d for too small.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._study import authors, study, subspace
from configs._words import BASELINES, arguments, baseline, smoke


def get_config(arg: str = "") -> ConfigDict:
    """One d of 100, and the study; words: full, bitfit, smoke."""
    words = arguments(arg, (*BASELINES, "smoke"))
    config = defaults()
    config.model.family = "mlp"
    config.model.fields.hidden = (64, 64)
    config.data.update({"task": "classification", "format": "digits", "train": "digits"})
    config.data.split = (0.7, 0.15, 0.15)
    authors(config)
    config.train.update({"batch": 64, "epochs": 40, "log_every": 20})
    config.optimizer.learning_rate = 1e-2
    config.eval.update({"every": 20, "batch": 270})  # an epoch
    config.adapter = subspace(100)
    config.study = study(
        grid=(25, 50, 100, 200), resolution=10, rates=(1e-2,), ranks=(1, 2, 4),
        lora_rates=(1e-2,),
    )  # fmt: skip
    baseline(config, words, {"full": 1e-3, "bitfit": 1e-2})
    if "smoke" in words:
        smoke(config)
    return config

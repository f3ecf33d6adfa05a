"""The intrinsic dimension of the digits that scikit-learn brings: a whole study in a minute.

Command:

    python -m experiments.intrinsic --config=configs/intrinsic_digits.py --workdir=runs/digits
    python -m experiments.train --config=configs/intrinsic_digits.py --workdir=runs/one    # one d

Which d of 64-32-32-10, with D = 3,466, reaches 90 % of what direct training does? Three projections
of each d, and beside them LoRA of rank 1, 2 and 4 on the same frozen random weights, with the same
threshold: how many of its numbers does it take?

Cost: 50 seconds, 62 of CPU time, more than half of it compilation; measured on two CPU cores, jax
0.10.2.

Expected, validation accuracy, mean of three (direct training 0.968, so the threshold is 0.871); no
published counterpart:

    d       50     100    125    150    200      LoRA r (numbers)   1 (202)  2 (404)  4 (808)
            0.657  0.825  0.848  0.905  0.927                       0.683    0.885    0.961

    d_int90 = 150

Protocol: 1,797 images of 8 x 8 pixels, 70 % to train on, 15 % for validation, which the search
sees, and 15 % for the test; drawn once. What reaches the threshold is the mean over repeats, of
the last epoch; the first draw of the network and the order of examples are always the same.

Source: Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", arXiv:1804.08838,
for the method; scikit-learn's load_digits, of the UCI repository, for the images.

Needs: scikit-learn. Nothing is downloaded.

What differs: a rate of 3e-2, thirty times the paper's, for a hundredth of its updates; lower ones
are slow for columns of norm 1, and a short run takes d for larger: at 1e-2 it is 175. On networks
as small as this d is no small share of D.
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
    config.model.fields.hidden = (32, 32)
    config.data.update({"task": "classification", "format": "digits", "train": "digits"})
    config.data.split = (0.7, 0.15, 0.15)
    authors(config)
    config.train.update({"batch": 64, "epochs": 30, "log_every": 20})
    config.optimizer.learning_rate = 3e-2
    config.eval.update({"every": 20, "batch": 270})  # an epoch
    config.adapter = subspace(100)
    config.study = study(
        grid=(50, 100, 200), rates=(3e-2,), direct_rates=(3e-3,), ranks=(1, 2, 4),
        lora_rates=(1e-2,),
    )  # fmt: skip
    baseline(config, words, {"full": 1e-3, "bitfit": 1e-2})
    if "smoke" in words:
        smoke(config)
    return config

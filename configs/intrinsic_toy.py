"""A problem whose intrinsic dimension is known to be 10: is it what is measured?

Command:

    python -m experiments.intrinsic --config=configs/intrinsic_toy.py --workdir=runs/toy
    ... --config.study.projection=sparse --config.adapter.seed=1
    python -m experiments.train --config=configs/intrinsic_toy.py --workdir=runs/one    # one d

A thousand numbers in ten groups of a hundred; those of group k shall sum to k, and the loss is the
squared error. Ten sums settle everything, the other 990 directions are free: a random subspace of
ten dimensions meets a solution, and one of nine does not. As data it is ten images, white in row k,
and the value k; the model is one layer from the pixels to a value, the 1,000 numbers its kernel.

The paper's performance is exp(-squared error of all ten); a loss here is their mean, so that is
exp(-10 loss). The share of 0.999998 of what is gained over a start of about 38.5 asks for a loss
below 8e-5, that is a performance above 0.999.

Cost: 20 s of CPU, most of it compiling; 21 units of 4,000 updates.

Expected: d_int = 10 exactly. With each of five projections a d of 10 or more is above 0.999, one of
8 or less below 0.9; of nine dimensions, one in some 25 comes so near by chance. The performances:

    d             8        9        10
    authors       0.048    0.165    0.9998
    here, worst   0.0000   0.0000   0.99999
    here, best    0.0000   0.9873   1.0000

Protocol: five projections of every d; the kernel is drawn once. Validation has the same ten
images, as there are no others.

Source: Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", arXiv:1804.08838,
section 2; the figures from the authors' notebook.

Needs: nothing; the data is generated.

What differs: projections are dense, uniformly random directions. A sparse P of ten columns is ten
by ten small integers to this problem, which can be nearly singular: then θ has far to go, and
more updates are needed. The rate is high and falls to zero for the same reason.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._study import study, subspace
from configs._words import BASELINES, arguments, baseline, smoke


def get_config(arg: str = "") -> ConfigDict:
    """d = 10, and the study; words: full, bitfit, smoke."""
    words = arguments(arg, (*BASELINES, "smoke"))
    config = defaults()
    config.model.family = "mlp"
    config.model.fields.hidden = ()
    config.data.update({"task": "regression", "format": "toy"})
    config.train.update({"batch": 10, "epochs": 20, "log_every": 100})
    config.optimizer.update({"learning_rate": 3.0, "b2": 0.99, "clip": 0.0})
    config.eval.update({"every": 200, "batch": 100})  # an epoch
    config.adapter = subspace(10, "dense", where=(".*/kernel",))
    config.study = study(
        grid=(8, 12), resolution=1, projection="dense", repeats=5, direct_repeats=1,
        metric="validation/loss", mode="min", relative="gain", share=0.999998, rates=(3.0,),
        direct_rates=(1e-2,), published=(("Li et al. 2018", 10),),
    )  # fmt: skip
    baseline(config, words, {"full": 1e-2, "bitfit": 3.0})
    if "smoke" in words:
        smoke(config)
    return config

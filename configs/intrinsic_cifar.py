"""The intrinsic dimension of CIFAR-10, as Li et al. measured it; or of a thousand of its images.

Command:

    export LORAX_DATA=...
    python -m experiments.intrinsic --config=configs/intrinsic_cifar.py --workdir=runs/cifar
    ... --config=configs/intrinsic_cifar.py:lenet             # convolutions
    ... --config=configs/intrinsic_cifar.py:whole             # all of CIFAR-10; :whole,lenet
    ... --config=configs/intrinsic_cifar.py:whole --config.data.train=my.npz:train \\
        --config.data.test=my.npz:test
    python -m experiments.train --config=configs/intrinsic_cifar.py --workdir=runs/one     # one d

Networks: 3072-200-200-10 with D = 656,810, LeNet with 62,006.

Cost: not yet measured.

Expected: of a thousand images, not yet measured. Of all, from Li et al. and their data, validation
accuracy after the last of 100 epochs:

                              direct   d_int90, own baseline   global baseline of 0.50
    fully connected, small    0.509    8,000                   7,000; published 9,000
    LeNet, 3 runs             0.584    2,900                   1,000; published 2,900

Others measured 10,000 and 5,000 fully connected, 1,700 and 600 for LeNet.

Protocol: 80 % of the training images to train on, 20 % for validation, which the search sees, drawn
once; the test images; pixels from 0 to 1, nothing augmented. Of a thousand images the threshold is
90 % of the network's own baseline, as 0.45, 90 % of the global one, is out of reach; of all it is
that. With 200 images for validation a figure is 3 points better or worse by chance: an exercise.

Source: Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", arXiv:1804.08838,
table 1; the authors' raw figures, github.com/uber-research/intrinsic-dimension.

Needs, below LORAX_DATA: cifar10_subset/cifar10_small.npz.xz, a thousand images each to train and
test on; `whole`: cifar10/cifar10.npz of the same form: x_train, y_train, x_test and y_test, where x
is (N, 32, 32, 3) uint8 and y (N,) integers.

What differs: no L2 here, 1e-4 or 1e-5 there; how many images the authors held out is not known.
"""

from ml_collections import ConfigDict

from configs._page import defaults
from configs._study import authors, study, subspace
from configs._words import BASELINES, arguments, baseline, smoke

LI = "Li et al. 2018"


def get_config(arg: str = "") -> ConfigDict:
    """One d of 1,000, and the study; words: lenet, whole, full, bitfit, smoke."""
    words = arguments(arg, ("lenet", "whole", *BASELINES, "smoke"))
    lenet, whole = "lenet" in words, "whole" in words
    config = defaults()
    config.model.family = "lenet" if lenet else "mlp"
    if not lenet:
        config.model.fields.hidden = (200, 200)
    file = "cifar10/cifar10.npz" if whole else "cifar10_subset/cifar10_small.npz.xz"
    config.data.update({"task": "classification", "format": "npz"})
    config.data.update({"train": f"{file}:train", "test": f"{file}:test", "split": (0.8, 0.2, 0.0)})
    authors(config)
    epoch = 313 if whole else 7
    config.eval.update({"every": epoch, "batch": 1000 if whole else 200})
    config.checkpoint.every = epoch
    config.adapter = subspace(1000)
    config.study = study(grid=(100, 300, 1000, 3000, 10_000), resolution=100)
    if whole:
        grid = (500, 1000, 2000, 3000, 5000) if lenet else (1000, 3000, 5000, 7500, 10_000)
        config.study.update({"grid": grid, "baseline": 0.5, "target": "global"})
        config.study.published = ((LI, 2900 if lenet else 9000),)
    baseline(config, words, {"full": 1e-3, "bitfit": 1e-2})
    if "smoke" in words:
        smoke(config)
    return config

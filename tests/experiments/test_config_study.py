"""Pages of intrinsic dimension: their study, data and networks, and what is said of mistakes."""

import ast
import pathlib

import jax
import numpy as np
import pytest

import lorax
from configs._page import check, defaults
from configs._study import study, subspace
from experiments._page_file import load_config
from experiments._train.data import example_inputs, labels_of, make_data, read_splits
from experiments._train.method import make_adapter
from experiments._train.model import make_subject
from experiments._train.setting import check as check_all
from tests.shared_data import shared_path

PAGES = sorted(path.stem for path in pathlib.Path("configs").glob("intrinsic_*.py"))


def page(name, words=""):
    """The config of a page."""
    return load_config(f"configs/{name}.py:{words}")


@pytest.fixture
def data_folder(monkeypatch):
    """The shared data, where LORAX_DATA says that it is."""
    monkeypatch.setenv("LORAX_DATA", str(shared_path("mnist").parent))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_a_study_in_a_random_subspace(name):
    for words in ("", "smoke"):
        config = page(name, words)
        check_all(config)
        assert isinstance(make_adapter(config), lorax.Subspace)
        assert config.adapter.dim <= 100 or not words
    text = ast.get_docstring(ast.parse(pathlib.Path(f"configs/{name}.py").read_text("utf-8")))
    assert f"experiments.intrinsic --config=configs/{name}.py" in text


def test_the_training_of_the_authors():
    config = page("intrinsic_mnist")
    part = config.optimizer
    assert (part.learning_rate, part.b1, part.b2, part.schedule) == (1e-3, 0.9, 0.99, "constant")
    assert (part.clip, part.weight_decay) == (0.0, 0.0)
    assert (config.train.batch, config.train.epochs) == (128, 100)
    found = config.study
    assert (found.grid, found.resolution) == ((100, 300, 500, 750, 1000), 25)
    assert (found.baseline, found.target, found.share) == (1.0, "global", 0.9)
    assert found.also == (("fastfood", (300, 750)),) and found.published[0][1] == 750
    assert page("intrinsic_mnist", "lenet").study.published[0][1] == 290
    assert page("intrinsic_mnist", "lenet,pixels").study.published[0][1] == 1400


@pytest.mark.parametrize(
    "words, count",
    [("", 199_210), ("lenet", 44_426), ("wide", 478_410), ("deep", 959_610), ("labels", 959_610)],
)
def test_numbers_of_the_networks_of_mnist(words, count):
    config = page("intrinsic_mnist", words)
    base = make_subject(config, None, example_inputs(config, None), 10).base
    assert sum(leaf.size for leaf in jax.tree.leaves(base)) == count


def test_the_split_of_mnist(data_folder):
    config = page("intrinsic_mnist")
    found = read_splits(config)
    sizes = {name: len(split.rows) for name, split in found.splits.items()}
    assert sizes == {"train": 50_000, "validation": 10_000, "test": 10_000}
    places = [row["where"] for name in ("train", "validation") for row in found.splits[name].rows]
    assert len(set(places)) == 60_000
    image = max((row["image"] for row in found.splits["test"].rows[:50]), key=np.max)
    assert image.max() == 255 and labels_of(config, found) == 10


@pytest.mark.parametrize("words, count", [("", 656_810), ("lenet", 62_006)])
def test_numbers_of_the_networks_of_cifar(data_folder, words, count):
    shared_path("cifar10_subset")
    config = page("intrinsic_cifar", words)
    found = read_splits(config)
    sizes = {name: len(split.rows) for name, split in found.splits.items()}
    assert sizes == {"train": 800, "validation": 200, "test": 1000}
    base = make_subject(config, None, example_inputs(config, found), 10).base
    assert sum(leaf.size for leaf in jax.tree.leaves(base)) == count
    assert -(-800 // config.train.batch) == config.eval.every


def test_the_words_of_cifar_and_roberta():
    small, whole = page("intrinsic_cifar"), page("intrinsic_cifar", "whole")
    assert (small.study.target, whole.study.target) == ("own", "global")
    assert whole.study.baseline == 0.5 and whole.data.test == "cifar10/cifar10.npz:test"
    said, did = page("intrinsic_roberta"), page("intrinsic_roberta", "large,qqp,did")
    assert said.adapter.layerwise and not did.adapter.layerwise and len(said.study.rates) == 4
    assert said.study.published == (("Aghajanyan et al. 2020, SAID", 896),)
    assert did.study.published == (("Aghajanyan et al. 2020, DID", 774),)
    assert (said.data.train, did.data.validation) == ("glue/MRPC/train.tsv", "glue/QQP/dev.tsv")
    assert did.model.source == "FacebookAI/roberta-large" and did.data.on_bad_row == "skip"


def test_digits_are_there_without_files():
    pytest.importorskip("sklearn")
    config = page("intrinsic_digits")
    found = read_splits(config)
    data = make_data(config, found, None)
    assert data.pipeline.steps_per_epoch == config.eval.every
    inputs = np.concatenate([data.pipeline[step].inputs for step in range(5)])
    assert inputs.shape[1:] == (8, 8) and (inputs.min(), inputs.max()) == (0, 1)
    base = make_subject(config, None, example_inputs(config, found), 10).base
    assert base["params"]["dense_0"]["kernel"].shape == (64, 32)


def shuffled(**fields):
    """The splits of toy images with a field of the data changed."""
    config = page("intrinsic_mnist", "smoke")
    config.data.update(fields)
    check_all(config)
    return {name: split.rows for name, split in read_splits(config).splits.items()}


def test_pixels_are_shuffled_in_every_split_and_labels_in_training_alone():
    plain, pixels = shuffled(), shuffled(shuffle="pixels")
    for name, rows in plain.items():
        for old, new in zip(rows, pixels[name], strict=True):
            assert old["label"] == new["label"] and (old["image"] != new["image"]).mean() > 0.5
            assert sorted(old["image"].ravel()) == sorted(new["image"].ravel())
    labels = shuffled(shuffle="labels", shuffle_share=0.5)
    of = lambda splits, name: np.array([row["label"] for row in splits[name]])
    # a tenth of the half is drawn as it was
    assert 0.3 < (of(plain, "train") != of(labels, "train")).mean() < 0.5
    assert (of(plain, "validation") == of(labels, "validation")).all()
    again = shuffled(shuffle="labels", shuffle_share=0.5, shuffle_seed=1)
    assert (of(again, "train") != of(labels, "train")).any()


@pytest.mark.parametrize(
    "page_name, fields, match",
    [
        ("intrinsic_mnist", {"shuffle": "rows"}, "config.data.shuffle is 'rows': expected one of"),
        ("intrinsic_mnist", {"shuffle": "labels", "shuffle_share": 2.0},
         "config.data.shuffle_share is 2.0: expected a share"),
        ("stories260k_shakespeare", {"shuffle": "pixels"}, "no images: .*; leave config"),
        ("stories260k_shakespeare", {"shuffle": "labels"}, "have no classes: .*; leave config"),
        ("intrinsic_mnist", {"shuffle_seed": -1}, "config.data.shuffle_seed is -1: expected 0 or"),
    ],
)  # fmt: skip
def test_shuffles_that_cannot_be(page_name, fields, match):
    config = page(page_name, "smoke")
    config.data.update(fields)
    with pytest.raises(lorax.LoraxError, match=match):
        check_all(config)
        read_splits(config)


def test_an_initializer_that_is_none():
    config = page("intrinsic_mnist")
    config.model.fields.kernel_init = "he"
    with pytest.raises(lorax.LoraxError, match="config.model.fields.kernel_init is 'he': expected"):
        make_subject(config, None, example_inputs(config, None), 10)


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"grid": ()}, "config.study.grid is (): expected numbers d of 1 or more, rising"),
        ({"grid": (300, 100)}, "config.study.grid is (300, 100): expected"),
        ({"grid": (0, 100)}, "config.study.grid is (0, 100)"),
        (
            {"also": ("fastfood", (300,))},
            "config.study.also is ('fastfood', (300,)): expected pairs",
        ),
        ({"also": (("fast", (300,)),)}, "expected pairs of a projection and its d"),
        ({"resolution": 0}, "config.study.resolution is 0: expected 1 or more"),
        ({"most_repeats": 2}, "config.study.most_repeats is 2: expected config.study.repeats=3 or"),
        ({"rates": ()}, "config.study.rates is (): expected one learning rate or more"),
        ({"direct_rates": (1e-3, 0.0)}, "config.study.direct_rates is (0.001, 0.0): expected"),
        ({"ranks": (4, 4)}, "config.study.ranks is (4, 4): expected different ranks"),
        ({"mode": "least"}, "config.study.mode is 'least': expected one of 'max', 'min'"),
        ({"vary": ("order",)}, "a seed in config.study.vary is 'order': expected one of"),
        ({"target": "global"}, "config.study.target is 'global': expected own, or a baseline"),
        ({"l2": -0.1}, "config.study.l2 is -0.1: expected 0 or more"),
    ],
)
def test_studies_that_cannot_be(fields, told):
    config = defaults()
    config.study = study()
    check(config)
    config.study.update(fields)
    with pytest.raises(lorax.LoraxError) as error:
        check(config)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_fields_that_are_none_and_fields_that_lack():
    for change, told in (
        (lambda c: c.study.update(repeat=1), "config.study.repeat is no field of a run; did you"),
        (lambda c: c.study.__delitem__("share"), "config.study.share is missing"),
    ):
        config = defaults()
        config.study = study()
        with config.unlocked():
            change(config)
        with pytest.raises(lorax.LoraxError) as error:
            check(config)
        assert told in str(error.value)


def test_the_adapter_of_a_page():
    config = defaults()
    config.adapter = subspace(30, "fastfood", layerwise=True, where=(r".*/kernel",))
    found = make_adapter(config)
    assert (found.dim, found.projection, found.layerwise) == (30, "fastfood", True)
    assert found.where == (r".*/kernel",) and found.scope == "global"

"""What a directory of checkpoints holds, read from the disk each time."""

import os

import numpy as np
import pytest

from lorax import LoraxError
from lorax.io import checkpoint_folder as disk
from lorax.io import checkpoint_list as there

TREE = {"x": np.ones(2, np.float32)}


@pytest.fixture
def folder(tmp_path):
    for step, loss in ((2, 3.0), (10, 1.0), (30, float("nan"))):
        disk.write(tmp_path / str(step), disk.about(step, TREE, {}, {"loss": loss}), TREE)
    for other in (".4.0123abcd.partial", "007", "5.corrupt", "plots"):
        (tmp_path / other).mkdir()
    (tmp_path / "40").write_text("a file")
    return tmp_path


def test_steps_are_folders_with_a_number_for_a_name(folder):
    assert there.steps(folder) == [2, 10, 30]
    assert there.listed(folder) == "checkpoints are there of steps 2, 10, 30"
    assert there.steps(folder / "none") == []
    assert there.listed(folder / "none") == "there is no checkpoint yet"


def test_the_best_has_a_finite_value(folder):
    assert there.best_step(folder, "loss", 1) == 10
    assert there.best_step(folder, "loss", -1) == 2
    assert there.best_step(folder, "other", 1) is None


def test_damaged_ones_are_passed_over_and_renamed_only_if_asked(folder):
    (folder / "30" / disk.JSON_NAME).write_text("{")
    step, lines = there.newest_sound(folder, rename=False)
    assert step == 10 and len(lines) == 1 and lines[0].endswith(": passed over")
    assert there.newest_sound(folder, rename=True)[1][0].endswith("kept as '30.corrupt'")
    assert there.steps(folder) == [2, 10] and "30.corrupt" in os.listdir(folder)
    assert there.newest_sound(folder, rename=True) == (10, [])


def test_none_and_none_sound_are_not_the_same(folder, tmp_path):
    assert there.newest_sound(folder / "none", rename=True) == (None, [])
    for step in there.steps(folder):
        (folder / str(step) / disk.JSON_NAME).unlink()
    with pytest.raises(LoraxError, match="every checkpoint in .* checkpoint 30 is damaged"):
        there.newest_sound(folder, rename=True)


def test_one_step_is_checked(folder):
    there.check_step(folder, 10)
    (folder / "10" / disk.JSON_NAME).unlink()
    with pytest.raises(LoraxError, match="checkpoint 10 is damaged .* choose another"):
        there.check_step(folder, 10)
    with pytest.raises(LoraxError, match="no checkpoint of step 11: checkpoints are there of"):
        there.check_step(folder, 11)

"""A page is run; what is wrong with it is one line that says where."""

import pytest

from experiments._cli import UsageError
from experiments._page_file import load_config

HEAD = "from ml_collections import ConfigDict\n\n\ndef get_config(arg=''):\n"


def load(tmp_path, text):
    file = tmp_path / "mine.py"
    file.write_text(text)
    return load_config(f"{file}:word")


def test_the_argument_is_what_stands_behind_the_colon(tmp_path):
    assert load(tmp_path, HEAD + "    return ConfigDict({'arg': arg})").arg == "word"


@pytest.mark.parametrize(
    "text, words",
    [
        ("import nosuch\n", "mine.py:1 fails: ModuleNotFoundError: No module named 'nosuch'"),
        ("x = (\n", "mine.py:1 fails: SyntaxError"),
        (HEAD + "    return 1 / 0\n", "mine.py:5 fails: ZeroDivisionError"),
        ("x = 1\n", r"has no get_config\(arg\)"),
        (HEAD + "    return ConfigDict({'a': {'b': [1]}})\n", "config.a.b .* is a list"),
    ],
)
def test_a_page_that_fails(tmp_path, text, words):
    with pytest.raises(UsageError, match=words) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["quickstart", "configs/quickstart", "configs/quikstart.py"])
def test_a_name_that_is_nearly_a_page(name):
    with pytest.raises(UsageError, match="did you mean 'configs/quickstart.py'"):
        load_config(name)

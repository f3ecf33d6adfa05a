"""Instructions: prompts of the templates, the layouts that are known, and real rows."""

import pytest

from lorax.core.errors import LoraxError
from lorax.data.instructions import TEMPLATES, fill, to_prompts
from lorax.data.rows import BadRows, Row, read_rows
from tests.shared_data import shared_path


def prompts(*rows, template="plain", columns=None, bad=None):
    """The records of rows given as dicts."""
    rows = [Row(f"f:{i}", fields) for i, fields in enumerate(rows, 1)]
    return list(to_prompts(rows, template, columns or {}, bad or BadRows()))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_holds_what_is_asked_and_ends_a_line(template):
    alone, both = fill(template, "Do {x}!", "\n"), fill(template, "Do {x}!", "This {y}.")
    assert "Do {x}!" in alone and "{input}" not in alone and alone.endswith("\n")
    assert "Do {x}!" in both and "This {y}." in both and both.endswith("\n")
    assert both.index("Do") < both.index("This")


def test_the_alpaca_prompt_is_the_one_that_adapters_know():
    prompt = fill("alpaca", "Say hi.", "In French.")
    assert prompt.splitlines()[2:] == [
        "### Instruction:", "Say hi.", "", "### Input:", "In French.", "", "### Response:",
    ]  # fmt: skip
    assert prompt.startswith("Below is an instruction that describes a task, paired with an input")
    assert "### Input" not in fill("alpaca", "Say hi.")


def test_alpaca_rows_with_and_without_input():
    rows = [{"instruction": "a", "input": i, "output": "o"} for i in ("b", "", None)]
    found = prompts(*rows, {"instruction": "a", "output": "o"})
    assert [record["prompt"] for record in found] == ["a\n\nb\n\n", *["a\n\n"] * 3]
    assert {record["response"] for record in found} == {"o"} and "answer" not in found[0]


def test_questions_lose_their_notes_and_keep_their_answer():
    (found,) = prompts({"question": "q", "answer": "2*3=<<2*3=6>>6\n#### 1,006"})
    assert found == {
        "prompt": "q\n\n", "response": "2*3=6\n#### 1,006", "answer": "1006", "where": "f:1",
    }  # fmt: skip
    (found,) = prompts({"question": "q", "answer": "yes"})
    assert found["response"] == "yes" and "answer" not in found


def test_columns_name_other_fields():
    found = prompts({"Q": "안녕", "A": "네", "label": 0}, columns={"prompt": "Q", "response": "A"})
    assert (found[0]["prompt"], found[0]["response"]) == ("안녕\n\n", "네")


def test_bad_rows_and_templates():
    good = {"instruction": "a", "output": "o"}
    for row, reason in [
        ({"instruction": "a", "output": ""}, "f:2: column 'output' is empty"),
        ({"Q": "a", "A": "b"}, "f:2: there is no column 'instruction' .there are Q, A."),
        ({**good, "input": ["x"]}, "f:2: column 'input' holds a list"),
    ]:
        with pytest.raises(LoraxError, match=reason):
            prompts(good, row)
        bad = BadRows("skip")
        assert len(prompts(good, row, bad=bad)) == bad.count == 1
    with pytest.raises(LoraxError, match="template is 'alpacca': expected one of 'alpaca', 'pl"):
        prompts(good, template="alpacca")
    with pytest.raises(LoraxError, match="a role in columns is 'question'"):
        prompts(good, columns={"question": "a"})


@pytest.mark.parametrize("name, count", [("train", 7_473), ("test", 1_319)])
def test_real_questions_all_have_a_number(name, count):
    rows = read_rows(shared_path(f"gsm8k/{name}.jsonl.xz"), "jsonl", BadRows())
    found = list(to_prompts(rows, "alpaca", {}, BadRows()))
    assert len(found) == count
    assert all(float(record["answer"]) == int(record["answer"]) for record in found)
    assert not any("<<" in record["response"] for record in found)


def test_real_korean_rows():
    rows = read_rows(shared_path("korean_chatbot/ChatbotData.csv.xz"), "csv", BadRows())
    columns = {"prompt": "Q", "response": "A"}
    found = list(to_prompts(rows, "plain", columns, BadRows()))
    assert len(found) == 11_823
    assert (found[0]["prompt"], found[0]["response"]) == ("12시 땡!\n\n", "하루가 또 가네요.")

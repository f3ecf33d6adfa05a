"""Two processes with two devices each make the steps that one device makes."""

import pytest

from tests.io.several import started

pytestmark = pytest.mark.runs


@pytest.mark.parametrize("scenarios", [("rows", "agreement"), ("fsdp",), ("tensor",)])
def test_two_processes(tmp_path, scenarios):
    with started(2, tmp_path, *scenarios, module="tests.parallel.one_of_several") as runs:
        texts = [run.communicate(timeout=400)[0] for run in runs]
        assert [run.returncode for run in runs] == [0, 0], "\n".join(texts)

"""The verbs that need no config, on the golden fixtures: what they write, and what they say."""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np
import pytest

import lorax
from experiments import _flags, export_peft, generate, import_peft, inspect, merge
from lorax.io import pretrained
from lorax.io.checkpoint import load_adapter, save_adapter
from lorax.io.tensors import read_tensors

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
MODEL, PEFT = str(FIXTURES / "models" / "llama"), str(FIXTURES / "adapters" / "llama_qv")
VERBS = {
    "inspect": inspect, "merge": merge, "import_peft": import_peft, "export_peft": export_peft,
    "generate": generate,
}  # fmt: skip


def fails(capsys, verb, *argv):
    """The one line of standard error of a call that must fail."""
    assert VERBS[verb].main(list(argv)) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """An adapter directory that `import_peft` wrote."""
    out = tmp_path_factory.mktemp("imported") / "adapter"
    assert import_peft.main([f"--model={MODEL}", f"--adapter={PEFT}", f"--out={out}"]) == 0
    return out


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_module_and_its_flags(verb, capsys):
    assert VERBS[verb].main(["--help"]) == 0
    text = capsys.readouterr().out
    assert f"python -m experiments.{verb}" in text and "--model" in text


def test_import_then_export_changes_no_tensor(imported, tmp_path, capsys):
    adapter, delta = load_adapter(imported)
    assert adapter.rank == 4 and len(delta) == 4
    out = tmp_path / "again"
    argv = [f"--model={MODEL}", f"--adapter={imported}", f"--out={out}"]
    assert export_peft.main([*argv, "--base_model_name=someone/llama"]) == 0
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/llama"
    old = read_tensors(pathlib.Path(PEFT) / "adapter_model.safetensors")
    new = read_tensors(out / "adapter_model.safetensors")
    assert set(old) == set(new)
    assert all(old[name].tobytes() == new[name].tobytes() for name in old)
    line = fails(capsys, "export_peft", *argv)
    assert "exists already" in line and "--overwrite" in line and "overwrite=True" not in line
    assert export_peft.main([*argv, "--overwrite"]) == 0


def test_import_shows_updates_relative_to_their_base(tmp_path, capsys):
    argv = [f"--model={MODEL}", f"--adapter={PEFT}", f"--out={tmp_path / 'x'}"]
    assert import_peft.main(argv) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if "layer_1/attention/query" in r)
    assert float(row.split("|")[5]) > 0


def test_other_methods_are_imported_and_exported(tmp_path, capsys):
    theirs, out = FIXTURES / "methods" / "prefix_llama", tmp_path / "prefix"
    assert import_peft.main([f"--model={MODEL}", f"--adapter={theirs}", f"--out={out}"]) == 0
    assert "5 × 32" in capsys.readouterr().out
    again = tmp_path / "again"
    assert export_peft.main([f"--model={MODEL}", f"--adapter={out}", f"--out={again}"]) == 0
    name = "adapter_model.safetensors"
    old, new = read_tensors(theirs / name), read_tensors(again / name)
    assert {k: v.tobytes() for k, v in old.items()} == {k: v.tobytes() for k, v in new.items()}
    vera = f"--adapter={FIXTURES / 'methods' / 'vera_llama'}"
    message = fails(capsys, "import_peft", f"--model={MODEL}", vera, f"--out={tmp_path / 'x'}")
    assert "frozen matrices of its own (VeRA)" in message and not (tmp_path / "x").exists()


def test_merge_writes_a_model_and_tells_the_rounding(imported, tmp_path, capsys):
    out = tmp_path / "merged"
    argv = [f"--model={MODEL}", f"--adapter={imported}", f"--out={out}", "--dtype=bfloat16"]
    assert merge.main(argv) == 0
    assert "query" in capsys.readouterr().out
    loaded, (adapter, delta) = pretrained.load(out), load_adapter(imported)
    base = pretrained.load(MODEL, dtype="bfloat16").base
    kernel = lambda tree: tree["params"]["layer_0"]["attention"]["query"]["kernel"]
    want = kernel(adapter.merge(base, delta))
    assert str(want.dtype) == "bfloat16"
    np.testing.assert_array_equal(np.asarray(kernel(loaded.base)), np.asarray(want))


def test_inspect_shows_model_and_adapter(imported, capsys):
    assert inspect.main([f"--model={MODEL}", f"--adapter={PEFT}"]) == 0
    text = capsys.readouterr().out
    for words in ("Llama: ", "params/layer_*/attention/query/kernel", "stable", "trained numbers"):
        assert words in text
    assert inspect.main([f"--adapter={imported}"]) == 0
    assert "Llama" not in capsys.readouterr().out
    line = fails(capsys, "inspect", f"--adapter={PEFT}")
    assert "needs --model" in line
    assert "nothing to inspect" in fails(capsys, "inspect")


def test_mistakes_are_one_line(tmp_path, capsys):
    model = f"--model={MODEL}"
    assert "--out" in fails(capsys, "merge", model, f"--adapter={PEFT}")
    line = fails(capsys, "merge", model, "--adapter=nowhere", f"--out={tmp_path / 'x'}")
    assert "no adapter at 'nowhere'" in line
    assert "no tokenizer" in fails(capsys, "generate", model, "--prompt=a")
    assert "nowhere" in fails(capsys, "inspect", "--model=nowhere")
    assert "--bogus" in fails(capsys, "inspect", model, "--bogus=1")
    assert "invalid choice" in fails(
        capsys, "export_peft", model, f"--adapter={PEFT}", "--out=x", "--target=tgi"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], ["no prompt", "--prompts=FILE"]),
        (["--prompt="], ["--prompt", "empty"]),
        (["--prompt=\udcff"], ["--prompt", "not UTF-8"]),
        (["--prompt=a", "--seed=4294967296", "--temperature=1"], ["--seed", "below 2**32"]),
        (["--prompt=a", "--seed=-1"], ["--seed", "below 2**32"]),
        (["--prompt=a", "--seed=1"], ["--seed", "without --temperature"]),
        (["--prompt=a", "--top_k=1"], ["--top_k", "without --temperature"]),
        (["--prompt=a", "--top_p=0.5"], ["--top_p", "without --temperature"]),
        (["--prompt=a", "--length_penalty=2"], ["--length_penalty", "without --beams"]),
        (["--prompt=a", "--beams=2", "--temperature=1"], ["--beams=2", "leave --temperature out"]),
        (["--prompt=a", "--max_new_tokens=0"], ["--max_new_tokens is 0"]),
        (["--prompt=a", "--stop="], ["--stop", "empty"]),
        (["--prompts=nowhere.txt"], ["nowhere.txt", "check the path"]),
    ],
)
def test_generate_finds_mistakes_before_the_model_is_read(argv, words, capsys):
    line = fails(capsys, "generate", "--model=nowhere", *argv)
    assert all(word in line for word in words), line


def test_prompts_of_a_file(tmp_path, capsys):
    file, flags = tmp_path / "prompts.txt", argparse.Namespace(prompt=["x"])
    flags.prompts = str(file)
    file.write_bytes("\ufeffone\r\n\n  \ntwo ü\n".encode())
    assert generate._prompts(flags) == ["x", "one", "two ü"]
    file.write_bytes(b"caf\xe9\n")
    line = fails(capsys, "generate", "--model=nowhere", f"--prompts={file}")
    assert str(file) in line and "not UTF-8" in line
    file.write_bytes(b"\n\n")
    assert "no prompt" in fails(capsys, "generate", "--model=nowhere", f"--prompts={file}")


@pytest.mark.parametrize("verb", ["merge", "import_peft", "export_peft"])
def test_out_is_checked_before_the_work(verb, tmp_path, capsys, monkeypatch):
    def call(out, *argv, adapter=PEFT):
        flags = (f"--model={MODEL}", f"--adapter={adapter}", f"--out={out}")
        return fails(capsys, verb, *flags, *argv)

    monkeypatch.setattr(pretrained, "load", None)  # whoever calls it fails the test
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary").write_text("dear")
    line = call(mine)
    assert "exists already" in line and "pass --overwrite" in line
    assert "--overwrite does not replace it" in call(mine, "--overwrite")
    assert "cannot write into" in call(mine / "diary" / "out")
    assert "where --model lies" in call(MODEL, "--overwrite")
    assert "where --model lies" in call(pathlib.Path(MODEL).parent, "--overwrite")
    assert "where --adapter lies" in call(PEFT, "--overwrite")
    assert "no adapter at" in call(tmp_path / "x", adapter=tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("verb", ["merge", "export_peft"])
def test_a_missing_library_is_told_before_the_work(verb, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "load", None)
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it then fails
    line = fails(capsys, verb, f"--model={MODEL}", f"--adapter={PEFT}", f"--out={tmp_path / 'x'}")
    assert "safetensors" in line and "pip install" in line


def test_model_says_what_it_is(tmp_path, capsys, monkeypatch):
    line = fails(capsys, "inspect", f"--model={PEFT}")
    assert "is an adapter" in line and "--adapter" in line
    assert "--model: it is empty" in fails(capsys, "inspect", "--model=")
    monkeypatch.setenv("HOME", str(FIXTURES))
    assert inspect.main(["--model=~/models/llama", "--adapter=~/adapters/llama_qv"]) == 0
    assert "such as --dtype=bfloat16" in fails(
        capsys, "inspect", f"--model={MODEL}", "--dtype=int8"
    )


def test_untied_gives_the_head_its_own(capsys):
    argv = [f"--model={FIXTURES / 'models' / 'gpt2'}"]
    assert inspect.main(argv) == 0
    assert "lm_head" not in capsys.readouterr().out
    assert inspect.main([*argv, "--untied"]) == 0
    assert "params/lm_head/kernel" in capsys.readouterr().out


def test_messages_name_flags():
    assert _flags.typed("load it with tied=False, which") == "load it with --untied, which"
    assert _flags.typed("x: pass base=") == "x: give --model"
    assert _flags.typed("rank=4") == "rank=4"


def test_an_adapter_that_starts_from_its_base_needs_it(tmp_path, capsys):
    loaded = pretrained.load(MODEL)
    adapter = lorax.LoRA(rank=2, where=(".*query.*",), initializer="pissa")
    tokens = np.zeros((1, 4), np.int32)
    adapted = lorax.adapt(loaded.model.apply, adapter)
    save_adapter(tmp_path / "a", adapter, adapted.init(jax.random.key(0), loaded.base, tokens))
    assert "give --model" in fails(capsys, "inspect", f"--adapter={tmp_path / 'a'}")
    assert inspect.main([f"--model={MODEL}", f"--adapter={tmp_path / 'a'}"]) == 0
    assert "query/kernel |    2 |" in capsys.readouterr().out


def test_long_work_says_that_it_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(_flags, "QUIET", 0.05)
    with _flags.working("reading"):
        time.sleep(0.3)
    assert capsys.readouterr().err.startswith("reading ...\nreading: 0 s")
    monkeypatch.setattr(_flags, "QUIET", 5.0)
    with _flags.working("reading"):
        pass
    assert capsys.readouterr().err == ""


def test_generate_continues_prompts_with_a_factored_adapter(tmp_path, capsys):
    model = _byte_model(tmp_path)
    argv = [f"--model={model}", "--prompt=ab", "--prompt=abc", "--max_new_tokens=4"]
    assert generate.main(argv) == 0
    plain = capsys.readouterr().out
    assert plain.startswith("--- 1 of 2 ---\nab") and "\n--- 2 of 2 ---\nabc" in plain
    single = [argv[0], "--prompt=ab", "--max_new_tokens=4"]
    assert generate.main(single) == 0
    whole = capsys.readouterr().out
    assert whole.startswith("ab") and "--- " not in whole and len(whole) > 4
    assert generate.main([*single, f"--stop={whole[3]}", "--stop=never comes"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == whole[: whole.index(whole[3], 2)].rstrip("\n")
    assert generate.main([*argv, "--temperature=1", "--top_k=5", "--seed=3"]) == 0
    assert generate.main([*argv, "--beams=3", "--length_penalty=0.8", "--no_repeat_ngram=2"]) == 0


def _byte_model(folder):
    """A llama2.c checkpoint of random weights with a tokenizer beside it."""
    import struct

    dim, hidden, layers, heads, vocab, length = 8, 12, 1, 2, 259, 64
    shapes = [(vocab, dim), (layers, dim), *[(layers, dim, dim)] * 4, (layers, dim)]
    shapes += [*[(layers, dim, hidden)] * 3, (dim,), *[(length, dim // heads // 2)] * 2]
    draw = np.random.default_rng(0)
    weights = b"".join(draw.normal(size=s).astype("<f4").tobytes() for s in shapes)
    header = struct.pack("<7i", dim, hidden, layers, heads, heads, vocab, length)
    (folder / "model.bin").write_bytes(header + weights)
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *[b"<0x%02X>" % i for i in range(256)]]
    records = b"".join(struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 7) + records)
    return folder / "model.bin"

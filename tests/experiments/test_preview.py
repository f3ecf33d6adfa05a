"""What `--dry_run` plans for: the largest step of a run, not its first."""

from ml_collections import ConfigDict

from configs import e2e_gpt2_medium, glue_roberta_base
from experiments import _preflight as preflight
from experiments._train import preview
from experiments._train.setting import make_setting


def test_the_plan_is_of_the_longest_rows():
    config = e2e_gpt2_medium.get_config("smoke")
    config.data.buckets = (93, 640)  # toy rows lie on both sides
    pipeline = make_setting(config).data.pipeline
    lengths = {pipeline.order.length(step) for step in range(pipeline.steps_per_epoch)}
    assert pipeline.order.length(0) == 93 and len(lengths) == 2
    planned = preview.plan(config, ConfigDict())
    assert planned.batch.inputs.shape == (config.train.batch, max(lengths))


def test_without_weights_and_data_the_published_size_is_planned(monkeypatch, capsys):
    monkeypatch.delenv("LORAX_DATA", raising=False)
    planned = preview.plan(glue_roberta_base.get_config("mnli"), ConfigDict())
    assert planned.steps is None and planned.examples is None
    assert planned.base["params"]["classifier"]["out"]["kernel"].shape == (768, 3)
    assert "Without data" in capsys.readouterr().out
    assert "not known" in "".join(preflight.text(planned))

"""What `--dry_run` plans for: the largest step of a run, not its first."""

from ml_collections import ConfigDict

from configs import e2e_gpt2_medium
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

"""The tables of config.json name real fields of ours, and none of theirs twice."""

import dataclasses

import pytest

from lorax.io.hf_tables import ARCHITECTURES, CLASSES, DROPOUTS, FIELDS, FIXED, ROPE
from lorax.models.rotary import RopeScaling


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_fields_are_ours_and_theirs_are_distinct(kind):
    ours = {field.name for field in dataclasses.fields(CLASSES[kind][1])}
    assert {field.ours for field in FIELDS[kind]} <= ours
    theirs = [field.theirs for field in FIELDS[kind]] + list(FIXED[kind]) + list(DROPOUTS[kind])
    assert len(set(theirs)) == len(theirs)


def test_every_field_of_ours_without_a_default_has_one_of_theirs():
    for kind, (_, config) in CLASSES.items():
        needed = {
            field.name
            for field in dataclasses.fields(config)
            if field.default is dataclasses.MISSING
        }
        assert needed <= {field.ours for field in FIELDS[kind]}


def test_architectures_and_heads_are_one_to_one():
    assert len(set(ARCHITECTURES.values())) == len(ARCHITECTURES)
    assert {kind for kind, _ in ARCHITECTURES.values()} == set(CLASSES)


def test_rope_names_every_field_of_the_scaling():
    assert set(ROPE) == {field.name for field in dataclasses.fields(RopeScaling)}

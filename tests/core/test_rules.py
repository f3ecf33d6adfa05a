"""The table of rules is complete: every primitive that the design names has one."""

from lorax.core.rules import RULES

NAMED = {
    "dot_general", "conv_general_dilated", "gather", "transpose", "convert_element_type", "slice",
    "split", "reshape", "squeeze", "broadcast_in_dim", "sharding_constraint",
    "ragged_dot_general", "jit", "remat2", "scan", "cond", "while", "custom_jvp_call",
    "custom_vjp_call", "shard_map",
}  # fmt: skip


def test_every_named_primitive_has_a_rule_with_a_reason():
    assert set(RULES) >= NAMED
    assert all(callable(rule) and rule.__doc__ for rule in RULES.values())

"""Programs that look ahead are refused before they answer, and causal ones are left alone."""

import jax
import jax.numpy as jnp
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.generation.causal import check_causal
from lorax.generation.program import make_program
from lorax.models.roberta import Roberta
from lorax.models.roberta_config import RobertaConfig
from tests.generation.toys import LLAMA, PROMPTS, llama, params, plain

BASE = params()
MASKED = Roberta(RobertaConfig(24, 16, 2, 2, 24, max_length=32, head="masked_lm"))


def masked():
    return jax.jit(MASKED.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))


def test_a_masked_language_model_is_refused():
    base = masked()
    adapter = lorax.LoRA(rank=2)
    apply = lorax.adapt(MASKED.apply, adapter)
    delta = apply.init(jax.random.key(1), base, jnp.zeros((1, 4), jnp.int32))
    for fn, own in ((MASKED.apply, None), (jax.jit(MASKED.apply), None), (apply, delta)):
        with pytest.raises(LoraxError, match="apply is not causal.*init_cache=False") as caught:
            lorax.generate(fn, base, own, [[5, 2]], max_new_tokens=3)
        assert "\n" not in str(caught.value)
    found = lorax.generate(MASKED.apply, base, None, [[5, 2]], max_new_tokens=3, init_cache=False)
    assert len(found[0]) == 3


def test_a_plain_function_that_looks_ahead_is_refused():
    ahead = lambda base, tokens: plain(base, tokens[:, ::-1])[:, ::-1]
    with pytest.raises(LoraxError, match="not causal"):
        lorax.generate(ahead, BASE, None, PROMPTS, max_new_tokens=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_causal_programs_pass(dtype):
    base, _ = llama()
    base = jax.tree.map(lambda x: x.astype(dtype), base)
    function = lambda base, tokens: LLAMA.apply(base, tokens)
    for length in (1, 15, 16, 31, 63):
        check_causal(make_program(function, None, None, 64), base, None, [3] * length)
    for prompt in PROMPTS:
        check_causal(make_program(plain, None, None, None), BASE, None, prompt)


def test_nan_is_left_to_generate():
    base = BASE | {"head": BASE["head"] * jnp.nan}
    with pytest.raises(LoraxError, match="NaN logits for prompt 0"):
        lorax.generate(plain, base, None, [[1]], max_new_tokens=3)

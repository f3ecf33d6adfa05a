"""The loop row by row: equal to recomputing everything, in any company, compiled once."""

import jax
import jax.numpy as jnp
import pytest

import lorax
from lorax.generation.generate import generate
from lorax.generation.program import make_program
from lorax.generation.sampling import Plan, Request, continue_rows
from tests.generation.toys import (
    LLAMA,
    PROMPTS,
    TOY,
    TRACES,
    banned,
    greedy,
    llama,
    params,
    plain,
)

BASE = params()


def llama_logits(params, ids):
    return llama_next(params, jnp.asarray([[*ids, *[0] * (32 - len(ids))]]))[0, len(ids) - 1]


llama_next = jax.jit(LLAMA.apply)


def test_greedy_equals_recomputing_the_merged_llama():
    adapter = lorax.LoRA(rank=2)
    base, delta = llama(adapter)
    apply = lorax.adapt(LLAMA.apply, adapter)
    found = generate(apply, base, delta, PROMPTS, max_new_tokens=12)
    merged = adapter.merge(base, delta)
    assert found == [greedy(merged, p, 12, logits=llama_logits) for p in PROMPTS]
    assert len({*found[0], *found[2]}) > 4, "a model that repeats itself proves little"
    alone = [generate(apply, base, delta, [p], max_new_tokens=12, batch_size=4) for p in PROMPTS]
    assert [rows[0] for rows in alone] == found


@pytest.mark.parametrize("apply", [TOY.apply, plain], ids=["cache", "recomputed"])
@pytest.mark.parametrize("stop, ngram", [((), 0), ((3, 8), 2)])
def test_greedy_equals_the_definition(apply, stop, ngram):
    found = generate(
        apply, BASE, None, PROMPTS, max_new_tokens=14, stop=stop, no_repeat_ngram=ngram
    )
    assert found == [greedy(BASE, p, 14, stop=stop, ngram=ngram) for p in PROMPTS]


def test_no_n_gram_comes_twice():
    fields = {"max_new_tokens": 30, "stop": (), "no_repeat_ngram": 2}
    key = jax.random.key(0)
    for more in ({"temperature": 0.3, "key": key}, {"ngram_prompt": False}):
        prompts = [[1, 2, 1, 2, 1, 2], [5]]
        for prompt, row in zip(
            prompts, generate(plain, BASE, None, prompts, **fields, **more), strict=True
        ):
            own = row if "ngram_prompt" in more else prompt + row
            pairs = list(zip(own, own[1:], strict=False))
            fresh = pairs[len(own) - len(row) :]
            assert len(row) == 30 and len(set(fresh)) == len(fresh)
            for i in range(len(own) - len(row), len(own)):
                assert own[i] not in banned(own[:i], 2)


def test_a_row_ends_where_every_token_is_banned():
    base = params(vocabulary=3)
    found = generate(plain, base, None, [[1], [2, 0]], max_new_tokens=9, no_repeat_ngram=1, stop=())
    assert [sorted(row) for row in found] == [[0, 2], [1]]


def test_a_draw_depends_on_the_key_and_the_row_alone():
    fields = {"max_new_tokens": 10, "temperature": 2.0, "key": jax.random.key(7)}
    first = generate(TOY.apply, BASE, None, PROMPTS, **fields)
    assert generate(TOY.apply, BASE, None, PROMPTS, **fields) == first
    assert generate(TOY.apply, BASE, None, PROMPTS, **fields, batch_size=3) == first
    assert generate(TOY.apply, BASE, None, PROMPTS[:2], **fields, batch_size=3) == first[:2]
    same = generate(TOY.apply, BASE, None, [PROMPTS[0]] * 4, **fields)
    assert len({tuple(row) for row in same}) == 4
    other = generate(TOY.apply, BASE, None, PROMPTS, **fields | {"key": jax.random.key(8)})
    assert other != first


def test_sampled_tokens_lie_inside_top_k():
    fields = {"max_new_tokens": 8, "temperature": 5.0, "key": jax.random.PRNGKey(0)}  # raw bits
    rows = generate(TOY.apply, BASE, None, PROMPTS, **fields, top_k=1)
    assert rows == [greedy(BASE, p, 8) for p in PROMPTS]
    assert generate(TOY.apply, BASE, None, PROMPTS, **fields, top_p=1e-6) == rows
    assert generate(TOY.apply, BASE, None, PROMPTS, **fields, top_k=3) != rows


def test_other_values_do_not_compile_anew():
    adapter = lorax.LoRA(rank=2, where=("head",))
    deltas = [adapter.init(jax.random.key(i), BASE) for i in range(2)]
    deltas[1] = jax.tree.map(lambda x: jax.random.normal(jax.random.key(9), x.shape), deltas[1])

    def call(delta, base=BASE, prompts=PROMPTS, new=9, **fields):
        apply = lorax.adapt(TOY.apply, adapter)  # a new one each time, as callers do
        return generate(apply, base, delta, prompts, max_new_tokens=new, **fields)

    sampled = {"temperature": 1.0, "top_k": 5, "key": jax.random.key(0)}
    beam = {"beams": 2, "length_penalty": 0.8}
    first = [call(deltas[0]), call(deltas[0], **sampled), call(deltas[0], **beam)]
    traces = len(TRACES)
    assert call(deltas[1]) != first[0]
    call(deltas[0], base=params(seed=5))
    call(deltas[0], prompts=[[9] * 16, [1], [2], [3]], new=16)
    others = {"temperature": 0.5, "top_k": 2, "top_p": 0.9, "key": jax.random.key(1)}
    assert call(deltas[0], **others) != first[1]
    call(deltas[1], **beam | {"length_penalty": 2.0})
    assert len(TRACES) == traces
    call(deltas[0], prompts=[[9] * 17, [1], [2], [3]])  # the next bucket
    assert len(TRACES) > traces


def request(prompts, limit, stop=()):
    width = max(map(len, prompts))
    rows = [[*p, *[0] * (width - len(p))] for p in prompts]
    return Request(
        jnp.asarray(rows),
        jnp.asarray([len(p) for p in prompts]),
        jnp.ones(len(prompts), bool),
        jnp.int32(limit),
        jnp.asarray(stop, jnp.int32),
    )


def test_the_loop_ends_when_every_row_has():
    steps = []

    def counted(base, tokens):
        jax.debug.callback(lambda: steps.append(1))
        return plain(base, tokens)

    rows = [greedy(BASE, p, 20) for p in PROMPTS]
    stop = sorted({row[3] for row in rows})
    program = make_program(counted, None, False, None)
    result = continue_rows(program, Plan(new=32), BASE, None, request(PROMPTS, 32, stop), None)
    jax.block_until_ready(result)
    jax.effects_barrier()
    assert max(result.kept) <= 3 and len(steps) <= 4
    assert result.tokens.shape == (4, 32)


def test_a_decomposition_is_derived_once_before_the_loop():
    adapter = lorax.LoRA(rank=2, initializer="pissa", where=("head",))
    delta = jax.tree.map(lambda x: x + 0.2, adapter.init(jax.random.key(0), BASE))
    apply = lorax.adapt(TOY.apply, adapter)
    program = make_program(apply, delta, None, None)
    asked = request(PROMPTS, 16)
    traced = continue_rows.trace(program, Plan(new=16), BASE, delta, asked, None)
    (whole,) = [e for e in traced.jaxpr.eqns if e.primitive.name == "while"]
    assert "svd" in str(traced.jaxpr)
    assert "svd" not in str(whole.params["body_jaxpr"])
    prepared = adapter.prepare(BASE, delta)
    found = generate(apply, prepared, delta, PROMPTS, max_new_tokens=9)
    assert found == generate(apply, BASE, delta, PROMPTS, max_new_tokens=9)
    merged = adapter.merge(BASE, delta)
    assert found == [greedy(merged, p, 9) for p in PROMPTS]


def test_a_sharded_base():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "model"))
    placed = jax.tree.map(lambda x: jax.device_put(x, sharding), BASE)
    found = generate(TOY.apply, placed, None, PROMPTS, max_new_tokens=9)
    assert found == [greedy(BASE, p, 9) for p in PROMPTS]


def test_nan_is_told_for_the_row_that_has_it():
    def partly(base, tokens):
        return jnp.where(tokens[:, :1, None] == 5, jnp.nan, plain(base, tokens))

    with pytest.raises(ValueError, match="NaN logits for prompt 1"):
        generate(partly, BASE, None, PROMPTS, max_new_tokens=3)
    fine = [[6], *PROMPTS[:1], *PROMPTS[2:]]
    found = generate(partly, BASE, None, fine, max_new_tokens=3)
    assert found == [greedy(BASE, p, 3) for p in fine]

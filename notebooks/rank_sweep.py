# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How small may the rank be?
#
# The LoRA paper (Hu et al., arXiv:2106.09685) adapts GPT-3 with updates $\Delta W = s\,AB$ of rank
# $r$ and finds that $r = 1$ can be as good as $r = 64$ (table 6), that runs of different rank agree
# on little more than one direction (figure 3), and that the update raises directions that $W$ has
# little of (table 7). This notebook asks the same three questions of a model of 0.3 million
# parameters that reads bytes. It learns English first, the text that ships with Python, and is then
# adapted to Python source. Nothing is downloaded, and no conclusion about large models is drawn.
#
# Five ranks at three learning rates and two seeds are 30 trainings. They are **one** program here.
#
# Cost: less than three minutes on two idle CPU cores; the last cell says what this run took. The
# numbers below are measured, so they differ a little between machines and between Python versions,
# whose texts differ. `make notebooks` runs it again.

# %%
import dataclasses
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

here = pathlib.Path.cwd()
root = next(place for place in (here, *here.parents) if (place / "pyproject.toml").exists())
sys.path.insert(0, str(root))  # pages and verbs are run from the repository
begun = time.perf_counter()
work = pathlib.Path(tempfile.mkdtemp(prefix="rank_sweep_"))

# %% [markdown]
# ## The sweep
#
# A page says what one run is and what is swept. Everything that is not written here is as in
# `configs/quickstart.py`: $s = 16 / r$, AdamW, a cosine schedule. LoRA is on query and value, as in
# the figures of the paper.
#
# The learning rates are part of the question. With one rate for all ranks a rank may look poor
# because the rate is, so every rank gets its own best, `best_of("lr")`. It is chosen on the
# validation part of the text; what is reported is the test part, which took no part in the choice.

# %%
page = work / "page.py"
page.write_text('''"""English to Python source, small: five ranks, three rates, two seeds."""

from configs._attention import attention
from configs._sweeps import axis, best_of, product
from configs.quickstart import get_config as quickstart

reduction = best_of("lr")


def get_config(arg=""):
    config = quickstart(arg)
    config.model.preset = "TOY"  # a LLaMA of 3 layers, 96 wide
    config.adapter.where = attention("q,v").value
    config.data.update({"length": 32, "retention": ""})
    config.pretrain.update({"steps": 250, "batch": 32})
    config.train.update({"batch": 2, "steps": 200})
    config.eval.update({"every": 50, "batch": 128, "limit": 128, "prompt": ""})
    return config


def sweep():
    ranks = axis("rank", (1, 2, 4, 8, 32))
    return product(ranks, axis("lr", (1e-3, 4e-3, 1.6e-2)), axis("seed", (0, 1)))
''')


def sweep(*flags):
    """The verb, as it is typed in a shell; (what it printed, what JAX logged)."""
    command = [sys.executable, "-m", "experiments.sweep", f"--config={page}", f"--workdir={work / 'ranks'}"]
    env = os.environ | {"JAX_LOG_COMPILES": "1"}
    done = subprocess.run([*command, *flags], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.replace(str(work), "runs"), done.stderr


said, _ = sweep("--dry_run")
print(said[said.rindex("Sweep:") :])

# %% [markdown]
# Units that differ only in rank, alpha, learning rate, weight decay, dropout, seed or order of the
# data share a program. Other targets or another model would start a second one. Now the run: first
# the base, whole, then all 30 units side by side.

# %%
started = time.perf_counter()
said, log = sweep()
took = time.perf_counter() - started
print("\n".join([*said.splitlines()[:5], "..."]))

steps = re.findall(r"Finished XLA compilation of jit\(step\) in ([\d.]+) sec", log)
print(f"{took:.0f} s in all. The training step was compiled {len(steps)} times: once for the base,")
print(f"and once for all 30 units ({float(steps[-1]):.1f} s).")

# %% [markdown]
# Every unit has a folder of its own, with config, metrics and adapter, exactly as if it had been
# trained alone by `experiments.train`. Had the sweep been killed, the same command would go on.
#
# ### What packing buys
#
# Packed units share the base and the compiled step. A and B are padded with zeros to the largest
# rank, whose gradients are exactly zero, so a unit of rank 1 stays one of rank 1; scale and rate are
# arguments. Below, one step of all 30 units by one program, and by one program a rank in turn, both
# compiled and warm. The two are timed alternately, twenty times, and the fastest of each is told, which
# other work on the machine disturbs least.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import lorax
from experiments._sweep.rows import folder, read_rows
from experiments._train.loading import load_run
from lorax.adapters.padded import Padded, with_numbers
from lorax.data.batch import Batch
from lorax.train.losses import next_token_loss
from lorax.train.optim import adamw
from lorax.train.packed import make_packed_step
from lorax.train.stacks import common, pad, stack
from lorax.train.step import init_state, make_step

rows = read_rows(work / "ranks" / "rows.jsonl")
trained = load_run(folder(work / "ranks", rows[0]["unit"]))
model, base = trained.model, trained.base

units = [row["point"] for row in rows]
adapters = [lorax.LoRA(rank=unit["rank"], alpha=16.0, where=(r".*/(query|value)/kernel",)) for unit in units]
ids = np.random.default_rng(0).integers(0, 256, (len(units), 2, 33), np.int32)
batches = Batch(ids[..., :-1], ids[..., 1:], np.ones((len(units), 2, 32), bool))
batch = jax.tree.map(lambda x: x[0], batches)
init = {a: jax.jit(lorax.adapt(model.apply, a).init) for a in dict.fromkeys(adapters)}
deltas = [init[a](jax.random.key(unit["seed"]), base, batch.inputs) for a, unit in zip(adapters, units)]
states = lambda: [init_state(d, adamw(u["lr"]), jax.random.key(0)) for d, u in zip(deltas, units)]


def compiled(step, *args):
    started = time.perf_counter()
    program = step.lower(*args).compile()
    return program, time.perf_counter() - started


def stacked(trees):
    return stack([pad(tree, common(trees)) for tree in trees])


# One program for all.
packed = make_packed_step(
    next_token_loss(model.apply, Padded(adapters[0])),
    lambda numbers: (adamw(numbers["rate"]), None),
    lambda delta, numbers: dataclasses.replace(numbers["adapter"], delta=delta),
    width=10,  # side by side, three such groups in turn: 5 and 30 were slower when this was written
)
whole = [with_numbers(a, base, d, dropout=False) for a, d in zip(adapters, deltas)]
numbers = {"adapter": stacked(whole), "rate": jnp.array([unit["lr"] for unit in units])}
rest = (numbers, np.ones(len(units), bool), base, batches)
pack = stacked(states())
packed, one = compiled(packed, pack, *rest)

# One program a rank: six units each, in turn.
alone, ranks, many = states(), {}, 0.0
for adapter, state in zip(adapters, alone):
    if adapter.rank not in ranks:
        step = make_step(next_token_loss(model.apply, adapter), adamw(4e-3))
        ranks[adapter.rank], seconds = compiled(step, state, base, batch)
        many += seconds


def in_turn():
    for i, adapter in enumerate(adapters):
        alone[i], metrics = ranks[adapter.rank](alone[i], base, batch)
    return metrics


def together():
    global pack
    pack, metrics = packed(pack, *rest)
    return metrics


times = {in_turn: [], together: []}
for _ in range(20):
    for run, seen in times.items():
        started = time.perf_counter()
        jax.block_until_ready(run())
        seen.append(time.perf_counter() - started)
turn, pack_time = (min(seen) for seen in times.values())
print(f"compiling          one program {one:5.1f} s,  one a rank {many:5.1f} s")
print(f"a step of 30 units      packed {1e3 * pack_time:4.0f} ms,     in turn {1e3 * turn:4.0f} ms")
print(
    f"in turn takes {many / one:.1f} times as long to compile, and {turn / pack_time:.2f} times as long a step"
)

# %% [markdown]
# How to read it: the first line is paid once. Five programs are the least that units in turn need; 30
# separate processes would each compile, start, and read the data. For a sweep of short runs that is
# most of the time. The second line is paid every step, and here the two are close: packing saves the
# start of each call and reads the base once for ten units, and pays for computing rank 1 as rank 32. A
# wider model with few tokens a unit gains more; where one unit fills the device there is nothing to
# gain, and the program takes units in turn. How many lie side by side is guessed from their size, and
# measured where training is long enough to pay for it, which this one is not.
# `python -m experiments.benchmarks.sweep` has the numbers.

# %% [markdown]
# ## What came of it
#
# `rows.jsonl` has one row a unit: its point, how it was trained, every number. The table is the
# reduction of the 30 rows, as `report.md` has it: for each rank the best rate, then means over the
# seeds with their standard errors.

# %%
from IPython.display import Image, Markdown, display

display(Markdown("\n".join(line for line in said.splitlines() if line.startswith("|"))))

# %% [markdown]
# *Edge* in a cell would say that the best rate is the last one tried, and a better one may lie beyond.

# %%
import io

import matplotlib
import matplotlib.figure
import PIL.Image

from configs._sweeps import best_of
from experiments._report.style import GRID, MUTED, SERIES
from experiments._sweep.reduce import reduce
from experiments._workdir import plain, stored
from experiments.figures import panels
from experiments.figures import ranks as rank_figures
from experiments.figures.training import STYLE, saved


def show(png, width=800):
    """A picture of 256 colours, so that the notebook stays small."""
    image = PIL.Image.open(io.BytesIO(png)).convert("RGB")
    image = image.resize((width, round(width * image.height / image.width)), PIL.Image.LANCZOS)
    small = io.BytesIO()
    image.quantize(256, PIL.Image.Quantize.MEDIANCUT, kmeans=3).save(small, "png", optimize=True)
    display(Image(small.getvalue(), width=width))


def draw(count, height, panel):
    """`panel(axes, number)` for each of `count` panels side by side."""
    with matplotlib.rc_context(STYLE):
        figure, cells = panels.grid(count, height)
        for number, axes in enumerate(cells):
            panel(axes, number)
        panels.legend(figure)
        show(saved(figure, "figure")[0])


config = stored(work / "ranks")
reduced = reduce(rows, best_of("lr"), plain(config)["checkpoint"])
pictures = rank_figures.figures(rows, reduced, plain(config))[1]
show(pictures["best_by_rank"])

# %% [markdown]
# **Loss against rank.** Across: the rank, on a logarithmic axis. Up: the loss on the test part, in
# nats a byte, each rank at its own best rate; the bars are standard errors over the seeds. Read off
# whether the line falls by more than the bars are long.
#
# The paper finds a flat line: on WikiSQL 73.4, 73.3, 73.7, 73.8 and 73.5 for r = 1, 2, 4, 8 and 64 on
# query and value of GPT-3 (table 6; ± 0.5). Here the line falls with the rank, by less at each
# doubling: a good half of what r = 32 gains over the frozen base is there at r = 1, and most at r = 4.
#
# What is different, and why to distrust it:
#
# - The task is far from what the base knows. GPT-3 had seen SQL; this base has seen English alone,
#   and not much of it. Where much is to be learnt, a higher rank can hold more of it.
# - The matrices are 96 wide, so rank 32 is a third of all there is. In GPT-3, rank 64 is one part in
#   two hundred.
# - 200 steps of 64 bytes are not enough to converge, so this shows how fast a rank learns as much as
#   what it can hold.
# - Two seeds give a standard error with one degree of freedom, which may be off by a factor of
#   several. The bars are a sketch. They hold what the first draw and the order of the data change, and
#   nothing else: with another base and another held-out text this sweep once had 1.989 at r = 32 in
#   place of 1.953, many bars away. The order of the ranks was the same.

# %%
show(pictures["by_rate"])

# %% [markdown]
# **Loss against the learning rate.** Across: the rate, four times as high at each point. Up: the
# loss on the validation part, which the choice is made by; one line a rank, the best of it ringed.
# Lines that leave the panel are of rates that are far too high. Read off whether the rings stand
# above each other: then one rate does for all ranks.
#
# Published for models of 1B and more: with $s = \alpha / r$ the best rate moves by less than 2 times
# from r = 4 to 512 and is lower at r = 1 (Schulman et al., "LoRA Without Regret", 2025). The grid here
# is too coarse to see a factor of two. It is there for what it prevents: at the lowest rate alone, or
# at the highest alone, the ranks would stand in another relation to each other.

# %%
from lorax.train.metrics import read_metrics

best = {group.point["rank"]: group.best for group in reduced.groups}
shades = {r: matplotlib.colormaps["viridis"](0.22 * i) for i, r in enumerate(best)}
records = {
    row["unit"]: read_metrics(folder(work / "ranks", row["unit"]) / "metrics.jsonl")
    for choice in best.values()
    for row in choice.rows
}


def curve(rank, kind, number):
    """(steps, the number, a row a seed) of a rank at its best rate."""
    runs = [[r for r in records[row["unit"]] if r["kind"] == kind] for row in best[rank].rows]
    return [r["step"] for r in runs[0]], np.array([[r[number] for r in run] for run in runs])


def curves(axes, panel):
    for rank in best:
        if panel == 0:
            x, y = curve(rank, "eval", "validation/loss")
            axes.set_title("validation loss (nats/byte)")
        else:
            x, y = curve(rank, "train", "loss")
            y = y - curve(1, "train", "loss")[1]
            axes.set_title("training loss, less that of r = 1")
        axes.plot(x, y.mean(0), color=shades[rank], marker="o", ms=3, lw=1.6, label=f"r = {rank}")
    axes.set_xlabel("step")
    axes.grid(color=GRID, lw=0.8)
    panels.bare(axes)


draw(2, 2.9, curves)

# %% [markdown]
# **Learning curves.** Across: the step. Up, on the left: the loss of the validation part, each rank at
# its best rate, mean over seeds. All lines start from the frozen base, as B is zero, and fall apart
# later. On the right: the loss of the step's own batch, less that of r = 1 on the same batch. That
# loss by itself goes up and down by half a nat, since 64 bytes are a small sample; but units of one
# seed see the same batches in the same order, and the difference has most of that noise taken out. What
# is left of it still hides how the ranks differ, which the left side shows.
# Both are drawn from the `metrics.jsonl` of the units.
#
# To be distrusted: the curves still fall at the end. With a cosine schedule the last steps are slow
# by design, which looks like convergence and is not.

# %% [markdown]
# ## What the updates look like
#
# From here on: one seed, each rank at its best rate, and analyses of `lorax.analysis`, which take an
# adapter and what it has learnt. `python -m experiments.analyse --sweep=DIR --workdir=OUT` writes them
# all as a report.

# %%
from lorax.analysis.amplification import amplification
from lorax.analysis.spectra import spectra
from lorax.analysis.subspaces import first_delta, similarity
from lorax.io.checkpoint import load_adapter


def learnt(rank, seed=0):
    """(adapter, delta, the delta before the first step)."""
    row = next(row for row in best[rank].rows if row["point"]["seed"] == seed)
    adapter, delta = load_adapter(folder(work / "ranks", row["unit"]) / "adapter")
    return adapter, delta, first_delta(adapter, jax.random.key(seed), delta)


def layers(found, kind, value):
    """`value` of every layer's matrix of a kind, "query" say, as rows."""
    return np.concatenate([value(one) for path, one in found.items() if f"/{kind}/" in path])


def logarithmic(axes):
    """Up: powers of ten."""
    axes.set_yscale("log")
    panels.ticks(axes.yaxis, [10.0**n for n in range(-4, 4)])


KINDS = ("query", "value")


def spectrum(axes, number):
    for rank in best:
        adapter, delta, _ = learnt(rank)
        values = layers(spectra(adapter, delta), KINDS[number], lambda one: one.values)
        x = np.arange(1, values.shape[1] + 1)
        axes.plot(x, values.mean(0), color=shades[rank], marker="o", ms=3, lw=1.6, label=f"r = {rank}")
    panels.dress(axes, f"singular values of ΔW, {KINDS[number]}", "number of the direction", list(best))
    logarithmic(axes)


draw(2, 3.0, spectrum)

for rank in best:
    adapter, delta, _ = learnt(rank)
    found = spectra(adapter, delta)
    said_ = [f"{kind} {layers(found, kind, lambda one: one.effective_rank).mean():5.1f}" for kind in KINDS]
    print(f"r = {rank:2}   effective rank   {'   '.join(said_)}")

# %% [markdown]
# **Singular spectra of the update.** Across: the singular values of $\Delta W$ in descending order,
# both axes logarithmic. Up: their size, scale included, mean over the three layers; on the left the
# query matrices, on the right the value matrices. A line that falls steeply says that a few directions
# carry the update, whatever the rank; a flat one that all are in use. The effective rank below is
# the exponential of the entropy of the values: 1 for one direction, r for r equal ones.
#
# The paper argues from similarity that few directions matter. Here, look first at where the lines end: a
# line of rank r has r points, and where its last point is much lower than its first the adapter has
# rank to spare.
#
# Why to distrust it: A starts as a random matrix and moves by at most about rate × steps in each entry, so
# much of the tail of a large rank is the first draw, carried into $\Delta W$ by what B has learnt. A
# full spectrum does not show that all directions are useful. Nor are lines of different rank
# comparable in height: their scales $16 / r$ and their best rates may differ.

# %%
from experiments.figures.similarity import Shared
from experiments.figures.similarity import draw as draw_similarity


def shared(kind, one, other):
    """φ of the A's of two runs, trained and at initialisation."""
    trained = similarity(one[0], one[1], other[0], other[1])
    start = similarity(one[0], one[2], other[0], other[2])
    phi = lambda found: layers(found, kind, lambda one: one.phi)
    dimension = next(one.dimension for path, one in trained.items() if f"/{kind}/" in path)
    return Shared(kind, dimension, phi(trained), phi(start))


between_ranks = [shared(kind, learnt(8), learnt(32)) for kind in KINDS]
show(draw_similarity("ranks", between_ranks, "r = 8", "r = 32")[0])

# %% [markdown]
# **Subspace similarity between ranks**, the paper's figure 3. $\varphi(i, j)$ compares the span of the
# first $i$ directions of one run's A with the first $j$ of the other's: 1 where one contains the other,
# 0 where they are orthogonal. The maps have $i$ of the run with r = 8 downwards and $j$ of the run with
# r = 32 across: trained, before the first step, and what independent subspaces share by chance. On the
# right is the line $i = j$; bands are the range over layers. Read off how far *trained* lies above
# *both* others. That alone has been learnt.
#
# The paper, with r = 8 and 64 in GPT-3, finds that the first direction is shared, $\varphi > 0.5$, and
# little beyond it, and concludes that one direction does most of the work.
#
# Here, too, more is shared than by chance, and most by the first direction: about 0.5 for the query.
#
# Why to distrust it: chance is $\max(i, j) / n$, and $n$ is 96, not 12,288. The right edge of every map
# is brighter because 32 directions are a third of the space, which says nothing. The bands are wide, so
# one layer is not like another; and with another base and text the first direction of the query had
# 0.3, less than the next ones. The two A's are different draws, so *at initialisation* lies at chance;
# but both runs saw the same batches in the same order, and what they share may come from those. The
# next picture tells how much.

# %%
between_seeds = [shared(kind, learnt(8, 0), learnt(8, 1)) for kind in KINDS]
show(draw_similarity("seeds", between_seeds, "seed 0", "seed 1")[0])

# %% [markdown]
# **Subspace similarity between seeds**, the paper's figure 4, at r = 8 (the paper has r = 64): axes as
# above; the two runs differ in the first draw and in the order of the data. Directions that both find are
# asked for by the task; the rest is where each run happened to start, and what it happened to see. The
# paper finds more common directions for the query than for the value matrices.
#
# Here two seeds share less than the two ranks above, although their ranks are equal: a good part of what
# those had in common was the order of the data, not the task. After 200 small batches that is no
# surprise. Two runs of one rank from *one* first draw would look alike from the first step on, and
# similarity would measure how little A has moved; the second column is there to tell.

# %%
table = ["| r | ‖ΔW‖ | ‖UᵀWV‖, U V of ΔW | of W | random | expected random | factor |", "|--:" * 7 + "|"]
factors = {kind: {} for kind in KINDS}
for rank in best:
    adapter, delta, _ = learnt(rank)
    found = amplification(adapter, base, delta)
    for kind in KINDS:
        factors[kind][rank] = layers(found, kind, lambda one: one.factor)
    names = ("update", "from_update", "from_weight", "from_random", "expected_from_random", "factor")
    values = [np.median(layers(found, "query", lambda one: getattr(one, name))) for name in names]
    table.append("| " + " | ".join([str(rank), *(f"{value:.3g}" for value in values)]) + " |")
display(Markdown("\n".join(["Query matrices, median of three layers:", "", *table])))


def amplified(axes, number):
    kind = KINDS[number]
    found = factors[kind]
    for i in range(3):
        label = "one layer" if not i else None
        axes.plot(
            list(found), [f[i] for f in found.values()], color=SERIES[0], lw=0.8, alpha=0.5, label=label
        )
    axes.plot(
        list(found), [np.median(f) for f in found.values()], color=SERIES[0], marker="o", ms=5, label="median"
    )
    axes.axhline(1, color=MUTED, ls=(0, (1, 1.5)), lw=1.2, label="as large as in W")
    panels.dress(axes, f"amplification factor, {kind}", "rank r", list(found))
    logarithmic(axes)


draw(2, 2.9, amplified)

# %% [markdown]
# **Amplification**, the paper's table 7 and section 7.3. U and V are the first r singular vectors of
# each side of a matrix, and $\|U^T W V\|$ is how much of W lies in their directions: those of
# $\Delta W$, of W itself, and of a random matrix. If the update repeated what W already does, the first
# of the three columns would be near the second; if it knew nothing of W, near the third, whose
# expected value $\|W\| r / \sqrt{mn}$ stands beside it. The factor $\|\Delta W\| / \|U^T W V\|$, drawn
# below the table, says how much larger those directions are in the update than in W. Across: the
# rank. Up: the factor; thin lines are layers.
#
# The paper has 21.5 at r = 4 and about 2 at r = 64, for a query matrix of GPT-3, with a first column
# (0.32 at r = 4) far above the random one (0.02): few directions, which W has but does not stress, are
# raised a lot. Here the factor falls with the rank too, but the first column is about as large as the
# random one: these directions are new to W.
#
# Why to distrust it: a part of the fall with rank is arithmetic. As r grows U and V span more of the
# space, $\|U^T W V\|$ grows for any update at all, a random one like r, and here it must reach
# $\|W\|$ at r = 96. $\|\Delta W\|$ depends on rate, scale and number of steps, so the height of the line
# is a property of the training as much as of the task. And this W, after 250 steps, has
# little that it stresses itself; and at r = 1 a factor is one number over another that may be near 0 by
# accident, hence medians.

# %% [markdown]
# ## What this shows
#
# That the tools work, and how each plot is read. Not what rank a model needs: for that take the model
# and the task in question, more seeds, rates close enough for the best to lie inside the grid, and
# enough steps. `configs/stories260k_ranks.py` is a larger example, `configs/rank_sweep.py` the
# paper's own.

# %%
mine, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
used = sum(one.ru_utime + one.ru_stime for one in (mine, children))
print(f"This notebook took {time.perf_counter() - begun:.0f} s, and {used:.0f} s of CPU time.")

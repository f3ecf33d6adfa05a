"""E2E restaurant descriptions from GPT-2 medium under LoRA, as in table 3 of the LoRA paper.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/e2e_gpt2_medium.py --workdir=runs/e2e
    ... --config=configs/e2e_gpt2_medium.py:full       # or :bitfit, with rates of their own
    ... --config=configs/e2e_gpt2_medium.py:tiny       # no weights needed
    ... --config=configs/e2e_gpt2_medium.py:smoke --config.data.format=e2e \
        --config.data.train=e2e_nlg/train.txt.xz       # two steps on real lines

Cost: not measured here. Analytic: 26,290 updates of 8 lines, 1.1e7 tokens at 4 x 355M products and
sums each, 1.6e16 in all, besides padding; then 630 prompts with ten beams. `tiny`: 12 minutes of
CPU time with jax 0.10.2, so 6 to 8 on two idle cores; 20 with three times as much other work.

Expected: BLEU 70.4 +- 0.1, NIST 8.85, METEOR 46.8, ROUGE-L 71.8, CIDEr 2.53, mean of 3 seeds at the
best epoch; full fine-tuning 68.2 BLEU (copied there from earlier work). These are numbers of the
official scorer, for which the run writes its two files; `test/bleu` is sacrebleu's and another
number.

`tiny` has no published figure. It measured BLEU 72.2 on the 547 meanings of the validation lines
(sacrebleu 2.6.0, 13a; one seed) at 1.385 nats a token; 67.2 on the 630 of the test lines, greedily
66.8. 957,184 parameters learn the phrases of the training lines and which name goes where, and
leave out what people often leave out. Records: experiments/reports/e2e_tiny.

Source: Hu et al., arXiv:2106.09685, table 3 and, for hyper-parameters, table 11; what the table
leaves open (clip 0, 64 new tokens) is as in the authors' command, github.com/microsoft/LoRA.

Needs: the lines of that repository (42,061 / 4,672 / 4,693) as LORAX_DATA/e2e_nlg/{train,valid,
test}.txt.xz, and openai-community/gpt2-medium from the Hugging Face Hub, or --config.model.source=
a directory that holds it.

What differs, and what is open:
 - The paper adapts query and value, 4 ranks each, by two pairs. GPT-2 keeps query, key and value in
   one matrix, which lorax adapts as a whole: one pair of rank 4, so the three share A, and the key
   moves too. The count is the same, 393,216; the paper prints 0.35M, which its formula is not.
 - Between a meaning and its text stands `||`, as in the files; the authors put GPT-2's end-of-text.
 - Length penalty 0.9 as in table 11; the authors' command has 0.8.
 - `dropout` of table 11 is read as LoRA's own, as in that command; the model's is 0.
 - Lines are batched by length (none is above 132 tokens); the authors pad all to 512.
 - A starts uniform, as in the authors' code; the paper's text says Gaussian.
 - `full`: 5e-5, Li and Liang's rate for E2E (arXiv:2101.00190). `bitfit`: 8 times LoRA's rate, the
   ratio of table 12 for GPT-3; nobody published one for this model.
"""

from ml_collections import ConfigDict

from configs._e2e import page


def get_config(arg: str = "") -> ConfigDict:
    """The run of the paper; words: full, bitfit, tiny, smoke."""
    return page(arg, "medium")

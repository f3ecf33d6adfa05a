"""E2E restaurant descriptions from GPT-2 large under LoRA, as in table 3 of the LoRA paper.

Command:

    export LORAX_DATA=...
    python -m experiments.train --config=configs/e2e_gpt2_large.py --workdir=runs/e2e
    ... --config=configs/e2e_gpt2_large.py:full        # or :bitfit, :tiny, :smoke

Cost: not measured here. Analytic: 26,290 updates of 8 lines, 1.1e7 tokens at 4 x 774M products and
sums each, 3.4e16 in all, besides padding; then 630 prompts with ten beams.

Expected: BLEU 70.4 +- 0.1, NIST 8.89, METEOR 46.8, ROUGE-L 72.0, CIDEr 2.47, mean of 3 seeds at the
best epoch, by the official scorer; full fine-tuning 68.5 BLEU (copied there from earlier work).

Source: Hu et al., arXiv:2106.09685, tables 3 and 11. All else is as in e2e_gpt2_medium.py: data,
hyper-parameters, what differs from the paper and what is open. Trainable: 737,280, by the paper's
own formula too, which prints 0.77M.

Needs: the same data, and openai-community/gpt2-large from the Hugging Face Hub.
"""

from ml_collections import ConfigDict

from configs._e2e import page


def get_config(arg: str = "") -> ConfigDict:
    """The run of the paper; words: full, bitfit, tiny, smoke."""
    return page(arg, "large")

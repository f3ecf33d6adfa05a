"""Evaluation: how good is what was learnt? Scores, losses of held-out data, decoded texts.

from lorax.evaluation.language import make_evaluate_language

evaluate = make_evaluate_language(lorax.adapt(model.apply, adapter))
evaluate(batches, base, delta)      # {"loss": …, "perplexity": …, "tokens": …}

Imports core, data and generation; scikit-learn, sacrebleu and lm-eval only where they are used.
"""

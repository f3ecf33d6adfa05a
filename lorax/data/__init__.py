"""Data: files in, batches out. Imports core's errors and numpy; grain where it reads ahead.

from lorax.data.encode import encode
from lorax.data.order import Shuffled
from lorax.data.pipeline import Pipeline
from lorax.data.read import read

records = read("jsonl", "reviews/*.jsonl.gz", task="classification")
examples = encode(records.rows, tokenizer, task="classification", length=128).examples
order = Shuffled(examples=len(examples), batch=16, seed=1, tokens=128)
pipeline = Pipeline(examples, order, pad=tokenizer.pad or 0)
batch = pipeline[7]  # any step, or: for batch in pipeline.batches(start=7)
"""

"""The parts of the quickstart: texts, pre-training and adaptation, table, samples."""

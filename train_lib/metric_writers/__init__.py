"""Where the records of a run go: metrics.jsonl, TensorBoard events, Trackio, and any other logger.

`interface.MetricWriter` is what every writer implements. docs/training.md has an example.
"""

"""The bug bench: what people really get wrong between training and device, injected one at a time where it would happen.

`base` says what a bug is, `site` what an injection works with, `stage` fits and exports what all start from; every other
module holds the bugs of one place. docs/explanation/bug-bench.md says how it is measured and how to add one.
"""

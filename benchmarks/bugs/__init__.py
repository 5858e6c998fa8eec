"""The bug bench: mistakes that people make between training and device, injected one at a time at their real place.

`change` defines a bug and its outcome, `deployment` holds the folder that an injection alters, `workspace` fits and exports
the common detectors. The modules `*_bugs` hold the bugs of one place each, `harmless_changes` the changes that must pass.
docs/explanation/bug-bench.md says how the bench measures and how to add a bug.
"""

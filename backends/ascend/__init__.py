"""OM variants on Ascend inference cards through pyACL, CANN's Python interface (module `acl`).

Written against the documented interface and run on the simulator in `backends.simulators` alone; docs/reference/ascend.md lists
every call with the evidence for it.
"""

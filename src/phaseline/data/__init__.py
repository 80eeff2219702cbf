"""Data: sources, preparation into a cache, order as a function of position, batches.

`preparation` imports no torch; `phase_data` does. So nothing is re-exported here.
"""

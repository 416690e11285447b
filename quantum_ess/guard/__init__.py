"""The guard: activates by itself when what the operator configured has come true.

condition and configcheck: the configuration; rules: compiled, what the guard reads; evaluate: pure
decisions; *source: where values come from; service: the loop, with sources, which read for it, and
actions, which it takes; state: what others see of it; veto: what it says to a deactivation.
"""

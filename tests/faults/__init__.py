"""The fault matrix: what is broken, by which trigger ESS is asked, and what must hold all the same.

A package, so that its conftest is not taken for the one above it.
"""

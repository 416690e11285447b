"""Tests of the package as the archive would test it: `make test-packaging`."""

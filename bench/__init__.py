"""Benchmarks. They compare with the plain tools in the same run, because figures depend on the machine."""

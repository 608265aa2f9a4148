"""Measurements beside the plain tools, in one run, as ratios: these figures depend on the machine."""

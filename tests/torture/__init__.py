"""Proves with the real program that no bill is lost, doubled or wrong, whatever dies. CONTRIBUTING.md says
how to run it; oracle.py says what is judged."""

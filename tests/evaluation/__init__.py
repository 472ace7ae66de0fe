"""Tests of vggfast.evaluation and of the command vggfast.evaluate."""

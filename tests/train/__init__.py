"""Tests of vggfast.train, the engine and the data sets."""

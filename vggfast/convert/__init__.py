"""Weights from one program's file to another's: the command ``python -m vggfast.convert``.

What reads and writes them is :mod:`vggfast.weights`.
"""

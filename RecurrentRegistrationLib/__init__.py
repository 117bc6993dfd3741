"""Deformable medical image registration that refines step by step."""

__version__ = "0.1.0"

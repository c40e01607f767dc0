"""Weights from other runs and frameworks, and the file of --mode=export."""

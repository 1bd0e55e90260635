"""Synthetic faces with exact truth: `aboutface data synth faces`. Imports nothing heavy."""

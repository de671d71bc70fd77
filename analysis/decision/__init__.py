"""Decisions: which units stay under a budget, and what accuracy that predicts."""

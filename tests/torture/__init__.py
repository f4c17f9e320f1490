"""Kills and damages, by class: ``make torture``."""

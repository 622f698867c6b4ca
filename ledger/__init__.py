"""The write side: somebody asks, a pure rule decides, a fact is kept for good.

Nothing in here knows a figure (`projections`) or HTTP (`api`); a test walks the imports.
"""

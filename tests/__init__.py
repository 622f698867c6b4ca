"""Tests read as sentences about behaviour; real SQLite and real PostgreSQL, no mocks of our own code."""

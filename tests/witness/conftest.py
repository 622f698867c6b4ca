"""Ledgers to be signed, and Go's own packages, as the tests of signer and checkpoints have them."""

from tests.checkpoint.test_go import go
from tests.signer.conftest import site, sqlite_site

__all__ = ["go", "site", "sqlite_site"]

"""How fast the ledger is, beside the eventsourcing package's own recorders on the same databases in the same run."""

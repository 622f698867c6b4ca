"""The edges: HTTP, the command line and the demonstration county."""

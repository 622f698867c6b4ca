"""The read side: every figure is one SELECT over facts, the same one live, rebuilt, as-of and explained."""

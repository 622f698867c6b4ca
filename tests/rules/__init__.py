"""The rules by themselves: facts in, a command, facts or a refusal out. No database, no clock."""

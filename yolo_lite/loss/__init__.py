"""Target assignment and losses: pure functions."""

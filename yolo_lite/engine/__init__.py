"""The loops and what outlives one step."""

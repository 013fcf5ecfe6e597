"""A user's own training loop, held so that it trains as a member of a population."""

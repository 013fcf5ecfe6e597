"""Scaling laws on real measurements and on made-up ones: what is found, how far it holds, how fast."""

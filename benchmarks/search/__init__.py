"""Searches for the best configuration, side by side on tables of real training and on functions, by a virtual clock."""

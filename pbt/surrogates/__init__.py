"""Models of what training brings, fitted to what has been seen: they tell strategies where to try next.

Its modules load torch: strategies import them where they ask a model.
"""

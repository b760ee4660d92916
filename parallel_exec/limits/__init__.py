"""How many tasks may run now: the decision (rules) apart from its enforcement (limiters)."""

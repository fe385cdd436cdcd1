"""Changes of the weights: online steps, consolidation, and what a new member of a group starts from."""

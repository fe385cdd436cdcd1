"""Changes of the weights: online steps, consolidation, distillation."""

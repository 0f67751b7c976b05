"""Which samples to label: strategies over scores, features and probabilities; tensors only."""

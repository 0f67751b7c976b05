"""Loss norms, products with directions and sketches: their cost, and how far sketches are off."""

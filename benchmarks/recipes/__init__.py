"""What gradients of labelled samples are good for, on scikit-learn's digits: four recipes."""

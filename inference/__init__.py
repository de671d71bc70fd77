"""SVI, training and fine-tuning, evaluation, and the data that they read."""

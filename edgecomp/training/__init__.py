"""Fine-tuning: one loop for every technique. The modules here are imported by the TensorFlow worker only."""

"""Channels of a tf_keras model: which belong together, what each is worth, and the model without some of them."""

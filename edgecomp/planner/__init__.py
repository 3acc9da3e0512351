"""From a budget to recipes: which families of them help, how strong they must be, which are worth training."""

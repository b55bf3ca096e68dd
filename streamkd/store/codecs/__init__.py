"""How logits become bytes of the store, and back."""

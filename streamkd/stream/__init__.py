"""Images and stored logits, joined by key, in any order, by the batch."""

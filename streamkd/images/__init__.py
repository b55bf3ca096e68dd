"""From what is on disk to pixels: listing, decoding, the content digest."""

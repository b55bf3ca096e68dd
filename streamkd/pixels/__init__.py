"""The bytes of files become pixels."""

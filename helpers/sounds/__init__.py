"""The sounds that the embedded model knows: how they are made, and what they are called."""

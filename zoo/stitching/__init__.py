"""What connects two blocks: adapters, and their weights in closed form."""

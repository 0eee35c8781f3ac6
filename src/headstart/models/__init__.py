"""Parts of a network and how to rebuild them."""

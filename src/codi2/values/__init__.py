"""Arrays and pictures of any kind → the pixels and samples of a prompt's parts."""

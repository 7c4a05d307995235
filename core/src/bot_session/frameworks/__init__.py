"""One module for each bot framework; each needs that framework, and the extra of its name installs it."""

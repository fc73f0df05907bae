"""From a request to the key in it: what it says, who speaks, what its upstream wants."""

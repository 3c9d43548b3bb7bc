"""A folder for the device: the network, an example without torch, and a page that runs it in the browser."""

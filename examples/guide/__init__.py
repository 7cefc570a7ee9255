"""The programs of a web framework's guide to background tasks; README.md lists them."""

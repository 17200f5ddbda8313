"""Charts drawn here by matplotlib, with exact boxes of what answers rest on (`pip install -e '.[charts]'`)."""

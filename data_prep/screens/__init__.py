"""Screens drawn here, with exact boxes and verified thoughts: the data of the quickstart."""

"""Web pages rendered in a headless Chromium: what can be seen and used on them, and instructions for it."""

"""One click, or several: GUI elements, places and things to point at."""

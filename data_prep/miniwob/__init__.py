"""MiniWoB++: live pages, searched for the element that they reward."""

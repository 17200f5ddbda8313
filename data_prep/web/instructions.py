"""Instructions for an element of a screen, in three forms, each true of that element and of no other on the screen.

functional   what it is for            Type into the field "Email".
visual       what it looks like        Click the blue button that says "Save".
positional   where it is               Click the second link from the left in the row of "Home".
"""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.screens.appearance import color_name, ninth
from data_prep.web.harvest import WebElement

FORMS = ("functional", "visual", "positional")
LONGEST_NAME = 60  # characters; longer names are paragraphs, not names
ACTIONS = {
    "button": 'Press the button "{}"',
    "link": 'Follow the link "{}"',
    "textbox": 'Type into the field "{}"',
    "searchbox": 'Search with the field "{}"',
    "spinbutton": 'Change the number "{}"',
    "checkbox": 'Tick or untick "{}"',
    "radio": 'Choose the option "{}"',
    "switch": 'Turn the switch "{}"',
    "combobox": 'Open the drop-down list "{}"',
    "listbox": 'Use the list "{}"',
    "option": 'Choose "{}" from the list',
    "slider": 'Move the slider "{}"',
    "tab": 'Go to the tab "{}"',
    "menuitem": 'Choose the menu entry "{}"',
    "menuitemcheckbox": 'Choose the menu entry "{}"',
    "menuitemradio": 'Choose the menu entry "{}"',
    "treeitem": 'Select "{}" in the tree',
    "DisclosureTriangle": 'Open or close the section "{}"',
    "heading": 'Find the heading "{}"',
    "image": 'Find the picture of "{}"',
    "img": 'Find the picture of "{}"',
}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def write(element: WebElement, elements: Sequence[WebElement], width: int, height: int) -> dict[str, str]:
    """The instructions that can be given for `element`: form -> words.

    Args:
        elements: all of the screen, `element` among them.
        width, height: of the viewport, CSS pixels.

    Returns:
        Only forms in which the words fit no other of `elements`; possibly none.
    """
    forms = {
        "functional": _functional(element, elements),
        "visual": _visual(element, elements),
        "positional": _positional(element, elements, width, height),
    }
    return {form: words for form, words in forms.items() if words}


def _named(element: WebElement) -> bool:
    return 0 < len(element.name) <= LONGEST_NAME


def _functional(element: WebElement, elements: Sequence[WebElement]) -> str:
    if not _named(element):
        return ""
    alike = [e for e in elements if e.kind == element.kind and e.name.casefold() == element.name.casefold()]
    return ACTIONS[element.role].format(element.name) + "." if len(alike) == 1 else ""


def looks(element: WebElement) -> tuple[str, str]:
    """(adjectives and kind, words drawn in it): "blue button", "Save"."""
    color = color_name(element.fill) if element.fill is not None else ""
    if element.picture and not element.text:
        kind = "picture" if element.kind == "picture" else f"icon {element.kind}"
    else:
        kind = element.kind
        if not color and element.text and color_name(element.ink) not in ("black", "grey", "white", ""):
            return f"{kind} in {color_name(element.ink)} letters", element.text
    return f"{color} {kind}".strip(), element.text


def _visual(element: WebElement, elements: Sequence[WebElement]) -> str:
    kind, words = looks(element)
    alike = [looks(e) for e in elements if e is not element]
    if words and len(words) <= LONGEST_NAME and (kind, words) not in alike:
        return f'Click the {kind} that says "{words}".'
    plain = kind == element.kind  # "the button" alone is no description of looks
    return "" if plain or any(other == kind for other, _ in alike) else f"Click the {kind}."


def _positional(element: WebElement, elements: Sequence[WebElement], width: int, height: int) -> str:
    kin = [e for e in elements if e.kind == element.kind]
    place = place_of(element, width, height)
    if sum(place_of(e, width, height) == place for e in kin) == 1:
        return f"Click the {element.kind} at the {place} of the screen."
    lines = ((_row(element, kin), "from the left in the row"), (_column(element, kin), "from the top in the column"))
    for line, words in lines:
        beside = _anchor(line, element, elements)
        if 1 < len(line) <= len(ORDINALS) and beside:
            return f"Click the {ORDINALS[line.index(element)]} {element.kind} {words} of {beside}."
    return ""


def place_of(element: WebElement, width: int, height: int) -> str:
    """The ninth of the screen its middle lies in."""
    x, y = element.center
    return ninth(3 * x / width, 3 * y / height)


def _row(element: WebElement, kin: Sequence[WebElement]) -> list[WebElement]:
    """Those of its kind on its line, left to right."""
    same = [e for e in kin if abs(e.center[1] - element.center[1]) <= 0.3 * (element.box[3] - element.box[1])]
    return sorted(same, key=lambda e: e.box[0])


def _column(element: WebElement, kin: Sequence[WebElement]) -> list[WebElement]:
    """Those of its kind with its left edge, top to bottom."""
    return sorted((e for e in kin if abs(e.box[0] - element.box[0]) <= 2), key=lambda e: e.box[1])


def _anchor(line: Sequence[WebElement], element: WebElement, elements: Sequence[WebElement]) -> str:
    """What tells this row or column from others: the name of another member that is on the screen once, quoted."""
    for other in line:
        if other is not element and _named(other) and sum(e.name == other.name for e in elements) == 1:
            return f'"{other.name}"'
    return ""

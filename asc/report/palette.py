"""Colors of the plots and the page, on a light and on a dark background."""

LIGHT = {
    "paper": "#fdfdfc",  # background
    "panel": "#f1f2f0",  # behind headings of tables
    "ink": "#1d2025",  # text
    "muted": "#565c66",  # captions, axes
    "rule": "#c9ccd1",  # lines of tables and grids
    "link": "#0a57a4",
    "shade": "#86b9ea",  # of a confusion matrix's full cell, under ink
    "series1": "#0b65b0",
    "series2": "#bc4309",
    "series3": "#1a7d4e",
    "series4": "#8d4197",
    "series5": "#806203",
    "series6": "#03737d",
    "series7": "#b5265f",
    "series8": "#6d737c",
}
DARK = {
    "paper": "#16181c",
    "panel": "#22252b",
    "ink": "#e8e9eb",
    "muted": "#a9afb9",
    "rule": "#41464f",
    "link": "#8cc2f7",
    "shade": "#1f5c97",
    "series1": "#6ab4f2",
    "series2": "#f59563",
    "series3": "#5fcb93",
    "series4": "#d59ce1",
    "series5": "#dcbb4c",
    "series6": "#51c5d1",
    "series7": "#f48db4",
    "series8": "#aab0ba",
}
SERIES = [color for name, color in LIGHT.items() if name.startswith("series")]

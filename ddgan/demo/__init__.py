"""The web page on which a person paints strokes and sees pictures that follow them."""

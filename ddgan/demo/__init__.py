"""The web page on which a person paints strokes and sees images that follow them."""

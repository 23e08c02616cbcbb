"""An independent implementation that the library is compared with."""

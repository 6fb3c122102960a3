"""Work that waits: a photo is taken in now and coloured later, through the same weights as every live request."""

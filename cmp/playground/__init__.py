"""The playground: a page on this machine where arrows are drawn on an image, and the network predicts what moves.

`page` builds it, `server` serves it, `handlers` has what happens when somebody draws, and `methods` what the network is
compared with. `gate` decides which requests reach the library that draws the page, `sessions` has what is kept of
open pages, and `connections` bounds those that send nothing.
"""

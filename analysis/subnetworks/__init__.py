"""Sub-networks of given widths: a search among them, and a posterior over them.

A sub-network is a mask: which units of each site stay. Scores of single units cannot say how units
make up for each other; these look at whole masks, and move from one to the next by swaps.
"""

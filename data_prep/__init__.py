"""Make a pair store from a folder of videos: find videos, choose pairs, estimate flow, score it, write it."""
